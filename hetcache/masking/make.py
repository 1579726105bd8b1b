"""`make_mask`: a clip and some marks become a mask of every frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from hetcache.files import UserError
from hetcache.masking.builtin import FlowEngine
from hetcache.masking.frames import Clip, frame_store, work_size
from hetcache.masking.marks import drawn
from hetcache.masking.prompts import Mark, Prompts
from hetcache.masking.track import CancelledError, Engine, Found, Mask, MaskTrack
from hetcache.media.probe import VideoInfo, probe

Progress = Callable[[int, int, str], None]
"""(units of work done, of how many, what is being done)"""


def make_mask(
    clip: Clip,
    prompts: Prompts | Sequence[Mark],
    engine: Engine | None = None,
    *,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> MaskTrack:
    """The mask of every frame of `clip`: the path (or probe) of a video, an image or a folder of frames, or RGB uint8
    [T, H, W, 3]. `prompts` are in pixels of the upright picture. `engine` None is the built-in one.

    Same clip, marks and engine: the same mask. `cancelled` is asked after each unit of work, and CancelledError raised
    when it says yes. Raises UserError for marks that do not fit the clip and for a clip that cannot be read.
    """
    marked = prompts if isinstance(prompts, Prompts) else Prompts(tuple(prompts))
    engine = engine or FlowEngine()
    info = None if isinstance(clip, np.ndarray) else clip if isinstance(clip, VideoInfo) else probe(clip, "clip")
    array = clip if isinstance(clip, np.ndarray) else None
    size = (info.height, info.width) if info is not None else _array_size(array)
    small = work_size(size)
    ask = cancelled or (lambda: False)
    if not marked.marks:
        marked.checked(size, 1)
    with frame_store(info, array, small, lambda: _stop_if(ask())) as frames:
        marked = marked.checked(size, len(frames))
        own = marked.scaled(small[1] / size[1], small[0] / size[0], small)
        total, done = engine.work(len(frames), own), 0

        def tick(what: str) -> None:
            nonlocal done
            done += 1
            _stop_if(ask())
            if progress is not None:
                progress(min(done, total), total, what)

        track = MaskTrack(size, len(frames), marked.frames, engine.facts())
        for found in engine.track(frames, own, tick):
            track.put(found.index, _at_size(found, marked, size), found.confidence)
    return track


def _at_size(found: Found, marked: Prompts, size: tuple[int, int]) -> Mask:
    """The frame's mask at the clip's `size`; what a person drew as a whole is taken to the pixel."""
    own = drawn(marked.at(found.index), size)
    if own is not None:
        return own
    opacity = found.opacity_HW
    if opacity.shape != size:
        opacity = cv2.resize(opacity, size[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(opacity >= 0.5)


def _array_size(frames_THWC: NDArray[np.uint8] | None) -> tuple[int, int]:
    if frames_THWC is None or frames_THWC.ndim != 4 or frames_THWC.shape[3] != 3 or frames_THWC.dtype != np.uint8:
        raise UserError("the clip must be a path or frames [T, H, W, 3] of uint8 RGB")
    if len(frames_THWC) == 0:
        raise UserError("the clip has no frames")
    return frames_THWC.shape[1], frames_THWC.shape[2]


def _stop_if(asked: bool) -> None:
    if asked:
        raise CancelledError
