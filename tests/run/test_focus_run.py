"""`--focus` and `--fill propagate` through the command: what the model sees, what comes back, what cannot leak."""

from __future__ import annotations

import json

import imageio.v3 as iio
import numpy as np
import pytest
from video_files import make

import inference
from hetcache.media.read import read_frames

COUNT, HEIGHT, WIDTH = 5, 320, 480


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A lossless clip of grey squares, the same with other pixels under the mask, and the mask."""
    folder = tmp_path_factory.mktemp("focus")
    rng = np.random.default_rng(0)
    frames = np.repeat(rng.integers(40, 200, (1, HEIGHT // 8, WIDTH // 8, 1), dtype=np.uint8), COUNT, 0)
    frames = frames.repeat(8, 1).repeat(8, 2).repeat(3, 3)
    mask = np.zeros((COUNT, HEIGHT, WIDTH), np.uint8)
    for index in range(COUNT):
        mask[index, 200:240, 40 + 24 * index : 64 + 24 * index] = 255
    other = frames.copy()
    other[mask > 0] = rng.integers(0, 256, ((mask > 0).sum(), 3))
    lossless = ("-c:v", "ffv1", "-pix_fmt", "bgr0")
    make(folder / "a.mkv", *lossless, frames=frames)
    make(folder / "b.mkv", *lossless, frames=other)
    masks = folder / "mask"
    masks.mkdir()
    for index, plane in enumerate(mask):
        iio.imwrite(masks / f"{index:02d}.png", plane)
    return folder


def edit(files, output, *words, video="a.mkv"):
    command = ["--video", files / video, "--mask", files / "mask", "--frames", COUNT, "--steps", 1, "--cfg-scale", 1]
    words = [*command, "--output", output, *words]
    assert inference.main([str(word) for word in words]) == 0
    return json.loads(output.with_suffix(".json").read_text())


def test_the_model_sees_a_box_and_the_whole_picture_comes_back(files, tmp_path, capsys):
    record = edit(files, tmp_path / "out.mp4", "--focus", "auto", "--save-raw")
    top, left, height, width = record["config"]["focus_box"]
    assert (height, width) == (record["config"]["height"], record["config"]["width"]) == (256, 384)
    assert "384x256 from" in capsys.readouterr().out
    assert read_frames(tmp_path / "out_raw.mp4").shape == (COUNT, 256, 384, 3)
    source, result = read_frames(files / "a.mkv"), read_frames(tmp_path / "out.mp4")
    assert result.shape == source.shape
    far = np.ones((HEIGHT, WIDTH), bool)
    far[190:250, 20:200] = False
    assert np.abs(result[:, far].astype(float) - source[:, far]).mean() < 2


def test_nothing_leaks_from_under_the_mask_into_the_models_answer(files, tmp_path):
    words = ("--focus", "auto", "--fill", "propagate", "--save-raw")
    edit(files, tmp_path / "a.mp4", *words)
    edit(files, tmp_path / "b.mp4", *words, video="b.mkv")
    assert (tmp_path / "a_raw.mp4").read_bytes() == (tmp_path / "b_raw.mp4").read_bytes()


def test_a_box_of_nearly_everything_is_seen_whole(files, capsys):
    words = ["--video", files / "a.mkv", "--mask", files / "mask", "--frames", COUNT, "--focus", 300, "--plan"]
    assert inference.main([str(word) for word in words]) == 0
    assert "the whole picture" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, message",
    [
        (["--focus", "sharp"], "neither auto, off nor a number of pixels"),
        (["--focus", "-1"], "--focus -1: auto, off or pixels"),
        (["--focus", "40", "--fit", "pad"], "--focus and --fit both say what the model sees"),
        (["--fill", "magic"], "--fill"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_line(files, words, message, capsys):
    try:
        code = inference.main(["--video", str(files / "a.mkv"), "--mask", str(files / "mask"), *words])
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
