"""Put a generated region back so that it holds: its colours follow the known ring around it, its grain the picture's.

Both look only at what the mask does not cover and change only what it does. Arrays are uint8 RGB [T, H, W, 3] and bool
masks [T, H, W] of one size.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Plane = NDArray[np.float32]

RING_PX = 12
STEADY_FRAMES = 4.0
# In grey levels: what may be corrected at most, and how strongly slopes are held back where the ring says little.
LARGEST = 16.0
SLOPE_RIDGE = 0.02
# Grain is what a Gaussian of this width takes away, in pixels; its size and strength are measured in bands.
GRAIN_SIGMAS = (0.7, 1.4)
# The wider Gaussian's kernel reaches this far: nearer to the mask it would read under it.
GRAIN_REACH_PX = 6
MIN_RING = 64


def match_colour(edit_THWC: Frames, source_THWC: Frames, mask_THW: Mask, unsure_px: int = 0) -> Frames:
    """`edit_THWC` with, inside the mask, the difference between source and edit on the ring around it added: per frame
    and channel a plane over the picture, averaged over neighbouring frames and limited to 16 grey levels. Within
    `unsure_px` of the mask the source is not looked at: scaling may have drawn what is under the mask into it."""
    fields = [
        _plane_coefficients(edit, source, mask | ring_around(mask, unsure_px) if unsure_px else mask)
        for edit, source, mask in zip(edit_THWC, source_THWC, mask_THW, strict=True)
    ]
    weights_T = np.array([weight for _, weight in fields], np.float32)
    if not weights_T.any():
        return edit_THWC
    steady_T3C = _steady(np.stack([coefficients for coefficients, _ in fields]), weights_T)
    matched_THWC: Frames = edit_THWC.copy()
    y, x = _coordinates(mask_THW.shape[1:])
    for index, mask in enumerate(mask_THW):
        if mask.any():
            columns = np.stack([np.ones(int(mask.sum()), np.float32), y[mask], x[mask]], 1)
            change = (columns @ steady_T3C[index]).clip(-LARGEST, LARGEST)
            matched_THWC[index][mask] = (edit_THWC[index][mask] + change).round().clip(0, 255).astype(np.uint8)
    return matched_THWC


def regrain(edit_THWC: Frames, source_THWC: Frames, mask_THW: Mask, seed: int) -> Frames:
    """`edit_THWC` with, inside the mask, the grain that the ring around it has and the edit lacks: luminance noise in
    two bands of frequency, one strength for the whole clip, the same for the same seed."""
    lacking = lacking_grain(edit_THWC, source_THWC, mask_THW)
    if not lacking.any():
        return edit_THWC
    frames = zip(edit_THWC, mask_THW, strict=True)
    return np.stack([with_grain(frame, mask, lacking, (seed, index)) for index, (frame, mask) in enumerate(frames)])


def with_grain(frame_HWC: Frames, mask: Mask, strengths: Plane, seed: tuple[int, int]) -> Frames:
    """One frame of `regrain`: noise of `strengths` (see `lacking_grain`), the same for the same seed, of the clip and
    the frame."""
    if not mask.any():
        return frame_HWC
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    inside = mask[box]
    bands = _bands(np.random.default_rng(seed).standard_normal(inside.shape, np.float32))
    added = sum(gain * band / max(band.std(), 1e-6) for gain, band in zip(strengths, bands, strict=True))
    grained_HWC: Frames = frame_HWC.copy()
    values = frame_HWC[box][inside] + np.asarray(added)[inside][:, None]
    grained_HWC[box][inside] = values.round().clip(0, 255).astype(np.uint8)
    return grained_HWC


def ring_around(mask: Mask, px: int = RING_PX) -> Mask:
    """The pixels within `px` of the mask and not in it."""
    side = 2 * px + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    return np.asarray((cv2.dilate(mask.astype(np.uint8), kernel) > 0) & ~mask)


def _plane_coefficients(edit_HWC: Frames, source_HWC: Frames, mask: Mask) -> tuple[Plane, float]:
    """([3, C] of constant, slope down and slope right; how many ring pixels say so, 0 for too few)."""
    ring = ring_around(mask) if mask.any() else mask
    count = int(ring.sum())
    if count < MIN_RING:
        return np.zeros((3, 3), np.float32), 0.0
    y, x = _coordinates(mask.shape)
    columns = np.stack([np.ones(count, np.float32), y[ring], x[ring]], 1)
    difference = source_HWC[ring].astype(np.float32) - edit_HWC[ring]
    # Edges that the edit has a pixel off would pull the plane: the middle of the differences counts.
    low, high = np.percentile(difference, (5, 95), axis=0)
    difference = difference.clip(low, high)
    ridge = count * np.diag([0, SLOPE_RIDGE, SLOPE_RIDGE]).astype(np.float32)
    solved = np.linalg.solve(columns.T @ columns + ridge, columns.T @ difference)
    return solved.astype(np.float32), float(count)


def _steady(coefficients_T3C: Plane, weights_T: Plane) -> Plane:
    """Weighted means over neighbouring frames, a Gaussian of STEADY_FRAMES."""
    frames = np.arange(len(weights_T))
    kernel = np.exp(-0.5 * ((frames[:, None] - frames) / STEADY_FRAMES) ** 2) * weights_T
    kernel /= np.maximum(kernel.sum(1, keepdims=True), 1e-12)
    steady_T3C: Plane = np.einsum("ts,sij->tij", kernel, coefficients_T3C).astype(np.float32)
    return steady_T3C


def _coordinates(shape: tuple[int, ...]) -> tuple[Plane, Plane]:
    """Rows and columns as -1..1."""
    y, x = np.meshgrid(np.linspace(-1, 1, shape[0]), np.linspace(-1, 1, shape[1]), indexing="ij")
    return y.astype(np.float32), x.astype(np.float32)


def _bands(plane: Plane) -> list[Plane]:
    """What each of GRAIN_SIGMAS takes away beyond the one before: fine grain, coarser grain."""
    smooth = [plane, *(cv2.GaussianBlur(plane, (0, 0), sigma) for sigma in GRAIN_SIGMAS)]
    return [np.asarray(fine - coarse) for fine, coarse in zip(smooth, smooth[1:], strict=False)]


def lacking_grain(edit_THWC: Frames, source_THWC: Frames, mask_THW: Mask) -> Plane:
    """Per band, fine and coarser, the standard deviation of the noise to add in grey levels: robust, so that edges do
    not count as grain."""
    found: list[list[float]] = []
    for edit, source, mask in zip(edit_THWC, source_THWC, mask_THW, strict=True):
        near = mask | ring_around(mask, 2 * GRAIN_REACH_PX)
        ring = ring_around(mask, 3 * RING_PX) & ~near if mask.any() else mask
        if min(ring.sum(), mask.sum()) < MIN_RING:
            continue
        around, inside = (_bands(cv2.cvtColor(f, cv2.COLOR_RGB2GRAY).astype(np.float32)) for f in (source, edit))
        found.append([_deviation(a[ring]) ** 2 - _deviation(b[mask]) ** 2 for a, b in zip(around, inside, strict=True)])
    if not found:
        return np.zeros(len(GRAIN_SIGMAS), np.float32)
    return np.sqrt(np.maximum(np.median(found, axis=0), 0)).astype(np.float32)


def _deviation(values: Plane) -> float:
    """The standard deviation that the middle half of normal values with this spread would have."""
    quarter, three_quarters = np.percentile(values, (25, 75))
    return float((three_quarters - quarter) / 1.349)
