"""Carry a mask from frame to frame: dense flow moves it, colours say where it holds, the picture's edges where it ends."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from hetcache.masking.flow import flow_between
from hetcache.masking.track import Mask, Plane

Frame = NDArray[np.uint8]


class Carrier:
    """Starts with a keyframe and its mask; `next` gives the opacity [H, W] of the following frame and a confidence."""

    def __init__(self, frame: Frame, mask: Mask) -> None:
        self.frame = frame
        self.opacity_HW: Plane = mask.astype(np.float32)

    def next(self, frame: Frame) -> tuple[Plane, float]:
        flow = flow_between(self.frame, frame)
        carried = flow.carry(self.opacity_HW)
        inside = carried >= 0.5
        confidence = float((flow.doubt_HW[inside] < 2).mean()) if inside.any() else 0.0
        self.frame, self.opacity_HW = frame, carried
        return carried, confidence
