"""Quality of one cell: PSNR, SSIM and LPIPS of the raw output against the uncached one and against the source."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from hetcache.metrics.meters import FrameMeter
from hetcache.metrics.perceptual import Lpips
from hetcache.metrics.regions import regions

Frames = NDArray[np.uint8]


def judge(
    frames_THWC: Frames,
    baseline_THWC: Frames | None,
    source_THWC: Frames,
    mask_THW: NDArray[np.bool_],
    lpips: Lpips | None,
) -> dict[str, dict[str, dict[str, float]]]:
    """{"baseline", "source": {region: {"psnr" dB, "ssim", "lpips"}}}, at the model's size, before compositing.

    Without `lpips` and, for SSIM, without scikit-image those figures are absent. What a region without pixels
    would give is absent, too. Raises MetricError for shapes that do not fit.
    """
    parts = {name: area for name, area in regions(mask_THW).items() if name in ("in_mask", "seam")}
    found = {"source": _compare(frames_THWC, source_THWC, {}, lpips)}
    if baseline_THWC is not None:
        found["baseline"] = _compare(frames_THWC, baseline_THWC, parts, lpips)
    return found


def _compare(
    frames: Frames, other: Frames, parts: dict[str, NDArray[np.bool_]], lpips: Lpips | None
) -> dict[str, dict[str, float]]:
    meter = FrameMeter(frozenset({"psnr", "ssim"} if has_ssim() else {"psnr"}), lpips)
    meter.update(frames, other, parts)
    return {
        region: {name: value for name, value in values.items() if not math.isnan(value)}
        for region, values in meter.result().items()
    }


def has_ssim() -> bool:
    """Is scikit-image installed?"""
    try:
        import skimage.metrics  # noqa: F401 - only whether it is there
    except ImportError:
        return False
    return True
