"""What other frames show under the mask of a window: from the whole source within reach, not from the window alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from hetcache.media.clip import Clip, hold_last
from hetcache.media.ffmpeg import VideoError
from hetcache.media.placement import Placement, placements_at
from hetcache.media.propagate import Filled, propagate_fill, without_masked
from hetcache.media.source import Source
from hetcache.media.windows import Window

Frames = NDArray[np.uint8]
Mask = NDArray[np.bool_]


class FillReader:
    """Context manager: the fill of each window in turn, from one pass over the files of its own, which runs ahead of
    the window by the reach. `first`: the frame that the first window starts with. `moved`: the windows with their
    placements, where those differ; a frame is held as each of the windows that may look at it will see it."""

    def __init__(
        self,
        source: Source,
        placement: Placement,
        reach: int,
        first: int = 0,
        moved: Sequence[tuple[Window, Placement]] = (),
    ) -> None:
        self._placement = placement
        self._reach = reach
        self._spans = [(range(window.start - reach, window.stop + reach), place) for window, place in moved]
        self._held: list[dict[Placement, tuple[Frames, Mask]]] = []
        self._held_from = max(0, first - reach)
        self._stream = source.stream(self._held_from)
        self._ended = False

    def read(self, window: Window, placement: Placement | None = None) -> Filled:
        """The fill of `window`, which starts no earlier than the last one, at the size of its `placement`, the reader's
        own if None. Frames past the video's end repeat its last."""
        placement = placement or self._placement
        start = max(0, window.start - self._reach)
        self._spans = [(frames, place) for frames, place in self._spans if frames.stop > start]
        held_to = self._held_from + len(self._held)
        del self._held[: start - self._held_from]
        self._held_from = start
        # Windows without a mask are not asked for: what lies between is passed over.
        while held_to < start and self._next() is not None:
            held_to += 1
        self._hold(window.stop + self._reach - start)
        stop = window.stop + self._reach - start
        pairs = [placed[placement] for placed in self._held[:stop]]
        frames_THWC, mask_THW = (np.stack(parts) for parts in zip(*pairs, strict=True))
        filled = propagate_fill(frames_THWC, mask_THW, self._reach, slice(window.start - start, window.stop - start))
        parts = (filled.frames_THWC, filled.seen_THW, filled.mask_THW)
        return Filled(*(hold_last(part, window.count) for part in parts))

    def _hold(self, count: int) -> None:
        """Have `count` frames, or as many as both files still give: whether they are enough for the window is for who
        reads that."""
        while len(self._held) < count and (pair := self._next()) is not None:
            index = self._held_from + len(self._held)
            wanted = placements_at(index, self._spans) if self._spans else {self._placement}
            self._held.append({placement: _at_size(placement, *pair) for placement in wanted})

    def _next(self) -> tuple[Frames, Mask] | None:
        if not self._ended:
            try:
                pair = next(self._stream, None)
            except VideoError:
                pair = None
            self._ended = pair is None
            return pair
        return None

    def __enter__(self) -> FillReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()


def _at_size(placement: Placement, frame_1HWC: Frames, mask_1HW: Mask) -> tuple[Frames, Mask]:
    own, rest = placement.unscaled(), placement.rest()
    frame_1HWC, mask_1HW = own.frames_to_model(frame_1HWC), own.part_to_model(mask_1HW)
    if rest.source != rest.model:
        # A filter that scales reads under the mask and writes around it.
        frame_1HWC = without_masked(frame_1HWC[0], mask_1HW[0])[None]
    return rest.frames_to_model(frame_1HWC)[0], rest.part_to_model(mask_1HW)[0]


def fill_reader(
    source: Source, placement: Placement, first: int = 0, moved: Sequence[tuple[Window, Placement]] = ()
) -> FillReader:
    """The reader of a run: at the model's size, or with `--keep-seen`, whose windows share one box, in the video's own
    pixels, which are to reach the output."""
    own = placement.unscaled() if source.options.keep_seen else placement
    return FillReader(source, own, source.options.fill_reach, first, moved)


def with_fill(
    clip: Clip, reader: FillReader, window: Window, keep_seen: bool, placement: Placement | None = None
) -> Clip:
    """`clip`, which is `window`'s, with its fill, also in its frames, into whose surroundings of the mask scaling has
    drawn what is under it; and with `keep_seen` without the mask that this makes needless. `placement`: the window's,
    None for the clip's own."""
    if not clip.mask_THW.any():
        return clip
    if keep_seen:
        return without_kept(clip, reader.read(window), (placement or clip.placement).rest())
    filled = reader.read(window, placement)
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
