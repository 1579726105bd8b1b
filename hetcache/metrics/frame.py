"""PSNR and windowed SSIM of frames and videos, in scikit-image's definitions, whole or inside a mask."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from hetcache.metrics.errors import MetricError, optional_import

PEAK = 255.0
SSIM_WINDOW = 7
SSIM_MARGIN = (SSIM_WINDOW - 1) // 2

Frame = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def psnr(a: Frame, b: Frame, mask: Mask | None = None) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 arrays, [H, W, 3] or [T, H, W, 3]; peak 255.

    One frame: 10 log10(255^2 / MSE), as `skimage.metrics.peak_signal_noise_ratio`. A video: the mean over its
    frames (see `mean_psnr` for frames that are identical). `mask` (bool, [H, W] or [T, H, W]) restricts the
    MSE to its pixels; frames where it is empty do not count. Identical: inf. Nothing to measure: nan.
    Raises MetricError when shapes or dtypes do not fit.
    """
    frames_a, frames_b, masks = _as_videos(a, b, mask)
    errors = [masked_mean(squared_error(x, y), m) for x, y, m in zip(frames_a, frames_b, masks, strict=True)]
    return mean_psnr([psnr_from_mse(error) for error in errors])


def ssim(a: Frame, b: Frame, mask: Mask | None = None) -> float:
    """Windowed structural similarity of two uint8 arrays, [H, W, 3] or [T, H, W, 3]: the mean over frames.

    One frame: `skimage.metrics.structural_similarity(channel_axis=-1, data_range=255)`, a 7x7 uniform window.
    `mask` (bool, [H, W] or [T, H, W]) takes the mean of the SSIM map inside it instead; like scikit-image's
    own mean, it leaves out the 3-pixel frame border, so that a full mask gives the unmasked value. Nothing to
    measure: nan. Raises MetricError when shapes or dtypes do not fit or a side is under 7 pixels.
    """
    frames_a, frames_b, masks = _as_videos(a, b, mask)
    values = [masked_mean(ssim_map(x, y), m, SSIM_MARGIN) for x, y, m in zip(frames_a, frames_b, masks, strict=True)]
    return nan_mean(values)


def squared_error(a: Frame, b: Frame) -> NDArray[np.float64]:
    """Squared error (0 to 255^2) of one frame pair, uint8 [H, W, 3] -> [H, W], the mean over channels."""
    difference = np.subtract(a, b, dtype=np.int32)
    return np.einsum("hwc,hwc->hw", difference, difference) / 3.0


def psnr_from_mse(mse: float) -> float:
    """PSNR in dB of a mean squared error on the 0..255 scale; 0 gives inf, nan stays nan."""
    return math.inf if mse == 0 else 10.0 * math.log10(PEAK * PEAK / mse)


def mean_psnr(values: list[float]) -> float:
    """Mean of per-frame PSNRs in dB, without nan; inf only if every frame is identical.

    An identical frame has no finite PSNR, and one of them (a black first frame, say) must not turn a whole
    video into "inf": it is left out of the mean, which errs on the low side.
    """
    defined = [value for value in values if not math.isnan(value)]
    finite = [value for value in defined if math.isfinite(value)]
    if defined and not finite:
        return math.inf
    return nan_mean(finite)


def nan_mean(values: list[float]) -> float:
    """Mean of the values that are not nan; nan when there is none."""
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan


def ssim_map(a: Frame, b: Frame) -> NDArray[np.float64]:
    """SSIM of every pixel of one frame pair, uint8 [H, W, 3] -> float64 [H, W], the mean over channels."""
    if min(a.shape[:2]) < SSIM_WINDOW:
        raise MetricError(f"frames of {a.shape[1]}x{a.shape[0]} are too small for SSIM: {SSIM_WINDOW} pixels a side")
    metrics = optional_import("skimage.metrics", "scikit-image", "SSIM")
    _, full = metrics.structural_similarity(a, b, win_size=SSIM_WINDOW, channel_axis=-1, data_range=PEAK, full=True)
    return np.asarray(full.mean(axis=2))


def masked_mean(values: NDArray[np.floating], mask: Mask | None, border: int = 0) -> float:
    """Mean of a map [H, W] inside `mask` [H, W], without `border` pixels at the edge; nan if empty."""
    inner = slice(border, -border or None)
    values = values[inner, inner]
    if mask is not None:
        values = values[mask[inner, inner]]
    return float(np.mean(values, dtype=np.float64)) if values.size else math.nan


def _as_videos(a: Frame, b: Frame, mask: Mask | None) -> tuple[Frame, Frame, list[Mask | None]]:
    """Check the inputs and give them a leading time axis; one mask (or None) per frame."""
    if a.shape != b.shape:
        raise MetricError(f"the two inputs differ in shape, {a.shape} and {b.shape}: resize or cut one of them")
    if a.ndim not in (3, 4) or a.shape[-1] != 3 or a.dtype != np.uint8 or b.dtype != np.uint8:
        raise MetricError(
            f"frames must be uint8 [H, W, 3] or [T, H, W, 3], not {a.dtype} and {b.dtype} {list(a.shape)}"
        )
    if a.size == 0:
        raise MetricError(f"there are no pixels to compare in an input of shape {list(a.shape)}")
    if a.ndim == 3:
        a, b = a[None], b[None]
    if mask is None:
        return a, b, [None] * len(a)
    if mask.dtype != np.bool_ or mask.shape[-2:] != a.shape[1:3] or mask.shape not in (a.shape[:3], a.shape[1:3]):
        raise MetricError(
            f"the mask must be bool {list(a.shape[1:3])} or {list(a.shape[:3])}, not {mask.dtype} {list(mask.shape)}"
        )
    return a, b, list(np.broadcast_to(mask, a.shape[:3]))
