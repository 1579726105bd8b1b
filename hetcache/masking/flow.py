"""Dense motion between two frames (OpenCV's DIS), and what it carries from one to the other."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]
Plane = NDArray[np.float32]

LEAST_SIDE = 16
"""DIS needs pictures of at least so many pixels a side; smaller ones are taken to stand still."""


@dataclass(frozen=True)
class Flow:
    """`to_HW2` says where each pixel of the new frame was in the old one; `doubt_HW` is 0 where motion there and back
    agree and grows with the distance in pixels by which they do not."""

    to_HW2: Plane
    doubt_HW: Plane

    def carry(self, plane_HW: Plane) -> Plane:
        """A plane of the old frame as the new one sees it; 0 where it looks out of the picture."""
        return np.asarray(cv2.remap(plane_HW, self.to_HW2, None, cv2.INTER_LINEAR, borderValue=0))


@contextmanager
def one_thread() -> Generator[None, None, None]:
    """What DIS finds depends on the number of OpenCV's threads: one within the block, so that every machine agrees."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def flow_between(old: Frame, new: Frame) -> Flow:
    """The motion from RGB frame `old` to `new` of the same size."""
    a, b = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (old, new))
    here = grid(a.shape[0], a.shape[1])
    if min(a.shape) < LEAST_SIDE:
        return Flow(here, np.zeros(a.shape, np.float32))
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    backward, forward = dis.calc(b, a, None), dis.calc(a, b, None)
    there = here + backward
    again = cv2.remap(forward, there, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    doubt = np.linalg.norm(backward + again, axis=2)
    return Flow(there, np.asarray(doubt, np.float32))


@lru_cache(maxsize=2)
def grid(height: int, width: int) -> Plane:
    """[H, W, 2] float32: the (x, y) of each pixel."""
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)
