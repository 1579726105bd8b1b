"""Clips for the joins of windows: what is cut out of another video, where the box goes, and what the table says."""

from __future__ import annotations

import numpy as np
from video_files import make

from hetcache.media.read import read_frames
from hetcache.media.windows import Window
from hetcache.metrics.joins import JoinMeter
from scripts.measure import joins


def test_another_video_is_taken_frame_by_frame(tmp_path, monkeypatch):
    """Still where it is asked for; moving a pixel a frame to the right, up to 60 down."""
    monkeypatch.setattr(joins, "NUM_FRAMES", 5)
    rng = np.random.default_rng(0)
    wide = rng.integers(0, 256, (36, 48, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    frames = np.stack([np.roll(wide, 16 * index, 1) for index in range(5)])
    make(tmp_path / "v.mkv", "-c:v", "ffv1", "-pix_fmt", "bgr0", frames=frames)
    for name in ("still", "moving"):
        found = np.stack(list(joins.frames_of(tmp_path / "v.mkv", name, (10, 20))))
        corners = [joins.corner_at(name, index, (10, 20)) for index in range(5)]
        assert corners == [(10, 20)] * 5 if name == "still" else [(10 + index, 20 + index) for index in range(5)]
        for frame, source, (top, left) in zip(found, frames, corners, strict=True):
            assert (frame == source[top : top + joins.HEIGHT, left : left + joins.WIDTH]).all()
    joins.make(tmp_path / "out", tmp_path / "v.mkv", (0, 0))
    mask = read_frames(tmp_path / "out/still_mask.mp4")
    assert len(mask) == 5 and 0.9 < (mask > 128).sum() / (5 * 3 * joins.BOX**2) < 1.1


def test_the_table_has_the_changes_in_grey_levels():
    windows, size = [Window(0, 17, 0), Window(8, 17, 9)], (40, 40)
    mask = np.zeros((25, *size), bool)
    mask[:, 10:30, 10:30] = True
    truth = np.random.default_rng(0).integers(90, 110, (1, *size, 3), dtype=np.uint8).repeat(25, 0)
    edited = truth.copy()
    edited[12:] += 3
    meters = JoinMeter(windows), JoinMeter(windows)
    for meter, frames in zip(meters, (edited, truth), strict=True):
        meter.update(frames, {"in_mask": mask})
    lines = joins.table(windows, *meters, [1.0] * 25)
    assert lines[2].split()[4:8] == ["inf", "1.00", "3.00", "0.00"]
