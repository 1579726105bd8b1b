"""Removing through the command: what is seen elsewhere, kept, grown, put back; and what happens in odd situations."""

from __future__ import annotations

import json

import imageio.v3 as iio
import numpy as np
import pytest
from video_files import make

import inference
from diffsynth_patches import backend
from hetcache.media.read import read_frames

COUNT, HEIGHT, WIDTH = 9, 96, 160
LOSSLESS = ("-c:v", "ffv1", "-pix_fmt", "bgr0")


def picture(seed=0, width=WIDTH):
    cells = np.random.default_rng(seed).integers(40, 210, (HEIGHT // 8, width // 8, 3), dtype=np.uint8)
    return cells.repeat(8, 0).repeat(8, 1)


def still(count=COUNT):
    return np.repeat(picture()[None], count, 0)


def box(count=COUNT, start=(40, 30), step=(0, 10), size=(24, 20)):
    mask = np.zeros((count, HEIGHT, WIDTH), np.uint8)
    for index in range(count):
        top, left = (max(first + by * index, 0) for first, by in zip(start, step, strict=True))
        mask[index, top : top + size[0], left : left + size[1]] = 255
    return mask


def edit(folder, frames, mask, *words, video="v.mkv", count=None):
    """(record, decoded output) of an edit of the first `count` frames."""
    make(folder / video, *LOSSLESS, frames=frames)
    masks = folder / "mask"
    masks.mkdir(exist_ok=True)
    for index, plane in enumerate(mask):
        iio.imwrite(masks / f"{index:02d}.png", plane)
    output = folder / f"{video}.out.mp4"
    command = ["--video", folder / video, "--mask", masks, "--frames", count or len(frames), "--steps", 1]
    command += ["--cfg-scale", 1, "--lossless", "--model", "tiny", "--output", output, *words]
    assert inference.main([str(word) for word in command]) == 0
    return json.loads(output.with_suffix(".json").read_text()), read_frames(output)


@pytest.fixture
def no_model(monkeypatch):
    def refuse(*_):
        raise AssertionError("the model was run")

    monkeypatch.setattr(backend, "run_edit", refuse)


def test_what_other_frames_show_is_said_before_the_run_and_in_its_record(tmp_path, capsys):
    record, _ = edit(tmp_path, still(), box())
    known = record["conditioning"]
    assert (known["fill"], known["seen_share"], known["kept_share"]) == ("propagate", 1, None)
    assert record["put_back"]["colour_shift"] > 0 and record["put_back"]["grain"] is None
    plan = capsys.readouterr().out
    assert "what other frames show (100%)" in plan and "colours matched to the surroundings, blended over" in plan


def test_what_other_frames_show_is_restored_where_the_edit_agrees(tmp_path, capsys):
    """One step of the model leaves a blur that has the colours of the background."""
    truth, mask = still(), box()
    words = ("--mask-feather", 0)
    with_it, restored = edit(tmp_path, truth, mask, *words)
    assert "restored where the edit agrees" in capsys.readouterr().out
    without, left = edit(tmp_path, truth, mask, *words, "--no-restore-seen")
    assert with_it["put_back"]["restored_share"] > 0.05 and without["put_back"]["restored_share"] is None
    assert "restored where the edit agrees" not in capsys.readouterr().out
    errors = [np.abs(each[mask > 0].astype(float) - truth[mask > 0]).mean() for each in (restored, left)]
    assert errors[0] < errors[1]
    assert (restored[mask == 0] == left[mask == 0]).all()


def test_with_nothing_left_to_invent_the_model_is_not_run(tmp_path, no_model, capsys):
    truth = still()
    hidden = truth.copy()
    hidden[box() > 0] = 255
    record, result = edit(tmp_path, hidden, box(), "--keep-seen", "--mask-feather", 0)
    assert "the model is not run" in record["note"] and record["conditioning"]["kept_share"] == 1
    assert "the model is not run" in capsys.readouterr().out
    assert np.abs(result.astype(int) - truth).max() <= 2


def test_what_is_kept_reaches_the_output_and_the_rest_is_made(tmp_path):
    """The hole stays over one half of where it has been: that half is never seen."""
    truth, mask = still(), box(step=(0, 0), size=(24, 40))
    mask[4:, :, 50:] = 0
    hidden = truth.copy()
    hidden[mask > 0] = 255
    record, result = edit(tmp_path, hidden, mask, "--keep-seen", "--mask-feather", 0)
    assert 0.2 < record["conditioning"]["kept_share"] < 0.5
    assert record["tokens"]["generative"] < record["tokens"]["total"] / 4
    assert np.abs(result[:4, 40:64, 60:70].astype(int) - truth[:4, 40:64, 60:70]).max() <= 3
    assert np.abs(result[mask == 0].astype(int) - truth[mask == 0]).max() <= 2
    assert (result[:, 48:56, 34:46] < 235).all()


def test_windows_keep_what_is_seen_too(tmp_path):
    truth = still(17)
    mask = box(17, step=(0, 6))
    hidden = truth.copy()
    hidden[mask > 0] = 255
    words = ("--keep-seen", "--window", 9, "--overlap", 5, "--mask-feather", 0)
    record, result = edit(tmp_path, hidden, mask, *words)
    assert len(record["windows"]) == 3
    assert all(window["skipped"] == "nothing is left to invent in its new frames" for window in record["windows"])
    assert np.abs(result.astype(int) - truth).max() <= 3


def test_windows_see_what_the_source_shows_beyond_them(tmp_path):
    mask = box(17, step=(0, 0))
    mask[15:] = 0
    record, _ = edit(tmp_path, still(17), mask, "--window", 9, "--overlap", 5)
    edited = [window for window in record["windows"] if "skipped" not in window]
    assert edited and all(window["conditioning"]["seen_share"] == 1 for window in edited)
    assert record["put_back"]["colour_shift"] > 0


def test_the_reach_goes_beyond_the_edited_frames(tmp_path):
    mask = box(COUNT, step=(0, 0))
    mask[6:] = 0
    far, _ = edit(tmp_path, still(), mask, count=5)
    near, _ = edit(tmp_path, still(), mask, "--fill-reach", 1, count=5)
    assert (far["conditioning"]["seen_share"], near["conditioning"]["seen_share"]) == (1, 0)


def test_a_removal_grows_the_mask_and_says_that_nothing_is_there(tmp_path):
    record, _ = edit(tmp_path, still(), box(), "--task", "remove", "--mask-shadow", 6)
    config = record["config"]
    assert (config["task"], config["fill"], config["mask_hull"], config["mask_dilate_px"]) == (
        "remove",
        "propagate",
        True,
        1,
    )
    asked, _ = edit(tmp_path, still(), box(), "--task", "remove", "--mask-dilate", 3, "--fill", "push_pull")
    assert (asked["config"]["mask_dilate_px"], asked["conditioning"]["fill"]) == (3, "push_pull")
    grown = record["mask"]["share_per_frame"][0] * HEIGHT * WIDTH
    assert 26 * 22 + 5 * 20 <= grown <= 26 * 22 + 6 * 22


def test_the_working_area_shrinks_with_the_mask(tmp_path):
    wide = np.repeat(np.concatenate([picture(), picture(1), picture(2)], 1).repeat(3, 0)[None], 5, 0)
    mask = np.zeros(wide.shape[:3], np.uint8)
    mask[:, 100:130, 200:220] = 255
    sizes = {}
    for words in ((), ("--focus-area", "mask"), ("--focus-area", "160x96")):
        record, result = edit(tmp_path, wide, mask, *words)
        sizes[words[1:]] = record["config"]["width"], record["config"]["height"], record["conditioning"]["scale"]
        assert result.shape == wide.shape
    assert sizes[()][2] == 1 and sizes[()][0] * sizes[()][1] > 80_000
    assert sizes[("mask",)] == (96, 96, 1)
    assert sizes[("160x96",)] == (160, 96, 1)


def test_an_asked_size_is_the_box_at_the_videos_own_pixels(tmp_path):
    record, _ = edit(tmp_path, still(5), box(5, step=(0, 2)), "--focus", 8, "--height", 64, "--width", 96)
    assert record["config"]["focus_box"][2:] == [64, 96] and record["conditioning"]["scale"] == 1


def panned():
    wide = picture(width=400)
    return np.stack([wide[:, 6 * index : 6 * index + WIDTH] for index in range(COUNT)])


def cut():
    return np.concatenate([still(5), np.repeat(picture(7)[None], 4, 0)])


def flashed():
    frames = still()
    frames[4] = (frames[4] * 1.2 + 8).clip(0, 255)
    return frames


LOGO = box(step=(0, 0))
SITUATIONS = {  # frames, mask, (least, most) that other frames show
    "a panning camera": (panned(), LOGO, (0.9, 1)),
    "a mask that never uncovers": (still(), LOGO, (0, 0)),
    "a cut in the middle": (cut(), np.concatenate([LOGO[:5], 0 * LOGO[5:]]), (0, 0)),
    "a flash of light": (flashed(), box(), (0.95, 1)),
    "one frame": (still(1), box(1), (0, 0)),
    "a mask at the border": (still(), box(start=(80, 0), step=(0, 8)), (0.9, 1)),
    "two far apart": (still(), box(step=(0, 3)) | box(start=(4, 130), step=(6, 0), size=(16, 12)), (0.4, 1)),
    "everything": (still(5), np.full((5, HEIGHT, WIDTH), 255, np.uint8), (0, 0)),
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_odd_situations_end_in_a_picture_and_nothing_leaks(situation, tmp_path):
    """What is under the mask, whatever it is, changes no bit of the output."""
    frames, mask, (least, most) = SITUATIONS[situation]
    poisoned = frames.copy()
    poisoned[mask > 0] = np.random.default_rng(3).integers(0, 256, ((mask > 0).sum(), 3))
    words = ("--regrain", "--mask-feather", 0, "--height", 48, "--width", 80)
    record, result = edit(tmp_path, frames, mask, *words)
    assert least <= record["conditioning"]["seen_share"] <= most
    assert result.shape == frames.shape
    assert np.abs(result[mask == 0].astype(int) - frames[mask == 0]).max(initial=0) <= 2
    _, again = edit(tmp_path, poisoned, mask, *words, video="poisoned.mkv")
    assert (result == again).all()


@pytest.mark.parametrize("situation", ["a panning camera", "a flash of light", "two far apart"])
def test_nothing_leaks_into_what_is_kept(situation, tmp_path):
    frames, mask, _ = SITUATIONS[situation]
    poisoned = frames.copy()
    poisoned[mask > 0] = 255 - poisoned[mask > 0]
    words = ("--keep-seen", "--mask-feather", 0, "--height", 48, "--width", 80)
    _, first = edit(tmp_path, frames, mask, *words)
    _, second = edit(tmp_path, poisoned, mask, *words, video="poisoned.mkv")
    assert (first == second).all()


@pytest.mark.parametrize(
    "words, message",
    [
        (["--keep-seen", "--fill", "grey"], "--keep-seen keeps what other frames show"),
        (["--focus-area", "small"], "neither native, mask nor WIDTHxHEIGHT"),
        (["--focus-area", "8x8"], "--focus-area 8x8: sides from 16"),
        (["--fill-reach", "-1"], "--fill-reach -1"),
        (["--mask-shadow", "-1"], "--mask-shadow -1"),
        (["--task", "erase"], "--task"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_line(words, message, capsys):
    try:
        code = inference.main(words)
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
