"""A long video in and out, one window at a time: memory does not grow with its length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from hetcache.media.clip import Clip, hold_last
from hetcache.media.placement import Placement, placements_at
from hetcache.media.result import ended
from hetcache.media.source import Source
from hetcache.media.windows import Window
from hetcache.run.window_store import WindowStore

Frames = NDArray[np.uint8]
Mask = NDArray[np.bool_]


class WindowReader:
    """Context manager: the clip of each window in turn, from one pass over the files that begins at `start`. `moved`:
    the windows with their placements, where those differ; a frame of two windows is held as either will see it."""

    def __init__(
        self,
        source: Source,
        placement: Placement,
        num_frames: int,
        start: int,
        moved: Sequence[tuple[Window, Placement]] = (),
    ) -> None:
        self._source = source
        self._spans = [(range(window.start, window.stop), place) for window, place in moved]
        self._placement = placement
        self._num_frames = num_frames
        self._stream = source.stream(start)
        self._held: list[dict[Placement, tuple[Frames, Mask]]] = []
        self._held_from = start

    def read(self, window: Window, placement: Placement | None = None) -> Clip:
        """The clip of `window`, which starts no earlier than the last one, as its `placement`, the reader's own if
        None, shows it. Its source frames are not kept: they are those at the model's size. Raises VideoError when the
        video or its mask ends early."""
        placement = placement or self._placement
        self._spans = [(frames, place) for frames, place in self._spans if frames.stop > window.start]
        del self._held[: window.start - self._held_from]
        self._held_from = window.start
        count = min(window.count, self._num_frames - window.start)
        while len(self._held) < count:
            pair = next(self._stream, None)
            if pair is None:
                raise ended(self._source, self._held_from + len(self._held), self._num_frames)
            frames, mask = pair
            index = self._held_from + len(self._held)
            wanted = placements_at(index, self._spans) if self._spans else {self._placement}
            placed = {each: (each.frames_to_model(frames)[0], each.mask_to_model(mask)[0]) for each in wanted}
            self._held.append(placed)
        pairs = [placed[placement] for placed in self._held[:count]]
        frames_THWC = hold_last(np.stack([frame for frame, _ in pairs]), window.count)
        mask_THW = hold_last(np.stack([mask for _, mask in pairs]), window.count)
        size = placement.model
        return Clip(
            self._source.video,
            self._source.info.fps,
            frames_THWC,
            mask_THW,
            frames_THWC,
            mask_THW,
            Placement("stretch", size, size),
            self._source.info.pixel_aspect,
        )

    def __enter__(self) -> WindowReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()


def finished_frames(store: WindowStore, windows: Sequence[Window], start: int, stop: int) -> Iterator[Frames]:
    """Finished frames [H, W, 3] at the model's size from `start` to `stop`, each from the last window that has it."""
    for _, frame in _with_window(store, windows, start, stop):
        yield frame


def known_frames(
    placements: Sequence[Placement], store: WindowStore, windows: Sequence[Window], index: int
) -> list[Frames]:
    """The finished frames [H, W, 3] that window `index` begins with, as the model sees them there: moved from the boxes
    of the windows before, which at one pixel of the model for one of the source changes no pixel."""
    window, here = windows[index], placements[index]
    found = []
    for other, frame in _with_window(store, windows[:index], window.start, window.start + window.known):
        there = placements[other]
        found.append(frame if there == here else here.frames_to_model(there.frames_to_source(frame[None]))[0])
    return found


def _with_window(store: WindowStore, windows: Sequence[Window], start: int, stop: int) -> Iterator[tuple[int, Frames]]:
    ends = [window.start for window in windows[1:]] + [stop]
    for index, (window, end) in enumerate(zip(windows, ends, strict=False)):
        if end <= start or window.start >= stop:
            continue
        frames_THWC = store.frames(index)
        for frame in frames_THWC[max(start, window.start) - window.start : min(end, stop) - window.start]:
            yield index, frame


def edited_frames(
    placements: Sequence[Placement], store: WindowStore, windows: Sequence[Window], num_frames: int
) -> Iterator[Frames]:
    """The finished frames [H, W, 3] at the source's size."""
    for index, frame in _with_window(store, windows, 0, num_frames):
        yield placements[index].frames_to_source(frame[None])[0]
