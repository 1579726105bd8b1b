"""The fill of a window comes from the whole source within reach, in one pass, and stops where the files do."""

from __future__ import annotations

import numpy as np
import pytest
from video_files import make

from hetcache.media.clip import take_clip
from hetcache.media.fill_reader import FillReader, going_on, without_kept
from hetcache.media.placement import Placement
from hetcache.media.propagate import Filled, propagate_fill
from hetcache.media.source import Source
from hetcache.media.windows import Window

COUNT, SIZE = 13, (64, 96)
LOSSLESS = ("-c:v", "ffv1", "-pix_fmt", "bgr0")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A still picture; the mask stands still for eight frames and is gone then; a second mask ends with frame 8."""
    folder = tmp_path_factory.mktemp("fill")
    picture = np.random.default_rng(0).integers(40, 210, (SIZE[0] // 4, SIZE[1] // 4, 3), dtype=np.uint8)
    frames = np.repeat(picture.repeat(4, 0).repeat(4, 1)[None], COUNT, 0)
    mask = np.zeros((COUNT, *SIZE, 3), np.uint8)
    mask[:8, 20:40, 30:50] = 255
    make(folder / "v.mkv", *LOSSLESS, frames=frames)
    make(folder / "m.mkv", *LOSSLESS, frames=mask)
    make(folder / "short.mkv", *LOSSLESS, frames=mask[:8])
    return folder, frames, mask[..., 0] > 0


def reader(files, reach, first=0, mask="m.mkv"):
    source = Source.open(files[0] / "v.mkv", files[0] / mask)
    return FillReader(source, Placement("stretch", SIZE, SIZE), reach, first)


def test_it_looks_beyond_the_window_and_no_further_than_the_reach(files):
    _, frames, mask = files
    with reader(files, 80) as far, reader(files, 3) as near:
        filled, nearby = far.read(Window(0, 5, 0)), near.read(Window(0, 5, 0))
    assert (filled.seen_THW[:, 25, 40] > 0.9).all() and (filled.frames_THWC == frames[:5]).all()
    assert filled.kept_THW[mask[:5]].all()
    assert (nearby.seen_THW[mask[:5]] == 0).all()


def test_windows_in_turn_are_what_each_alone_is(files):
    with reader(files, 4) as in_turn:
        found = [in_turn.read(window) for window in (Window(0, 5, 0), Window(4, 5, 1), Window(8, 5, 1))]
    for start, each in zip((0, 4, 8), found, strict=True):
        with reader(files, 4, start) as alone:
            again = alone.read(Window(start, 5, 1))
        for part in ("frames_THWC", "seen_THW", "mask_THW"):
            assert (getattr(each, part) == getattr(again, part)).all()


def test_windows_that_nobody_asks_for_are_passed_over(files):
    """Those whose mask is empty; the frames in between are not taken for the later window's."""
    with reader(files, 0) as in_turn, reader(files, 0, 6) as alone:
        in_turn.read(Window(0, 1, 0))
        found, again = in_turn.read(Window(6, 5, 0)), alone.read(Window(6, 5, 0))
    assert (found.mask_THW == files[2][6:11]).all()
    assert (found.frames_THWC == again.frames_THWC).all()


def test_windows_whose_boxes_move_are_read_in_one_pass(files, monkeypatch):
    """As each alone would see them, box by box."""
    windows = [Window(0, 5, 0), Window(4, 5, 1), Window(8, 5, 1)]
    boxes = [Placement("stretch", SIZE, (32, 48), (2 * n, 4 * n, 48, 64)) for n in range(3)]
    source = Source.open(files[0] / "v.mkv", files[0] / "m.mkv")
    with FillReader(source, boxes[0], 4, 0, list(zip(windows, boxes, strict=True))) as in_turn:
        monkeypatch.setattr(Source, "stream", None)
        found = [in_turn.read(window, box) for window, box in zip(windows, boxes, strict=True)]
    monkeypatch.undo()
    for window, box, each in zip(windows, boxes, found, strict=True):
        with FillReader(source, box, 4, window.start) as alone:
            again = alone.read(window)
        for part in ("frames_THWC", "seen_THW", "mask_THW"):
            assert (getattr(each, part) == getattr(again, part)).all()


def test_a_mask_that_ends_with_the_window_bounds_the_reach(files):
    with reader(files, 80, mask="short.mkv") as short:
        filled = short.read(Window(0, 5, 0))
    assert filled.frames_THWC.shape == (5, *SIZE, 3) and (filled.seen_THW[:, 25, 40] == 0).all()


def test_frames_past_the_end_repeat_the_last(files):
    with reader(files, 4) as past:
        filled = past.read(Window(8, 9, 0))
    assert len(filled.frames_THWC) == 9
    assert (filled.frames_THWC[5:] == filled.frames_THWC[4]).all()


def test_a_window_goes_on_from_finished_frames_where_the_source_shows_nothing():
    """Four finished frames show green in the hole; later frames take it, except where the source knew better."""
    rng = np.random.default_rng(1)
    frames = np.repeat(rng.integers(40, 210, (1, 32, 48, 3), dtype=np.uint8).repeat(2, 1).repeat(2, 2), 9, 0)
    mask = np.zeros((9, 64, 96), bool)
    mask[4:, 20:40, 30:50] = True
    frames[:4, 20:40, 30:50] = (0, 200, 0)
    poisoned = frames.copy()
    poisoned[mask] = 255
    seen = np.where(mask, np.float32(0), np.float32(1))
    known = np.zeros_like(frames)
    known[:] = (200, 0, 0)
    seen[4:, 20:24, 30:50] = 0.8
    gone_on = going_on(poisoned, mask, Filled(known, seen, mask))
    assert np.abs(gone_on.frames_THWC[8, 30:36, 36:44].astype(int) - (0, 200, 0)).max() < 20
    assert (gone_on.frames_THWC[8, 20:24, 30:50] == (200, 0, 0)).all()
    assert (gone_on.frames_THWC[~mask] == frames[~mask]).all()


def test_what_is_kept_leaves_the_mask_and_the_rest_stays_hidden(files):
    folder, frames, mask = files
    clip = take_clip(Source.open(folder / "v.mkv", folder / "m.mkv"), 5, (32, 48))
    seen = np.where(mask[:5], np.float32(0), np.float32(1))
    seen[:, 20:30, 30:50] = 0.9
    filled = Filled(np.where(mask[:5, ..., None], np.uint8(7), frames[:5]), seen, mask[:5])
    left = without_kept(clip, filled, clip.placement.rest())
    assert left.mask_THW[:, 15:20, 15:25].all() and left.mask_THW.sum() == 5 * 5 * 10
    assert np.abs(left.frames_THWC[:, 17:19, 17:23].astype(int) - 7).max() < 4 and left.kept is filled
    assert propagate_fill(left.frames_THWC, left.mask_THW).frames_THWC.shape == (5, 32, 48, 3)
