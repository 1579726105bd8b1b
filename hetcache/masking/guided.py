"""The guided filter with a colour guide (He, Sun and Tang, 2010): values that follow a picture's edges."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hetcache.masking.track import Plane

RADIUS_PX = 6
SOFTNESS = 1e-4


def guided_filter(guide_HW3: Plane, values_HW: Plane, radius_px: int = RADIUS_PX, softness: float = SOFTNESS) -> Plane:
    """`values_HW` smoothed but for the edges of `guide_HW3` (float32 in 0..1): in each window of `radius_px` they
    become a linear function of the guide's colours. Edges fainter than `softness` (a variance) count for little."""
    side = (2 * radius_px + 1, 2 * radius_px + 1)

    def mean(plane: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(cv2.blur(plane, side, borderType=cv2.BORDER_REFLECT))

    guide, guide_mean, value_mean = guide_HW3.astype(np.float64), mean(guide_HW3.astype(np.float64)), mean(values_HW)
    r, g, b = (guide[..., channel] for channel in range(3))
    mean_r, mean_g, mean_b = (guide_mean[..., channel] for channel in range(3))
    rr, gg, bb = (mean(x * x) - m * m + softness for x, m in ((r, mean_r), (g, mean_g), (b, mean_b)))
    rg, rb, gb = mean(r * g) - mean_r * mean_g, mean(r * b) - mean_r * mean_b, mean(g * b) - mean_g * mean_b
    with_r, with_g, with_b = (mean(x * values_HW) - m * value_mean for x, m in ((r, mean_r), (g, mean_g), (b, mean_b)))
    # The inverse of the symmetric 3 x 3 covariance, by cofactors.
    c_rr, c_rg, c_rb = gg * bb - gb * gb, rb * gb - rg * bb, rg * gb - rb * gg
    c_gg, c_gb, c_bb = rr * bb - rb * rb, rg * rb - rr * gb, rr * gg - rg * rg
    whole = rr * c_rr + rg * c_rg + rb * c_rb
    slope_r = (c_rr * with_r + c_rg * with_g + c_rb * with_b) / whole
    slope_g = (c_rg * with_r + c_gg * with_g + c_gb * with_b) / whole
    slope_b = (c_rb * with_r + c_gb * with_g + c_bb * with_b) / whole
    offset = value_mean - slope_r * mean_r - slope_g * mean_g - slope_b * mean_b
    result = mean(offset) + mean(slope_r) * r + mean(slope_g) * g + mean(slope_b) * b
    return result.astype(np.float32)
