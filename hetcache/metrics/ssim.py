"""Windowed structural similarity of frames and videos, in scikit-image's definition, whole or inside a mask."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hetcache.metrics.errors import MetricError, optional_import
from hetcache.metrics.frames import Frame, FrameMeter, Mask, mean_in_regions, values_of
from hetcache.metrics.metric import Frames, PairMetric, Regions, nan_mean

SSIM_WINDOW = 7
SSIM_MARGIN = (SSIM_WINDOW - 1) // 2
PEAK = 255.0


def ssim(a: Frames, b: Frames, mask: Mask | None = None) -> float:
    """Windowed structural similarity of two uint8 arrays, [H, W, 3] or [T, H, W, 3]: the mean over frames.

    One frame: `skimage.metrics.structural_similarity(channel_axis=-1, data_range=255)`, a 7x7 uniform window.
    `mask` (bool, [H, W] or [T, H, W]) takes the mean of the SSIM map inside it instead; like scikit-image's
    own mean, it leaves out the 3-pixel frame border, so that a full mask gives the unmasked value. Nothing to
    measure: nan. Raises MetricError when shapes or dtypes do not fit or a side is under 7 pixels.
    """
    return nan_mean(values_of(ssim_by_frame, a, b, mask))


def ssim_by_frame(pred_THWC: Frames, other_THWC: Frames, regions: Regions) -> dict[str, list[float]]:
    """{"all" or region: SSIM of each frame pair}, nan where the region is empty."""
    return mean_in_regions(pred_THWC, other_THWC, regions, ssim_map, SSIM_MARGIN)


def ssim_map(a: Frame, b: Frame) -> NDArray[np.float64]:
    """SSIM of every pixel of one frame pair, uint8 [H, W, 3] -> float64 [H, W], the mean over channels."""
    if min(a.shape[:2]) < SSIM_WINDOW:
        raise MetricError(f"frames of {a.shape[1]}x{a.shape[0]} are too small for SSIM: {SSIM_WINDOW} pixels a side")
    metrics = optional_import("skimage.metrics", "scikit-image", "SSIM")
    _, full = metrics.structural_similarity(a, b, win_size=SSIM_WINDOW, channel_axis=-1, data_range=PEAK, full=True)
    return np.asarray(full.mean(axis=2))


SSIM = PairMetric(
    "ssim",
    "SSIM",
    "scikit-image structural_similarity, 7x7 uniform window, data_range 255, mean over frames",
    needs={"skimage.metrics": "scikit-image"},
    meter=lambda _: FrameMeter(ssim_by_frame, {"ssim": nan_mean}),
)
