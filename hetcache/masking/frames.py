"""The frames of a clip in any order, at a size to work at, in memory that does not grow with the clip."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator, Iterable
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO

import cv2
import numpy as np
from numpy.typing import NDArray

from hetcache.media.ffmpeg import VideoError
from hetcache.media.probe import VideoInfo
from hetcache.media.read import iter_frames

Frame = NDArray[np.uint8]
Clip = Path | VideoInfo | NDArray[np.uint8]

WORK_PIXELS = 854 * 480
"""Larger pictures are worked on at about so many pixels; the mask is brought back to their size."""


class FrameStore:
    """Frames [H, W, 3] uint8 RGB by index: an array, or a temporary file of raw pictures."""

    def __init__(self, size: tuple[int, int], frames: NDArray[np.uint8] | IO[bytes]) -> None:
        self.size = size
        self._frames = frames
        self._length = len(frames) if isinstance(frames, np.ndarray) else 0

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Frame:
        if not 0 <= index < self._length:
            raise IndexError(index)
        if isinstance(self._frames, np.ndarray):
            return np.asarray(self._frames[index])
        height, width = self.size
        self._frames.seek(index * height * width * 3)
        data = self._frames.read(height * width * 3)
        return np.frombuffer(data, np.uint8).reshape(height, width, 3)

    def append(self, frame: Frame) -> None:
        """To a file alone."""
        assert not isinstance(self._frames, np.ndarray)
        self._frames.seek(0, 2)
        self._frames.write(np.ascontiguousarray(frame).data)
        self._length += 1


def work_size(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) to work at for pictures of `size`."""
    height, width = size
    scale = min(1.0, (WORK_PIXELS / (height * width)) ** 0.5)
    return max(1, round(height * scale)), max(1, round(width * scale))


@contextmanager
def frame_store(
    info: VideoInfo | None,
    frames_THWC: NDArray[np.uint8] | None,
    size: tuple[int, int],
    each: Callable[[], None] = lambda: None,
) -> Generator[FrameStore, None, None]:
    """The clip's frames at `size` (height, width), gone with the block; `each` is called after each that is read.
    Raises VideoError for a clip that cannot be read, and when the disk has no room for the temporary file."""
    if frames_THWC is not None and frames_THWC.shape[1:3] == size:
        yield FrameStore(size, frames_THWC)
        return
    source = iter_frames(info) if info is not None else _each(frames_THWC)
    with tempfile.TemporaryFile() as file, closing(source) as frames:
        store = FrameStore(size, file)
        _fill(store, frames, each)
        yield store


def _fill(store: FrameStore, frames: Iterable[Frame], each: Callable[[], None]) -> None:
    for frame in frames:
        small = scaled(frame, store.size)
        try:
            store.append(small)
        except OSError as error:
            folder = tempfile.gettempdir()
            raise VideoError(
                f"the clip's frames cannot be kept in {folder} ({error.strerror}); free disk space"
            ) from error
        each()


def scaled(frame: Frame, size: tuple[int, int]) -> Frame:
    if frame.shape[:2] == size:
        return frame
    return np.asarray(cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA))


def _each(frames_THWC: NDArray[np.uint8] | None) -> Generator[Frame, None, None]:
    assert frames_THWC is not None
    yield from frames_THWC
