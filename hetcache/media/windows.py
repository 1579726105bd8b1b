"""Windows over a long video: where each lies, which of its frames are already finished, and how they join.

Wan2.1 was trained on 81 frames and takes 4k + 1. A longer video is edited window by window. Each window begins with
frames that the one before has finished. The first half of them the model is given as known (mask off), to go on from;
the others it makes once more, and over those the output fades from the earlier window to the later. Without them the
fade would begin and end with the same known picture, and what the model makes differently would show in one step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hetcache.media.clip import Clip
from hetcache.media.ffmpeg import VideoError
from hetcache.media.masks import composite
from hetcache.media.sizes import check_frame_count, largest_4k_plus_1, smallest_4k_plus_1

Frames = NDArray[np.uint8]
MIN_WINDOW = 5


@dataclass(frozen=True)
class Window:
    """`count` frames from frame `start` of the video on, the first `known` of them finished by the window before.
    Only a single window may reach past the video's end, by up to three frames."""

    start: int
    count: int
    known: int

    @property
    def stop(self) -> int:
        return self.start + self.count


def default_overlap(length: int) -> int:
    """About a quarter of the window: 21 of 81 frames, 9 of 33."""
    return largest_4k_plus_1(length // 4 + 1)


def check_window(length: int, overlap: int) -> None:
    """Raises VideoError unless both are 4k + 1 and the window is longer than the overlap."""
    if length < MIN_WINDOW:
        raise VideoError(f"--window {length}: at least {MIN_WINDOW}")
    check_frame_count(length, "--window")
    check_frame_count(overlap, "--overlap")
    if overlap >= length:
        raise VideoError(f"--overlap {overlap}: must be less than --window {length}")


def plan_windows(num_frames: int, length: int, overlap: int) -> list[Window]:
    """Windows of `length` frames that cover `num_frames`, at least `overlap` of each known from the one before.

    The last window ends with the video, so it may overlap more. A video that fits one window has one, of the smallest
    4k + 1 that holds it. Known frames are 4k + 1 too: whole latent frames. Raises VideoError as `check_window`.
    """
    check_window(length, overlap)
    if num_frames <= length:
        return [Window(0, smallest_4k_plus_1(num_frames), 0)]
    starts = [*range(0, num_frames - length, length - overlap), num_frames - length]
    windows = [Window(0, length, 0)]
    for start in starts[1:]:
        windows.append(Window(start, length, largest_4k_plus_1(windows[-1].stop - start)))
    return windows


def num_anchors(known: int) -> int:
    """How many of a window's finished frames are given as known, of the smaller half 4k + 1: whole latent frames. The
    others are made once more. 5 of 9, 9 of 21."""
    return largest_4k_plus_1(known // 2 + 1) if known else 0


def given_known(clip: Clip, finished_THWC: Frames, feather_px: int) -> tuple[Frames, NDArray[np.bool_]]:
    """(frames, mask) at the model's size for the model to see: the first K = len(finished) frames show the finished
    edit inside the mask, which is off there."""
    known = len(finished_THWC)
    frames_THWC, mask_THW = clip.frames_THWC.copy(), clip.mask_THW.copy()
    frames_THWC[:known] = composite(frames_THWC[:known], finished_THWC, mask_THW[:known], feather_px)
    mask_THW[:known] = False
    return frames_THWC, mask_THW


def join_after(anchors: int, finished_THWC: Frames, raw_THWC: Frames) -> Frames:
    """`raw_THWC` after the finished frames: the first `anchors` of those stay as they are, the others fade, from wholly
    finished to wholly raw. So the fade falls between frames of one latent frame, and from one latent frame to the next,
    where a model steps anyway, it adds nothing or little."""
    known = len(finished_THWC)
    weight_T111 = np.linspace(0, 1, known - anchors, dtype=np.float32)[:, None, None, None]
    old, new = (each[anchors:known].astype(np.float32) for each in (finished_THWC, raw_THWC))
    faded = np.rint(old + weight_T111 * (new - old)).astype(np.uint8)
    return np.concatenate([finished_THWC[:anchors], faded, raw_THWC[known:]])


def join(finished_THWC: Frames, raw_THWC: Frames) -> Frames:
    """`raw_THWC` with its first K = len(finished) frames faded over from the finished ones: frame k is
    (k + 1) / (K + 1) of the way."""
    known = len(finished_THWC)
    if known == 0:
        return raw_THWC
    weight = (np.arange(known, dtype=np.float32) + 1) / (known + 1)
    old = finished_THWC.astype(np.float32)
    faded = old + weight[:, None, None, None] * (raw_THWC[:known].astype(np.float32) - old)
    return np.concatenate([np.rint(faded).astype(np.uint8), raw_THWC[known:]])
