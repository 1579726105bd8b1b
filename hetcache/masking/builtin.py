"""The built-in engine, without weights: the keyframes' masks by GrabCut, carried forwards and backwards by dense flow,
each frame refined by the colours that the thing and its surroundings had."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import IO, Any

import cv2
import numpy as np

from hetcache.masking.flow import one_thread
from hetcache.masking.frames import FrameStore
from hetcache.masking.marks import mark_frame, says_where, stand_alone
from hetcache.masking.prompts import Prompts
from hetcache.masking.refine import Carrier
from hetcache.masking.spool import Spool
from hetcache.masking.track import Found, Mask, Tick


class FlowEngine:
    """`Engine` says what the methods do."""

    name = "flow"

    def facts(self) -> dict[str, Any]:
        return {"name": self.name, "flow": "DIS", "opencv": cv2.__version__}

    def work(self, num_frames: int, prompts: Prompts) -> int:
        keys = prompts.frames
        # Between two keyframes each frame is reached from both sides.
        return num_frames - len(keys) + keys[-1] - keys[0] + 1 - len(keys)

    def track(self, frames: FrameStore, prompts: Prompts, tick: Tick) -> Iterator[Found]:
        with one_thread(), tempfile.TemporaryFile() as file:
            yield from _Run(frames, prompts, tick, file).found()


class _Run:
    """One clip. `masks` are the keyframes'; a way from one frame to another is gone once and kept."""

    def __init__(self, frames: FrameStore, prompts: Prompts, tick: Tick, file: IO[bytes]) -> None:
        self.frames, self.prompts, self.tick, self.file = frames, prompts, tick, file
        self.masks: dict[int, Mask] = {}
        self.ways: dict[tuple[int, int], Spool] = {}

    def found(self) -> Iterator[Found]:
        self._solve_keyframes()
        keys = sorted(self.masks)
        for key in keys:
            yield Found(key, self.masks[key].astype(np.float32), 1.0)
        if keys[0] > 0:
            yield from self._one_sided(keys[0], -1)
        for left, right in zip(keys, keys[1:], strict=False):
            yield from self._two_sided(left, right)
        if keys[-1] < len(self.frames) - 1:
            yield from self._one_sided(keys[-1], len(self.frames))

    def _solve_keyframes(self) -> None:
        """Those that stand alone first; corrections then change what is carried to them from the nearest."""
        later = []
        for key in self.prompts.frames:
            marks = self.prompts.at(key)
            if stand_alone(marks):
                self.masks[key] = mark_frame(self.frames[key], marks)
            else:
                later.append(key)
        if not self.masks:
            first = next(key for key in later if any(says_where(mark) for mark in self.prompts.at(key)))
            self.masks[first] = mark_frame(self.frames[first], self.prompts.at(first))
            later.remove(first)
        for key in later:
            start = min(self.masks, key=lambda known: (abs(known - key), known))
            step = 1 if key > start else -1
            carried = self._way(start, key + step).get(key) >= 0.5
            self.masks[key] = mark_frame(self.frames[key], self.prompts.at(key), carried)
            # What lies beyond goes on from the corrected mask.

    def _way(self, start: int, stop: int) -> Spool:
        """What is carried from keyframe `start` to each frame before `stop`, in its direction."""
        known = self.ways.get((start, stop))
        if known is not None:
            return known
        spool = Spool(self.frames.size, self.file)
        step = 1 if stop > start else -1
        carrier = Carrier(self.frames[start], self.masks[start])
        for index in range(start + step, stop, step):
            opacity, confidence = carrier.next(self.frames[index])
            spool.put(index, opacity, confidence)
            self.tick("forwards" if step > 0 else "backwards")
        self.ways[start, stop] = spool
        return spool

    def _one_sided(self, key: int, stop: int) -> Iterator[Found]:
        way = self._way(key, stop)
        for index, confidence in way.confidence.items():
            yield Found(index, way.get(index), confidence)

    def _two_sided(self, left: int, right: int) -> Iterator[Found]:
        """The nearer and the surer side counts for more."""
        if right - left < 2:
            return
        forward, backward = self._way(left, right), self._way(right, left)
        for index in range(left + 1, right):
            near = (right - index) / (right - left)
            sure = np.array([forward.confidence[index], backward.confidence[index]])
            weight = np.array([near, 1 - near]) * (sure + 1e-3)
            weight = weight / weight.sum()
            opacity = weight[0] * forward.get(index) + weight[1] * backward.get(index)
            yield Found(index, opacity.astype(np.float32), float(weight @ sure))
