"""The held-out protocol: the hole moves, touches no object, and the table says where a method falls behind."""

from __future__ import annotations

import numpy as np
import pytest

from scripts.measure.clean_plate import lpips_of
from scripts.measure.removal_protocol import (
    CLASSICAL,
    MOTIONS,
    OTHER_FRAMES,
    RUNS,
    camera,
    classical,
    hole_and_counted,
    movers,
    moving_hole,
    psnr_db,
    table,
)


@pytest.mark.parametrize("motion", MOTIONS)
def test_the_hole_moves_inside_the_picture_and_off_every_object(motion):
    objects = np.zeros((9, 120, 200), bool)
    objects[:, 50:60, 95:105] = True
    hole = moving_hole(objects, motion)
    assert hole is None or (not (hole & objects).any() and not (hole[0] == hole[-1 if motion != "circle" else 4]).all())
    free = moving_hole(np.zeros_like(objects), motion)
    assert len({int(frame.sum()) for frame in free}) == 1
    assert moving_hole(np.ones_like(objects), motion) is None


@pytest.mark.parametrize("name", CLASSICAL)
def test_the_classical_methods_change_the_hole_alone(name):
    rng = np.random.default_rng(0)
    frames = np.repeat(rng.integers(0, 256, (1, 64, 96, 3), dtype=np.uint8), 5, 0)
    hole = moving_hole(np.zeros(frames.shape[:3], bool), "across")
    result = classical(name, frames, hole)
    assert (result[~hole] == frames[~hole]).all() and (result[hole] != 0).any()
    assert psnr_db(frames, frames, hole) > 100


def test_a_camera_that_stands_still_is_told_from_one_that_pans():
    wide = np.random.default_rng(0).integers(0, 256, (16, 40, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    still = np.repeat(wide[None, :, :192], 5, 0)
    panned = np.stack([wide[:, 4 * index : 4 * index + 192] for index in range(5)])
    nothing = np.zeros(still.shape[:3], bool)
    assert (camera(still, nothing), camera(panned, nothing)) == ("still", "moving")


def test_what_moves_before_a_still_camera_is_found():
    frames = np.full((9, 64, 96, 3), 100, np.uint8)
    walker = np.zeros(frames.shape[:3], bool)
    for index in range(9):
        walker[index, 20:40, 8 * index : 8 * index + 8] = True
    frames[walker] = 160
    frames[4, 50, 50] = 255  # a speck
    assert (movers(frames) == walker).all()


def test_a_hole_may_go_where_others_walk_and_counts_where_nobody_is():
    walker = np.zeros((9, 120, 200), bool)
    walker[:, 50:70, 80:120] = True
    hole, counted = hole_and_counted(walker, "across", over_movers=True)
    assert (hole & walker).any() and (counted == (hole & ~walker)).all() and counted.any()
    around, same = hole_and_counted(walker, "across", over_movers=False)
    assert not (around & walker).any() and (around == same).all()
    assert hole_and_counted(np.ones_like(walker), "across", over_movers=True) is None


def test_a_table_of_some_methods_counts_the_rows_that_have_those():
    cells = [
        {"clip": clip, "camera": "still", "motion": "circle", "method": method, "psnr_db": psnr, "lpips": 0.5}
        for clip in "ab"
        for method, psnr in (("push-pull", 20.0), (OTHER_FRAMES, 19.0))
    ]
    text = table(cells, ["push-pull", OTHER_FRAMES])
    assert "| **all** (2) | 20.00 / 0.500 | 19.00 / 0.500 |" in text
    assert (
        "`other frames alone` against push-pull: at worst -1.00 dB (a, circle); more than 0.5 dB below it in 2" in text
    )


def test_the_table_averages_whole_rows_and_names_the_worst():
    cells = [
        {"clip": "a", "camera": "still", "motion": "drift", "method": method, "psnr_db": 20.0, "lpips": 0.5}
        for method in (*CLASSICAL, *RUNS)
    ]
    cells[-2]["psnr_db"] = 19.0
    half = [{**cells[0], "clip": "b"}]
    text = table(cells + half)
    assert "| **all** (1) | 20.00 / 0.500 |" in text and "| moving camera (0) | - |" in text
    assert "`now` against push-pull: at worst -1.00 dB (a, drift); more than 0.5 dB below it in 1 of 1." in text


class Meter:
    """Stands for LPIPS: the mean absolute difference."""

    def distances(self, a, b, regions):
        error = np.abs(a.astype(float) - b).mean(3)
        inside = [float(e[m].mean()) for e, m in zip(error, regions["mask"], strict=True)]
        return {"all": [float(e.mean()) for e in error], "mask": inside}


def test_lpips_is_taken_of_the_box_against_the_plate():
    source = np.full((2, 200, 200, 3), 50, np.uint8)
    mask = np.zeros(source.shape[:3], bool)
    mask[:, 90:110, 90:110] = True
    plate = np.full((200, 200, 3), 60, np.float32)
    plate[100, 100] = np.nan
    result = source.copy()
    result[mask] = 70
    found = lpips_of(Meter(), result, source, plate, mask)
    assert found["mask"] == pytest.approx(10 * 399 / 400)
    assert found["box"] == pytest.approx(10 * 399 / 84**2)
