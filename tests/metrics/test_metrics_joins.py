"""Joins of windows: steps, drift and loss that are known, and slow oracles in numpy."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from metrics_helpers import strict_json, write_lossless, write_mask
from numpy.typing import NDArray

pytest.importorskip("cv2", reason="pip install opencv-python-headless")
pytest.importorskip("skimage.color", reason="pip install scikit-image")

from hetcache.media.windows import Window, plan_windows  # noqa: E402
from hetcache.metrics.joins import JoinMeter  # noqa: E402

WINDOWS = [Window(0, 21, 0), Window(16, 21, 5), Window(32, 21, 5)]
NUM_FRAMES, HEIGHT, WIDTH = 53, 64, 80
Frames = NDArray[np.uint8]


def noise(amplitude: int = 4) -> Frames:
    rng = np.random.default_rng(0)
    return (100 + rng.integers(0, amplitude + 1, (NUM_FRAMES, HEIGHT, WIDTH, 3))).astype(np.uint8)


def hole() -> NDArray[np.bool_]:
    """A box that moves to and fro."""
    mask = np.zeros((NUM_FRAMES, HEIGHT, WIDTH), np.bool_)
    for index in range(NUM_FRAMES):
        left = 24 + index % 4
        mask[index, 16:48, left : left + 32] = True
    return mask


def meter_of(frames: Frames, mask: NDArray[np.bool_], windows: list[Window] = WINDOWS, step: int = 100) -> JoinMeter:
    meter = JoinMeter(windows)
    for start in range(0, len(frames), step):
        meter.update(frames[start : start + step], {"in_mask": mask[start : start + step]})
    return meter


def oracle_change(frames: Frames, mask: NDArray[np.bool_], t: int) -> float:
    found = [
        abs(int(frames[t + 1, y, x, c]) - int(frames[t, y, x, c]))
        for y in range(HEIGHT)
        for x in range(WIDTH)
        for c in range(3)
        if mask[t, y, x] and mask[t + 1, y, x]
    ]
    return sum(found) / len(found)


def test_the_ratio_is_that_of_the_definition() -> None:
    frames, mask = noise(), hole()
    frames[21:] += 9  # the first frame after the first overlap
    frames[37:] += 1
    changes = [oracle_change(frames, mask, t) for t in range(NUM_FRAMES - 1)]
    first, second = meter_of(frames, mask, step=7).joins()
    # The first overlap is frames 16 to 20, so its pairs begin at 15 to 20; the second's at 31 to 36.
    assert first.change == pytest.approx(max(changes[15:21]))
    assert first.usual == pytest.approx(max(changes[11:15] + changes[21:25]))
    assert second.change == pytest.approx(max(changes[31:37]))
    assert second.usual == pytest.approx(max(changes[27:31] + changes[37:41]))
    assert first.seam_ratio == pytest.approx(first.change / first.usual) and first.seam_ratio > 4
    assert second.seam_ratio < 1.3
    assert meter_of(frames, mask).result()["in_mask"]["seam_ratio"] == first.seam_ratio


def test_what_is_outside_the_mask_does_not_count() -> None:
    frames, mask = noise(), hole()
    want = meter_of(frames, mask).joins()
    poisoned = np.where(mask[..., None], frames, np.random.default_rng(1).integers(0, 256, frames.shape, np.uint8))
    assert meter_of(poisoned, mask).joins() == want
    drifts = [each.colour_drift_de for each in meter_of(poisoned, mask).holes()]
    assert drifts == [each.colour_drift_de for each in meter_of(frames, mask).holes()]
    assert [e.detail for e in meter_of(poisoned, mask).holes()] == [e.detail for e in meter_of(frames, mask).holes()]


def test_a_still_video_has_no_seam_and_a_single_step_an_infinite_one() -> None:
    frames, mask = np.full((NUM_FRAMES, HEIGHT, WIDTH, 3), 90, np.uint8), hole()
    assert [join.seam_ratio for join in meter_of(frames, mask).joins()] == [1, 1]
    frames[18:] += 5
    assert meter_of(frames, mask).joins()[0].seam_ratio == math.inf


def test_pairs_at_other_joins_are_no_neighbours() -> None:
    """The last window of a video may overlap more than the window before it."""
    windows = plan_windows(300, 33, 9)
    frames, mask = np.zeros((300, 32, 32, 3), np.uint8), np.ones((300, 32, 32), np.bool_)
    frames[255:267] += np.arange(0, 24, 2, dtype=np.uint8)[:, None, None, None]
    frames[267:] += 22
    frames[270:] += 20  # inside the overlaps of the last two windows
    *_, before, last = meter_of(frames, mask, windows).joins()
    assert (before.change, last.change) == (20, 20)
    assert before.usual == last.usual == 2


@pytest.mark.parametrize("windows", [[], [Window(0, 53, 0)]])
def test_without_joins_there_is_nothing_to_measure(windows: list[Window]) -> None:
    assert meter_of(noise(), hole(), windows).result() == {}
    meter = JoinMeter(WINDOWS)
    meter.update(noise(), {})
    assert meter.result() == {}


def test_an_empty_hole_has_no_figures() -> None:
    mask = hole()
    mask[14:] = False
    meter = meter_of(noise(), mask)
    assert [math.isnan(join.change) for join in meter.joins()] == [True, True]
    first, *others = meter.holes()
    assert first.colour_drift_de == 0 and first.detail > 0
    assert all(math.isnan(value) for hole in others for value in (hole.colour_drift_de, hole.detail))


def test_drift_of_the_hole_and_of_what_is_around_it() -> None:
    """Windows' new frames are 0-20, 21-36 and 37-52."""
    frames, mask = np.full((NUM_FRAMES, HEIGHT, WIDTH, 3), 120, np.uint8), hole()
    frames[21:][mask[21:]] += 8
    frames[37:][~mask[37:]] = 60
    zero, one, two = meter_of(frames, mask, step=9).holes()
    assert (zero.colour_drift_de, zero.surroundings_drift_de, one.surroundings_drift_de) == (0, 0, 0)
    # Greys: L* of 120 and 128 are 50.43 and 53.59; S_L is 1 + 0.015 (L-50)^2 / sqrt(20 + (L-50)^2) of their mean.
    grey = [116 * (((value / 255 + 0.055) / 1.055) ** 2.4) ** (1 / 3) - 16 for value in (120, 128)]
    middle = (sum(grey) / 2 - 50) ** 2
    want = (grey[1] - grey[0]) / (1 + 0.015 * middle / math.sqrt(20 + middle))
    assert one.colour_drift_de == pytest.approx(want, abs=0.02)
    assert two.colour_drift_de == one.colour_drift_de and two.surroundings_drift_de > 20


def test_the_colour_difference_is_the_published_one() -> None:
    """Pairs of Sharma, Wu and Dalal 2005, table 1: the library's formula is the one that the name promises."""
    from skimage.color import deltaE_ciede2000

    for a, b, want in (
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, -1.3802, -84.2814), (50, 0, -82.7485), 1.0),
        ((50, 2.5, 0), (50, 0, -2.5), 4.3065),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
        ((2.0776, 0.0795, -1.135), (0.9033, -0.0636, -0.5514), 0.9082),
    ):
        assert float(deltaE_ciede2000(a, b)) == pytest.approx(want, abs=1e-4)


def test_detail_is_what_a_gaussian_takes_away_inside() -> None:
    frames, mask = noise(20), hole()
    smooth = np.full_like(frames, 110)
    frames[21:] = (smooth[21:] + (frames[21:].astype(int) - 110) * 0.5).round().astype(np.uint8)
    frames[37:] = smooth[37:]
    zero, one, two = meter_of(frames, mask).holes()
    assert one.detail / zero.detail == pytest.approx(0.25, rel=0.1) and two.detail == 0
    assert zero.detail == pytest.approx(oracle_detail(frames, mask, range(0, 21)), rel=0.01)
    assert meter_of(frames, mask).result()["in_mask"]["detail_kept"] == 0


def oracle_detail(frames: Frames, mask: NDArray[np.bool_], which: range) -> float:
    """Luminance by BT.601, a Gaussian of 13 taps, pixels whose 13x13 neighbourhood is in the mask."""
    taps = np.exp(-0.5 * (np.arange(-6, 7) / 2.0) ** 2)
    kernel = np.outer(taps, taps) / taps.sum() ** 2
    squares = []
    for t in which:
        grey = np.rint(frames[t] @ np.array([0.299, 0.587, 0.114]))
        for y in range(6, HEIGHT - 6):
            for x in range(6, WIDTH - 6):
                if mask[t, y - 6 : y + 7, x - 6 : x + 7].all():
                    squares.append((grey[y, x] - (grey[y - 6 : y + 7, x - 6 : x + 7] * kernel).sum()) ** 2)
    return float(np.mean(squares))


def test_an_evaluation_reads_the_windows_from_the_record(quality, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    frames, mask = noise(), hole()
    frames[21:] += 12
    pred = write_lossless(tmp_path / "edit.mkv", frames)
    source = write_lossless(tmp_path / "source.mkv", noise())
    arguments = ("--gt", source, "--pred", pred, "--mask", write_mask(tmp_path / "m.mkv", mask), "--metrics", "joins")
    arguments = (*arguments, "--output", tmp_path / "r" / "r.json")
    code, out, err = quality(*arguments)
    assert code == 0, err
    assert "seam ratio" not in out
    windows = [{"window": {"start": w.start, "count": w.count, "known": w.known}} for w in WINDOWS]
    record = {"mode": "baseline", "outputs": {"video": "edit.mkv"}, "windows": windows}
    (tmp_path / "edit.json").write_text(json.dumps(record))
    code, out, err = quality(*arguments)
    assert code == 0, err
    assert "seam ratio" in out and "drift" in out and "(ref)" not in out
    figures = strict_json(tmp_path / "r" / "r.json")["per_video"][0]["metrics"]["in_mask"]
    assert figures["seam_ratio"] == pytest.approx(meter_of(frames, mask).joins()[0].seam_ratio, rel=0.02)
    assert figures["colour_drift"] > 3 and figures["detail_kept"] == pytest.approx(1, abs=0.05)
