"""Peak signal-to-noise ratio of frames and videos, in scikit-image's definition, whole or inside a mask."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from hetcache.metrics.frames import Frame, FrameMeter, Mask, mean_in_regions, values_of
from hetcache.metrics.metric import Frames, PairMetric, Regions, decimals, nan_mean

PEAK = 255.0


def psnr(a: Frames, b: Frames, mask: Mask | None = None) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 arrays, [H, W, 3] or [T, H, W, 3]; peak 255.

    One frame: 10 log10(255^2 / MSE), as `skimage.metrics.peak_signal_noise_ratio`. A video: the mean over its
    frames (see `mean_psnr` for frames that are identical). `mask` (bool, [H, W] or [T, H, W]) restricts the
    MSE to its pixels; frames where it is empty do not count. Identical: inf. Nothing to measure: nan.
    Raises MetricError when shapes or dtypes do not fit.
    """
    return mean_psnr(values_of(psnr_by_frame, a, b, mask))


def psnr_by_frame(pred_THWC: Frames, other_THWC: Frames, regions: Regions) -> dict[str, list[float]]:
    """{"all" or region: dB of each frame pair}, nan where the region is empty."""
    errors = mean_in_regions(pred_THWC, other_THWC, regions, squared_error)
    return {region: [psnr_from_mse(error) for error in each] for region, each in errors.items()}


def squared_error(a: Frame, b: Frame) -> NDArray[np.float64]:
    """Squared error (0 to 255^2) of one frame pair, uint8 [H, W, 3] -> [H, W], the mean over channels."""
    difference = np.subtract(a, b, dtype=np.int32)
    return np.asarray(np.einsum("hwc,hwc->hw", difference, difference) / 3.0)


def psnr_from_mse(mse: float) -> float:
    """PSNR in dB of a mean squared error on the 0..255 scale; 0 gives inf, nan stays nan."""
    return math.inf if mse == 0 else 10.0 * math.log10(PEAK * PEAK / mse)


def mean_psnr(values: list[float]) -> float:
    """Mean of PSNRs in dB, of frames or of videos, without nan; inf only if every one is.

    An identical frame has no finite PSNR, and one of them (a black first frame, say) must not turn a whole
    video into "inf": it is left out of the mean, which errs on the low side.
    """
    defined = [value for value in values if not math.isnan(value)]
    finite = [value for value in defined if math.isfinite(value)]
    if defined and not finite:
        return math.inf
    return nan_mean(finite)


def _meter(_: None) -> FrameMeter:
    return FrameMeter(psnr_by_frame, {"psnr": mean_psnr, "identical_frames": lambda each: sum(map(math.isinf, each))})


PSNR = PairMetric(
    "psnr",
    "PSNR",
    "dB, 10 log10(255^2 / MSE) of each frame, mean over frames; identical frames are left out of the mean "
    "(all identical: inf)",
    unit="dB",
    show_brief=decimals(2),
    mean=mean_psnr,
    meter=_meter,
)
IDENTICAL_FRAMES = PairMetric(
    "identical_frames",
    "",
    "number of frames that are left out of the mean PSNR because nothing differs in them",
    family="psnr",
    show=decimals(0),
    mean=sum,
    meter=_meter,
)
