"""One frame's surroundings of a hole as another frame shows them: moved by the camera's motion and, where that does not
fit, by dense flow (DIS), matched in exposure, weighed by how well they fit around the hole."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from hetcache.media.motion import Homography

Frames = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Plane = NDArray[np.float32]

# Mean error around the hole, in grey levels: above the first, dense flow is tried; at the second, a sample's weight is
# 1/e. The median, which somebody who walks by does not raise: up to it, the camera's motion alone fits.
FLOW_ABOVE = 4.0
FITS_BELOW = 6.0
TOLERANCE = 12.0
LEAST_CONFIDENCE = 0.1
# DIS at its fast preset reads outside its own pyramid, and crashes, where a picture is lower than this and wide.
LEAST_SIDE_PX = 32
# Gain and offset of an exposure are fitted on about so many pixels of the surroundings, evenly picked; with fewer than
# the second, nothing is.
ENOUGH_PIXELS = 4096
LEAST_PIXELS = 64
MEAN_OF_CHANNELS = np.full((1, 3), 1 / 3, np.float32)


@dataclass(frozen=True)
class View:
    """Pixels of a box, [H, W, 3], and where they are `hidden`: masked, or beyond the frame."""

    pixels_HWC: Plane
    hidden: Mask

    @cached_property
    def grey(self) -> Frames:
        return np.asarray(cv2.cvtColor(self.pixels_HWC.clip(0, 255).astype(np.uint8), cv2.COLOR_RGB2GRAY))


@dataclass(frozen=True)
class Match:
    """`view` as another one would show it, and the mean absolute error per pixel; `ring`: where both are known."""

    view: View
    error: Plane
    ring: Mask
    mean_error: float
    median_error: float

    def weight(self, counts: Mask | None = None) -> Plane:
        """[H, W] in 0..1 by the fit nearby, on the part of the ring that `counts`; 0 where the view is hidden."""
        ring = self.ring if counts is None else self.ring & counts
        if ring.sum() < LEAST_PIXELS:
            return np.where(self.view.hidden, 0, 2 * LEAST_CONFIDENCE).astype(np.float32)
        weight = np.exp(-((spread(self.error, ring) / TOLERANCE) ** 2))
        return np.where(self.view.hidden, 0, weight).astype(np.float32)


def fitted(here: View, there: View, with_flow: bool = True) -> Match | None:
    """`there` as `here` would show it. None without flow where the camera's motion alone does not fit."""
    match = _matched(here, there)
    if not with_flow:
        return match if match.median_error <= FITS_BELOW else None
    if FLOW_ABOVE < match.mean_error < np.inf:
        again = _matched(here, _refined(here, match.view, match.ring))
        if again.mean_error < match.mean_error:
            return again
    return match


def _matched(here: View, there: View) -> Match:
    """`there` with gain and offset per channel that fit `here` where both are known; as it is, with infinite errors,
    where that is hardly anywhere."""
    ring = ~(here.hidden | there.hidden)
    places = np.flatnonzero(ring)
    if len(places) < LEAST_PIXELS:
        return Match(there, np.zeros(ring.shape, np.float32), ring, np.inf, np.inf)
    picked = places[:: max(1, len(places) // ENOUGH_PIXELS)]
    gain, offset = _exposure(there.pixels_HWC.reshape(-1, 3)[picked], here.pixels_HWC.reshape(-1, 3)[picked])
    pixels_HWC = there.pixels_HWC * gain + offset
    error = cv2.transform(cv2.absdiff(pixels_HWC, here.pixels_HWC), MEAN_OF_CHANNELS)
    errors = error.ravel()[places], error.ravel()[picked]
    return Match(View(pixels_HWC, there.hidden), error, ring, float(errors[0].mean()), float(np.median(errors[1])))


def _exposure(there_N3: Plane, here_N3: Plane) -> tuple[Plane, Plane]:
    """(gain, offset) per channel; what moved between the two is left out in three rounds."""
    a_CN, b_CN = np.ascontiguousarray(there_N3.T), np.ascontiguousarray(here_N3.T)
    close = np.ones(a_CN.shape[1], bool)
    for _ in range(3):
        a, b = a_CN[:, close], b_CN[:, close]
        mean_a, mean_b = a.mean(1), b.mean(1)
        apart = a - mean_a[:, None]
        # Little contrast says little about the gain.
        shared = (apart * (b - mean_b[:, None])).mean(1)
        gain = np.clip((shared + 25) / (np.square(apart).mean(1) + 25), 0.5, 2).astype(np.float32)
        offset = (mean_b - gain * mean_a).astype(np.float32)
        residual = np.abs(gain[:, None] * a_CN + offset[:, None] - b_CN).mean(0)
        close = residual <= 2 * np.median(residual) + 1
    return gain, offset


def _refined(here: View, there: View, ring: Mask) -> View:
    """`there` moved by the dense flow between the two, which is checked forward and backward where both are known and
    completed smoothly elsewhere."""
    a, b = here.grey, there.grey
    if min(a.shape) < LEAST_SIDE_PX:
        return there
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    forward, backward = flow.calc(a, b, None), flow.calc(b, a, None)
    grid = np.stack(np.meshgrid(np.arange(a.shape[1]), np.arange(a.shape[0])), -1).astype(np.float32)
    back = _remap(backward, grid + forward)
    sure = ring & (np.linalg.norm(forward + back, axis=2) < 1)
    if sure.sum() < LEAST_PIXELS:
        return there
    smooth = np.stack([spread(forward[..., i], sure) for i in (0, 1)], -1)
    moved = grid + np.where(sure[..., None], forward, smooth)
    hidden = cv2.remap(there.hidden.astype(np.uint8), moved, None, cv2.INTER_LINEAR, borderValue=1) > 0
    return View(_remap(there.pixels_HWC, moved), hidden)


def spread(plane: Plane, known: Mask) -> Plane:
    """The values of the known pixels, averaged nearby and carried to all others: a pyramid of weighted means."""
    weight = known.astype(np.float32)
    value, total = plane * weight, weight
    levels = [(value, total)]
    while min(value.shape) > 4:
        value, total = cv2.pyrDown(value), cv2.pyrDown(total)
        levels.append((value, total))
    result = levels[-1][0] / np.maximum(levels[-1][1], 1e-6)
    for value, total in levels[-2:0:-1]:
        result = cv2.pyrUp(result, dstsize=value.shape[::-1])
        # Where a quarter of the neighbourhood is known it speaks for itself.
        trust = np.minimum(4 * total, 1)
        result = trust * value / np.maximum(total, 1e-6) + (1 - trust) * result
    return np.asarray(cv2.pyrUp(result, dstsize=plane.shape[::-1]) if len(levels) > 1 else result)


def warped(frame_HWC: Frames, way: Homography, shape: tuple[int, ...]) -> Plane:
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    there = cv2.warpPerspective(frame_HWC, way, shape[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(there, np.float32)


def warped_mask(mask: Mask, way: Homography, shape: tuple[int, ...]) -> Mask:
    """Where any of the pixels that `warped` reads is masked or outside."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpPerspective(mask.astype(np.float32), way, shape[::-1], flags=flags, borderValue=1) > 1e-3)


def _remap(plane: Plane, to: Plane) -> Plane:
    return np.asarray(cv2.remap(plane, to, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))
