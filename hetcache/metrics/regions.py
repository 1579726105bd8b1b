"""The regions an edit is judged in: inside the mask, the seam along its border, and the outside."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hetcache.metrics.errors import MetricError

REGION_NAMES = ("edit", "in_mask", "seam", "outside")
DEFAULT_SEAM_PX = 8


def regions(mask_THW: NDArray[np.bool_], seam_px: int = DEFAULT_SEAM_PX) -> dict[str, NDArray[np.bool_]]:
    """Boolean maps of the mask's regions, each of the mask's shape ([T, H, W] or [H, W]).

    in_mask: the mask itself. seam: the pixels within `seam_px` pixels (in x and in y) of the mask's border,
    on either side of it; the frame's own edge is no border. edit: in_mask or seam. outside: everything else.
    Raises MetricError when the mask is not boolean, has another number of axes, or `seam_px` is negative.
    """
    if mask_THW.dtype != np.bool_ or mask_THW.ndim not in (2, 3):
        raise MetricError(f"a mask must be bool [T, H, W] or [H, W], not {mask_THW.dtype} {list(mask_THW.shape)}")
    if seam_px < 0:
        raise MetricError(f"the seam must be 0 pixels or wider, not {seam_px}")
    seam = np.empty_like(mask_THW)
    flat_mask = mask_THW.reshape(-1, *mask_THW.shape[-2:])
    flat_seam = seam.reshape(flat_mask.shape)
    for index, frame in enumerate(flat_mask):
        flat_seam[index] = _dilate(frame, seam_px) & _dilate(~frame, seam_px)
    edit = mask_THW | seam
    return {"edit": edit, "in_mask": mask_THW, "seam": seam, "outside": ~edit}


def _dilate(mask_HW: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """Pixels with a set pixel at most `radius` away in both axes, by counting in running windows."""
    for axis in (0, 1):
        size = mask_HW.shape[axis]
        counts = np.cumsum(mask_HW, axis=axis, dtype=np.int32)
        counts = np.insert(counts, 0, 0, axis=axis)
        last = np.minimum(np.arange(size) + radius + 1, size)
        first = np.maximum(np.arange(size) - radius, 0)
        mask_HW = np.take(counts, last, axis=axis) > np.take(counts, first, axis=axis)
    return mask_HW
