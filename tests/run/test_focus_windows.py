"""A mask that wanders through a long video: each window has its own box, and they join pixel by pixel."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from long_runs import LOSSLESS
from video_files import make

import inference
from hetcache.media.focus import MaskExtent, focus_box, focus_boxes, snug_size
from hetcache.media.read import read_frames
from hetcache.media.source import Source
from hetcache.run import windows as long_run

NUM_FRAMES, HEIGHT, WIDTH, SIDE = 17, 96, 384, 16
COMMAND = (
    "--frames all --window 9 --overlap 5 --steps 1 --model tiny --mode baseline --focus-area mask --mask-feather 2 "
    "--fill propagate"
).split()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """v.mp4: a still picture; m.mp4: a small box that crosses it."""
    picture = np.kron(np.random.default_rng(0).integers(40, 200, (12, 48, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    masks = np.zeros((NUM_FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    for index, mask in enumerate(masks):
        mask[40 : 40 + SIDE, 56 + SIDE * index : 56 + SIDE * (index + 1)] = 255
    make(tmp_path / "v.mp4", *LOSSLESS, frames=np.repeat(picture[None], NUM_FRAMES, 0), rate=12)
    make(tmp_path / "m.mp4", *LOSSLESS, frames=masks, rate=12)
    return tmp_path


def run(folder: Path, *extra: str) -> int:
    files = [f"--{name}={folder / file}" for name, file in (("video", "v.mp4"), ("mask", "m.mp4"), ("output", "o.mp4"))]
    return inference.main([*COMMAND, *files, *extra])


def test_boxes_follow_the_mask_where_that_saves_pixels() -> None:
    def extent(left: int, width: int = 40) -> MaskExtent:
        return MaskExtent(100, 140, left, left + width, (480, 1280))

    still = [extent(300), extent(306), None]
    assert focus_boxes(still, snug_size, snug=True) == [focus_box(extent(300, 46), snug_size, snug=True)] * 3
    boxes = focus_boxes([None, extent(300), None, extent(900, 60)], snug_size, snug=True)
    assert len({box[2:] for box in boxes if box}) == 1
    assert boxes[0] == boxes[1] == boxes[2] != boxes[3]
    for box, mask in ((boxes[1], extent(300)), (boxes[3], extent(900, 60))):
        assert box is not None
        assert box[0] <= mask.top - 31 and box[0] + box[2] >= mask.bottom + 31
        assert box[1] <= mask.left - 31 and box[1] + box[3] >= mask.right + 31
    assert focus_boxes([None, None], snug_size) == [None, None]


def test_windows_go_on_from_each_others_pixels(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, Any]] = []
    real = long_run.edit_window

    def seen(*args: Any) -> Any:
        calls.append((args, real(*args)))
        return calls[-1][1]

    monkeypatch.setattr(long_run, "edit_window", seen)
    assert run(folder) == 0
    record = json.loads((folder / "o.json").read_text())
    boxes = [window["focus_box"] for window in record["windows"]]
    assert len({tuple(box) for box in boxes}) == 3 and len({tuple(box[2:]) for box in boxes}) == 1
    assert record["config"]["focus_box"] == boxes[0]
    assert [record["config"]["height"], record["config"]["width"]] == boxes[0][2:]
    for index, (args, _) in enumerate(calls[1:], 1):
        finished, shift = calls[index - 1][1][0], boxes[index][1] - boxes[index - 1][1]
        for place, frame in enumerate(args[4]):
            rows, columns = np.nonzero(args[3].mask_THW[place])
            # Windows begin four frames apart.
            assert len(rows) and np.array_equal(frame[rows, columns], finished[4 + place][rows, columns + shift])
    output, video = read_frames(folder / "o.mp4"), read_frames(folder / "v.mp4")
    assert np.abs(output.astype(int) - video).mean() < 6


def test_the_files_are_read_in_one_pass_wherever_the_box_goes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[int] = []
    real = Source.stream

    def counted(source: Source, start: int = 0) -> Any:
        starts.append(start)
        return real(source, start)

    monkeypatch.setattr(Source, "stream", counted)
    assert run(folder) == 0
    # The first window's fill before the run; then frames and fills of all windows.
    assert starts == [0, 0, 0]


def test_resume_goes_on_in_the_box_of_its_window(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = long_run.edit_window, []

    def stopping(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise OSError(errno.EIO, "stopped by the test")
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(long_run, "edit_window", stopping)
        assert run(folder) == 2
    assert run(folder, "--resume") == 0
    resumed = (folder / "o.mp4").read_bytes()
    assert run(folder) == 0
    assert (folder / "o.mp4").read_bytes() == resumed
