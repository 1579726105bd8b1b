"""Masks that were drawn too tightly for a removal: grown to their hull, and downwards for a shadow."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

# OpenCV is imported where it is called: whoever reads a source without growing its mask does without.


def hull_mask(mask_THW: Mask) -> Mask:
    """Every connected part of each frame's mask [T, H, W] filled to its convex hull: parts far apart stay apart."""
    import cv2

    grown_THW = np.array(mask_THW)
    for index, mask in enumerate(mask_THW):
        outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        filled = mask.astype(np.uint8)
        for outline in outlines:
            cv2.fillConvexPoly(filled, cv2.convexHull(outline), 1)
        grown_THW[index] = filled > 0
    return grown_THW


def shadow_mask(mask_THW: Mask, px: int) -> Mask:
    """The mask and what lies up to `px` pixels below it."""
    import cv2

    kernel = np.ones((px + 1, 1), np.uint8)
    return np.stack([cv2.dilate(mask.astype(np.uint8), kernel, anchor=(0, px), borderValue=0) > 0 for mask in mask_THW])
