"""What an engine is and what it gives: a mask of every frame, how sure it is, and which frames deserve a look."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hetcache.masking.frames import FrameStore
from hetcache.masking.prompts import Prompts

Mask = NDArray[np.bool_]
Plane = NDArray[np.float32]
Tick = Callable[[str], None]
"""Called by an engine after each unit of work with what it does, in a word; raises CancelledError to stop it."""

WEAK = 0.5
"""A frame whose confidence is below this is named to the person."""


class CancelledError(Exception):
    """The person asked to stop."""


@dataclass(frozen=True)
class Found:
    """One frame: `opacity_HW` in 0..1 at the size of the frames that the engine was given, in the mask from 0.5 on;
    `confidence` in 0..1."""

    index: int
    opacity_HW: Plane
    confidence: float


class Engine(Protocol):
    """Finds the marked thing in every frame."""

    name: str

    def work(self, num_frames: int, prompts: Prompts) -> int:
        """How often `track` is going to call `tick`."""

    def track(self, frames: FrameStore, prompts: Prompts, tick: Tick) -> Iterable[Found]:
        """Every frame once, in any order. `prompts` are in pixels of `frames`, painted masks are in memory."""

    def facts(self) -> dict[str, Any]:
        """What it is, for the record, as JSON values."""


class MaskTrack(Sequence[Mask]):
    """The mask [H, W] bool of every frame, kept packed: some kilobytes a frame. `confidence` has one value in 0..1 a
    frame. `keyframes` are those that a person marked."""

    def __init__(self, size: tuple[int, int], num_frames: int, keyframes: Sequence[int], facts: dict[str, Any]) -> None:
        self.size = size
        self.keyframes = tuple(keyframes)
        self.facts = facts
        self.confidence = [0.0] * num_frames
        self.shares = [0.0] * num_frames
        self._packed = [b""] * num_frames

    def put(self, index: int, mask: Mask, confidence: float) -> None:
        self._packed[index] = zlib.compress(np.packbits(mask).tobytes(), 1)
        self.confidence[index] = float(confidence)
        self.shares[index] = float(mask.mean())

    def __len__(self) -> int:
        return len(self._packed)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        bits = np.frombuffer(zlib.decompress(self._packed[index]), np.uint8)
        height, width = self.size
        return np.unpackbits(bits, count=height * width).reshape(height, width).astype(np.bool_)

    def __iter__(self) -> Iterator[Mask]:
        return (self[index] for index in range(len(self)))

    @property
    def weak(self) -> list[int]:
        """The frames to look at: those of little confidence."""
        return [index for index, value in enumerate(self.confidence) if value < WEAK]
