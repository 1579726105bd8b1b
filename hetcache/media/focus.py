"""Focus: the part of the picture that the model works on, so that a small mask gets the model's detail to itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from hetcache.media.placement import Box

Mask = NDArray[np.bool_]
Size = tuple[int, int]

# What the model needs to see around the mask, as a part of the mask's longer side, and at least in pixels.
MARGIN_PART = 0.12
MARGIN_PX = 32
# A box of nearly the whole picture gains nothing.
WHOLE = 0.8
# Boxes that follow the mask have to save so much of one for all.
FOLLOW = 0.8
PIXEL_STEP = 16


@dataclass(frozen=True)
class MaskExtent:
    """The rows and columns that a mask touches in any of its frames: [top, bottom) x [left, right) of a picture of
    `size` (height, width)."""

    top: int
    bottom: int
    left: int
    right: int
    size: Size

    @classmethod
    def of(cls, mask_THW: Mask) -> MaskExtent | None:
        """None for a mask that touches nothing."""
        rows, columns = np.flatnonzero(mask_THW.any((0, 2))), np.flatnonzero(mask_THW.any((0, 1)))
        if not len(rows):
            return None
        return cls(int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1, mask_THW.shape[1:])

    def joined(self, other: MaskExtent) -> MaskExtent:
        return MaskExtent(
            min(self.top, other.top),
            max(self.bottom, other.bottom),
            min(self.left, other.left),
            max(self.right, other.right),
            self.size,
        )


def default_margin(extent: MaskExtent) -> int:
    """Pixels of surroundings on every side: 0.12 of the mask's longer side, at least 32."""
    longer = max(extent.bottom - extent.top, extent.right - extent.left)
    return max(MARGIN_PX, math.ceil(MARGIN_PART * longer))


def snug_size(height: int, width: int) -> Size:
    """(height, width) in the model's steps, no larger than it must be."""
    return -(-height // PIXEL_STEP) * PIXEL_STEP, -(-width // PIXEL_STEP) * PIXEL_STEP


def focus_box(
    extent: MaskExtent, native_size: Callable[[int, int], Size], margin_px: int | None = None, snug: bool = False
) -> Box | None:
    """(top, left, height, width) of the source that the model is to see, or None when that is nearly all of it.

    `native_size(height, width)` is the size the model works at for a picture of that shape. The box holds the mask and
    `margin_px` around it; where the model's size has room for more, it is widened to one source pixel per pixel of the
    model, never scaled up; with `snug` it stays as small as it can be. Sides and corner are even, so that the box does
    not cut through chroma samples.
    """
    margin = default_margin(extent) if margin_px is None else margin_px
    limits = extent.size
    wanted = tuple(
        min(end - start + 2 * margin, limit)
        for start, end, limit in zip((extent.top, extent.left), (extent.bottom, extent.right), limits, strict=True)
    )
    # The source's own shape first: it is the one that the model's native size was chosen for.
    for shape in (wanted,) if snug else (limits, wanted):
        model = native_size(*shape)
        if model[0] >= wanted[0] and model[1] >= wanted[1]:
            sides = model
            break
    else:
        scale = max(want / side for want, side in zip(wanted, model, strict=True))
        sides = math.ceil(model[0] * scale), math.ceil(model[1] * scale)
    height, width = (min(side + side % 2, limit) for side, limit in zip(sides, limits, strict=True))
    if height * width >= WHOLE * limits[0] * limits[1]:
        return None
    top = _start(extent.top, extent.bottom, height, limits[0])
    left = _start(extent.left, extent.right, width, limits[1])
    return top, left, height, width


def focus_boxes(
    extents: Sequence[MaskExtent | None],
    native_size: Callable[[int, int], Size],
    margin_px: int | None = None,
    snug: bool = False,
) -> list[Box | None]:
    """The box of each window, of which `extents` says what the mask touches there (None: nothing). One box for all; but
    where those of the windows alone would have at most 0.8 of its pixels, each window has its own, all of one size. The
    rest is as in `focus_box`."""
    found = [extent for extent in extents if extent is not None]
    if not found:
        return [None] * len(extents)
    together = reduce(MaskExtent.joined, found)
    rows, columns = max(e.bottom - e.top for e in found), max(e.right - e.left for e in found)
    shared = focus_box(together, native_size, margin_px, snug)
    alone = focus_box(MaskExtent(0, rows, 0, columns, together.size), native_size, margin_px, snug)
    area = together.size[0] * together.size[1] if shared is None else shared[2] * shared[3]
    if alone is None or alone[2] * alone[3] > FOLLOW * area:
        return [shared] * len(extents)
    height, width = alone[2:]
    boxes: list[Box | None] = []
    last = found[0]
    for extent in extents:
        last = extent or last
        top = _start(last.top, last.bottom, height, last.size[0])
        boxes.append((top, _start(last.left, last.right, width, last.size[1]), height, width))
    return boxes


def _start(start: int, end: int, side: int, limit: int) -> int:
    """The even start of a box of `side` around the middle of [start, end), inside [0, limit)."""
    first = (start + end - side) // 2
    return min(max(first - first % 2, 0), limit - side)
