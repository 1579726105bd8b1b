"""One video and its mask, read, checked and brought to the model's size, before any model is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hetcache.video import (
    VideoError,
    largest_4k_plus_1,
    probe,
    read_frames,
    read_mask,
    resize_frames,
    resize_mask,
)

Frames = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Clip:
    """`source_THWC` and `source_mask_THW` at the source's size; `frames_THWC` and `mask_THW` at the model's."""

    path: Path
    fps: float
    source_THWC: Frames
    source_mask_THW: Mask
    frames_THWC: Frames
    mask_THW: Mask
    pixel_aspect: tuple[int, int] = (1, 1)

    @property
    def num_frames(self) -> int:
        return len(self.frames_THWC)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) that the model works at."""
        return self.frames_THWC.shape[1], self.frames_THWC.shape[2]

    @property
    def source_size(self) -> tuple[int, int]:
        return self.source_THWC.shape[1], self.source_THWC.shape[2]

    @property
    def masked_fraction(self) -> float:
        return float(self.source_mask_THW.mean())


def check_frame_count(num_frames: int) -> None:
    """Raises VideoError, naming the nearest valid counts, unless `num_frames` is 4k + 1."""
    if num_frames >= 1 and num_frames % 4 == 1:
        return
    below = largest_4k_plus_1(max(num_frames, 1))
    nearest = str(below) if num_frames < 1 else f"{below} or {below + 4}"
    raise VideoError(f"--frames {num_frames}: the model takes 4k+1 frames, nearest {nearest}")


def check_side(name: str, value: int) -> None:
    """Raises VideoError, naming the nearest valid values, unless `value` is a positive multiple of 16."""
    if value > 0 and value % 16 == 0:
        return
    below = value // 16 * 16
    nearest = "16" if below <= 0 else f"{below} or {below + 16}"
    raise VideoError(f"--{name} {value}: the model takes multiples of 16, nearest {nearest}")


def read_clip(video: Path, mask: Path, num_frames: int, size: tuple[int, int]) -> Clip:
    """Read `num_frames` frames and masks and resize them to `size` (height, width).

    Raises VideoError for anything wrong with either file. A mask that touches no pixel is allowed: see `Clip`.
    """
    info = probe(video)
    source = read_frames(video, count=num_frames)
    source_mask = read_mask(mask, count=num_frames, size=source.shape[1:3])
    return Clip(
        video, info.fps, source, source_mask, resize_frames(source, *size), resize_mask(source_mask, *size),
        info.pixel_aspect,
    )
