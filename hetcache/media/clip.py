"""One video and its mask, read, checked and brought to the model's size, before any model is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hetcache.media.ffmpeg import VideoError
from hetcache.media.placement import Box, Placement
from hetcache.media.read import MAX_READ_BYTES
from hetcache.media.sizes import smallest_4k_plus_1
from hetcache.media.source import Source

if TYPE_CHECKING:  # it brings torch and OpenCV, which metrics of clips do without
    from hetcache.media.propagate import Filled

Frames = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Clip:
    """`source_THWC` and `source_mask_THW` at the source's size; `frames_THWC` and `mask_THW` at the model's, which
    may go on for up to three frames, repeats of the last one, to be 4k + 1. `filled` is what other frames show of the
    masked pixels, at the model's size, where that was asked for; `kept` the same in the source's pixels of what the
    model sees, where a part of it is to be kept (`mask_THW` is what is left then)."""

    path: Path
    fps: float
    source_THWC: Frames
    source_mask_THW: Mask
    frames_THWC: Frames
    mask_THW: Mask
    placement: Placement
    pixel_aspect: tuple[int, int] = (1, 1)
    filled: Filled | None = None
    kept: Filled | None = None

    @property
    def num_frames(self) -> int:
        """Frames that the model works on."""
        return len(self.frames_THWC)

    def iter_to_source(self, frames_THWC: Frames) -> Iterator[Frames]:
        """The model's output [T, H, W, 3] at the source's size and length, frame by frame [H, W, 3]."""
        for frame_HWC in frames_THWC[: len(self.source_THWC)]:
            yield self.placement.frames_to_source(frame_HWC[None])[0]

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


def hold_last(array_T: Any, count: int) -> Any:
    """`array_T` lengthened to `count` entries by repeating its last one."""
    return array_T if len(array_T) == count else array_T[np.minimum(np.arange(count), len(array_T) - 1)]


def take_clip(source: Source, num_frames: int, size: tuple[int, int], focus: Box | None = None) -> Clip:
    """The first `num_frames` frames and masks of `source`, and both at the model's `size` (height, width), of the whole
    canvas or of the `focus` box alone.

    Raises VideoError for anything wrong with either file. A mask that touches no pixel is allowed: see `Clip`.
    """
    for (height, width), flags in ((source.size, "--frames"), (size, "--frames, --height and --width")):
        if num_frames * height * width * 3 > MAX_READ_BYTES:
            raise VideoError(f"{num_frames} frames of {width}x{height} do not fit in memory; give smaller {flags}")
    frames, mask = source.read(num_frames)
    placement = Placement(source.options.fit, source.size, size, focus)
    count = smallest_4k_plus_1(num_frames)
    return Clip(
        source.video,
        source.info.fps,
        frames,
        mask,
        hold_last(placement.frames_to_model(frames), count),
        hold_last(placement.mask_to_model(mask), count),
        placement,
        source.info.pixel_aspect,
    )


def read_clip(video: Path, mask: Path, num_frames: int, size: tuple[int, int]) -> Clip:
    """`take_clip` of two files, without options."""
    return take_clip(Source.open(video, mask), num_frames, size)
