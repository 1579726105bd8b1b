"""What other frames show under the mask of a window: from the whole source within reach, not from the window alone."""

from __future__ import annotations

from dataclasses import replace
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from hetcache.media.clip import Clip, hold_last
from hetcache.media.ffmpeg import VideoError
from hetcache.media.placement import Placement
from hetcache.media.propagate import Filled, propagate_fill, without_masked
from hetcache.media.source import Source
from hetcache.media.windows import Window

Frames = NDArray[np.uint8]
Mask = NDArray[np.bool_]


class FillReader:
    """Context manager: the fill of each window in turn, from one pass over the files of its own, which runs ahead of
    the window by the reach. `first`: the frame that the first window starts with."""

    def __init__(self, source: Source, placement: Placement, reach: int, first: int = 0) -> None:
        self._placement = placement
        self._reach = reach
        self._held: list[tuple[Frames, Mask]] = []
        self._held_from = max(0, first - reach)
        self._stream = source.stream(self._held_from)
        self._ended = False

    def read(self, window: Window) -> Filled:
        """The fill of `window`, which starts no earlier than the last one, at the placement's size. Frames past the
        video's end repeat its last."""
        start = max(0, window.start - self._reach)
        del self._held[: start - self._held_from]
        self._held_from = start
        self._hold(window.stop + self._reach - start)
        frames_THWC, mask_THW = (np.stack(parts) for parts in zip(*self._held, strict=True))
        filled = propagate_fill(frames_THWC, mask_THW, self._reach, slice(window.start - start, window.stop - start))
        parts = (filled.frames_THWC, filled.seen_THW, filled.mask_THW)
        return Filled(*(hold_last(part, window.count) for part in parts))

    def _hold(self, count: int) -> None:
        """Have `count` frames, or as many as both files still give: whether they are enough for the window is for who
        reads that."""
        while len(self._held) < count and not self._ended:
            try:
                pair = next(self._stream, None)
            except VideoError:
                pair = None
            if pair is None:
                self._ended = True
                return
            self._held.append(self._at_size(*pair))

    def _at_size(self, frame_1HWC: Frames, mask_1HW: Mask) -> tuple[Frames, Mask]:
        own, rest = self._placement.unscaled(), self._placement.rest()
        frame_1HWC, mask_1HW = own.frames_to_model(frame_1HWC), own.part_to_model(mask_1HW)
        if rest.source != rest.model:
            # A filter that scales reads under the mask and writes around it.
            frame_1HWC = without_masked(frame_1HWC[0], mask_1HW[0])[None]
        return rest.frames_to_model(frame_1HWC)[0], rest.part_to_model(mask_1HW)[0]

    def __enter__(self) -> FillReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()


def fill_reader(source: Source, placement: Placement, first: int = 0) -> FillReader:
    """The reader of a run: at the model's size, or with `--keep-seen` in the video's own pixels, which are to reach the
    output."""
    own = placement.unscaled() if source.options.keep_seen else placement
    return FillReader(source, own, source.options.fill_reach, first)


def with_fill(clip: Clip, reader: FillReader, window: Window, keep_seen: bool, rest: Placement | None = None) -> Clip:
    """`clip`, which is `window`'s, with its fill, also in its frames, into whose surroundings of the mask scaling has
    drawn what is under it; and with `keep_seen` without the mask that this makes needless."""
    if not clip.mask_THW.any():
        return clip
    filled = reader.read(window)
    if keep_seen:
        return without_kept(clip, filled, rest or clip.placement.rest())
    return replace(clip, frames_THWC=filled.frames_THWC, filled=filled)


def going_on(frames_THWC: Frames, mask_THW: Mask, filled: Filled) -> Filled:
    """`filled` for a window whose first frames are finished already: `frames_THWC` shows their edit, `mask_THW` is off
    there. What no frame of the source shows is looked for in them."""
    shown_THWC = np.where((mask_THW & (filled.seen_THW > 0))[..., None], filled.frames_THWC, frames_THWC)
    unseen_THW = mask_THW & (filled.seen_THW == 0)
    seen_THW = np.where(mask_THW, filled.seen_THW, np.float32(1))
    if unseen_THW.any():
        shown_THWC = propagate_fill(shown_THWC, unseen_THW).frames_THWC
    return Filled(shown_THWC, seen_THW, mask_THW)


def without_kept(clip: Clip, filled: Filled, rest: Placement) -> Clip:
    """`clip` whose mask holds no more than what `filled`, in the video's own pixels, leaves to invent; `rest` brings
    those to the model's size."""
    shown_THWC = rest.frames_to_model(filled.frames_THWC)
    left_THW = rest.part_to_model(filled.mask_THW & ~filled.kept_THW)
    seen_THW = np.where(rest.part_to_model(filled.seen_THW == 0), np.float32(0), np.float32(1))
    left = Filled(shown_THWC, seen_THW, left_THW)
    return replace(clip, frames_THWC=shown_THWC, mask_THW=left_THW, filled=left, kept=filled)
