"""A cached run against the uncached run of the same seed and process: speed-up, PSNR and SSIM by region."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hetcache.metrics import regions
from hetcache.metrics.registry import measure

KEYS = {"psnr": "psnr_db", "ssim": "ssim"}
"""The metrics that are compared, with their keys in the record."""


def compare(
    stage_ms: dict[str, float],
    baseline_ms: dict[str, float],
    frames_THWC: NDArray[np.uint8],
    baseline_THWC: NDArray[np.uint8],
    mask_THW: NDArray[np.bool_],
) -> dict[str, Any]:
    """Ratios of times, and the raw outputs compared at the model's size, before compositing.

    `total_speedup` leaves out loading the model and writing the files, which are the same for both. Regions are
    those of `hetcache.metrics.regions`: edit (in mask and seam), in_mask, seam, outside; one that holds no pixel
    is None.
    """
    areas = {**regions(mask_THW), "whole": np.ones_like(mask_THW)}
    figures = measure(frames_THWC, baseline_THWC, areas, dict.fromkeys(KEYS))
    return {
        "reference": "baseline, same seed, same process, raw output",
        "denoise_speedup": round(baseline_ms["denoise"] / stage_ms["denoise"], 4),
        "total_speedup": round(sum(baseline_ms.values()) / sum(stage_ms.values()), 4),
        "baseline_denoise_s": round(baseline_ms["denoise"] / 1e3, 4),
        **{
            key: {name: figures[name][metric] if area.any() else None for name, area in areas.items()}
            for metric, key in KEYS.items()
        },
    }
