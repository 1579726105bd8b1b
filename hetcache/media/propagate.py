"""What other frames show of the masked pixels: the known background is carried into the hole before a model sees it.

Per frame, the nearest frames in which a hidden pixel is uncovered are brought over by the camera's motion, refined by
dense flow (DIS) where that alone does not fit the surroundings, matched in exposure on what both frames show, and
weighed by how well they fit around the hole. What no frame shows is interpolated (`push_pull_fill`). Nothing under the
mask is ever read: every step works on frames in which it has been replaced.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from hetcache.media.fill import GREY, fill_under_mask
from hetcache.media.motion import Homography, Motion, estimate_motion

Frames = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Plane = NDArray[np.float32]

NUM_SAMPLES = 5
# Around the hole: the pixels on which alignment, exposure and fit are judged.
RING_PX = 24
# The outline of an object bleeds over a mask that fits tightly.
SHY_PX = 2
# Mean error around the hole, in grey levels: above the first, dense flow is tried; at the second, a sample's weight is
# 1/e.
FLOW_ABOVE = 4.0
TOLERANCE = 12.0
LEAST_CONFIDENCE = 0.1
# DIS at its fast preset reads outside its own pyramid, and crashes, where a picture is lower than this and wide.
LEAST_SIDE_PX = 32
# A mean error around the hole of about 7 grey levels.
KEPT_CONFIDENCE = 0.7
# Gain and offset of an exposure are fitted on about so many pixels of the surroundings, evenly picked.
ENOUGH_PIXELS = 4096


@dataclass(frozen=True)
class Filled:
    """`frames_THWC` equals the source outside `mask_THW`. `seen_THW` is 1 outside it, the confidence in 0..1 where
    other frames showed the pixel, and 0 where it was interpolated."""

    frames_THWC: Frames
    seen_THW: Plane
    mask_THW: Mask

    @property
    def kept_THW(self) -> Mask:
        """The masked pixels that other frames show surely enough to count as known (`--keep-seen`)."""
        return self.mask_THW & (self.seen_THW >= KEPT_CONFIDENCE)


@dataclass(frozen=True)
class _View:
    """One frame's surroundings as another frame shows them: `hidden` where that one is masked or ends."""

    pixels_HWC: Plane
    hidden: Mask


def propagate_fill(frames_THWC: Frames, mask_THW: Mask, reach: int | None = None, only: slice = slice(None)) -> Filled:
    """Fill the masked pixels of uint8 RGB [T, H, W, 3] from at most `reach` frames before and after (None: all).

    The frames `only` are filled and returned; the others only show what they know. Raises ValueError on shapes that do
    not match.
    """
    if mask_THW.shape != frames_THWC.shape[:3]:
        raise ValueError(f"mask has shape {mask_THW.shape}, expected {frames_THWC.shape[:3]}")
    blind_THWC = np.stack([without_masked(frame, mask) for frame, mask in zip(frames_THWC, mask_THW, strict=True)])
    motion = estimate_motion(blind_THWC, mask_THW)
    shy_THW = np.stack([_grown(mask, SHY_PX) for mask in mask_THW])
    wanted = range(len(frames_THWC))[only]
    filled_THWC = blind_THWC[only].copy()
    seen_THW = (~mask_THW[only]).astype(np.float32)
    for place, index in enumerate(wanted):
        if mask_THW[index].any():
            _fill_frame(index, blind_THWC, mask_THW, shy_THW, motion, reach, filled_THWC[place], seen_THW[place])
    unseen_THW = mask_THW[only] & (seen_THW == 0)
    if unseen_THW.any():
        filled_THWC = fill_under_mask(filled_THWC, unseen_THW, "push_pull")
    return Filled(filled_THWC, seen_THW, mask_THW[only])


def _fill_frame(
    index: int,
    blind_THWC: Frames,
    mask_THW: Mask,
    shy_THW: Mask,
    motion: Motion,
    reach: int | None,
    filled_HWC: Frames,
    seen: Plane,
) -> None:
    """Write what other frames show into `filled_HWC` and how surely into `seen`."""
    top, bottom, left, right = _surroundings(mask_THW[index])
    box = np.s_[top:bottom, left:right]
    hole = mask_THW[index][box]
    here = _View(blind_THWC[index][box].astype(np.float32), shy_THW[index][box])
    to_box = np.array([[1.0, 0, left], [0, 1, top], [0, 0, 1]])
    samples: list[tuple[Plane, Plane]] = []
    missing = np.where(hole, NUM_SAMPLES, 0)
    for other in _nearest_first(index, len(blind_THWC), reach):
        way = motion.between(index, other)
        if way is None:
            continue
        hidden = _warped_mask(shy_THW[other], way @ to_box, hole.shape)
        if not (~hidden & (missing > 0)).any():
            continue
        view = _View(_warped(blind_THWC[other], way @ to_box, hole.shape), hidden)
        pixels_HWC, weight = _fitted(here, view)
        weight = np.where(hole, weight, 0)
        if (weight > LEAST_CONFIDENCE).any():
            samples.append((pixels_HWC[hole], weight[hole]))
            missing -= weight > LEAST_CONFIDENCE
        if not (missing > 0).any():
            break
    if samples:
        values_NC, confidence_N = _agreed(samples)
        shown_N = confidence_N > LEAST_CONFIDENCE
        known = hole.copy()
        known[hole] = shown_N
        filled_HWC[box][known] = values_NC[shown_N].round().clip(0, 255).astype(np.uint8)
        seen[box][known] = confidence_N[shown_N]


def _nearest_first(index: int, count: int, reach: int | None) -> Iterator[int]:
    """Frames by distance, earlier before later; ever fewer of those further away than 8."""
    furthest = count if reach is None else min(reach, count)
    distance = 1
    while distance <= furthest:
        yield from (other for other in (index - distance, index + distance) if 0 <= other < count)
        distance += max(1, distance // 8)


def _fitted(here: _View, there: _View) -> tuple[Plane, Plane]:
    """(pixels, weights in 0..1) of `there` as `here` would show them; 0 where it shows nothing."""
    ring = ~(here.hidden | there.hidden)
    if ring.sum() < 64:
        return there.pixels_HWC, np.where(there.hidden, 0, 2 * LEAST_CONFIDENCE).astype(np.float32)
    matched, error = _matched(here, there, ring)
    if error[ring].mean() > FLOW_ABOVE:
        refined = _refined(here, _View(matched, there.hidden), ring)
        ring_too = ~(here.hidden | refined.hidden)
        if ring_too.sum() >= 64:
            again, error_too = _matched(here, refined, ring_too)
            if error_too[ring_too].mean() < error[ring].mean():
                matched, error, ring, there = again, error_too, ring_too, refined
    local = _spread(error, ring)
    weight = np.exp(-((local / TOLERANCE) ** 2))
    return matched, np.where(there.hidden, 0, weight).astype(np.float32)


def _matched(here: _View, there: _View, ring: Mask) -> tuple[Plane, Plane]:
    """(pixels with gain and offset per channel that fit `here` on the ring, mean absolute error per pixel)."""
    every = max(1, int(ring.sum()) // ENOUGH_PIXELS)
    a, b = there.pixels_HWC[ring][::every], here.pixels_HWC[ring][::every]
    close = np.ones(len(a), bool)
    gain, offset = np.ones(3, np.float32), np.zeros(3, np.float32)
    for _ in range(3):
        mean_a, mean_b = a[close].mean(0), b[close].mean(0)
        spread = np.square(a[close] - mean_a).mean(0)
        shared = ((a[close] - mean_a) * (b[close] - mean_b)).mean(0)
        # Little contrast says little about the gain.
        gain = np.clip((shared + 25) / (spread + 25), 0.5, 2).astype(np.float32)
        offset = (mean_b - gain * mean_a).astype(np.float32)
        residual = np.abs(gain * a + offset - b).mean(1)
        close = residual <= 2 * np.median(residual) + 1
    pixels_HWC = there.pixels_HWC * gain + offset
    return pixels_HWC, np.abs(pixels_HWC - here.pixels_HWC).mean(2)


def _refined(here: _View, there: _View, ring: Mask) -> _View:
    """`there` moved by the dense flow between the two, which is checked forward and backward where both are known and
    completed smoothly elsewhere."""
    a, b = (cv2.cvtColor(v.pixels_HWC.clip(0, 255).astype(np.uint8), cv2.COLOR_RGB2GRAY) for v in (here, there))
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    if min(a.shape) < LEAST_SIDE_PX:
        return there
    forward, backward = flow.calc(a, b, None), flow.calc(b, a, None)
    grid = np.stack(np.meshgrid(np.arange(a.shape[1]), np.arange(a.shape[0])), -1).astype(np.float32)
    back = _remap(backward, grid + forward)
    sure = ring & (np.linalg.norm(forward + back, axis=2) < 1)
    if sure.sum() < 64:
        return there
    smooth = np.stack([_spread(forward[..., i], sure) for i in (0, 1)], -1)
    moved = grid + np.where(sure[..., None], forward, smooth)
    hidden = cv2.remap(there.hidden.astype(np.uint8), moved, None, cv2.INTER_LINEAR, borderValue=1) > 0
    return _View(_remap(there.pixels_HWC, moved), hidden)


def _agreed(samples: list[tuple[Plane, Plane]]) -> tuple[Plane, Plane]:
    """(per pixel the weighted median of its samples in each channel, the largest weight)."""
    values = np.stack([pixels for pixels, _ in samples])
    weights = np.stack([weight for _, weight in samples])
    weights = np.where(weights > LEAST_CONFIDENCE, weights, 0)
    # Only the first NUM_SAMPLES of a pixel count: the nearest in time.
    weights[(np.cumsum(weights > 0, axis=0) > NUM_SAMPLES)] = 0
    order = np.argsort(values, axis=0)
    sorted_weights = np.take_along_axis(np.broadcast_to(weights[..., None], values.shape), order, axis=0)
    running = np.cumsum(sorted_weights, axis=0)
    middle = (running >= running[-1:] / 2).argmax(0)[None]
    chosen = np.take_along_axis(np.take_along_axis(values, order, axis=0), middle, axis=0)[0]
    return chosen, weights.max(0)


def _spread(plane: Plane, known: Mask) -> Plane:
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


def without_masked(frame_HWC: Frames, mask: Mask) -> Frames:
    """The frame with smooth colours in place of what is masked."""
    if not mask.any():
        return frame_HWC
    if mask.all():
        return np.full_like(frame_HWC, GREY)
    channels = [_spread(frame_HWC[..., i].astype(np.float32), ~mask) for i in range(3)]
    return np.where(mask[..., None], np.stack(channels, -1).round().clip(0, 255).astype(np.uint8), frame_HWC)


def _surroundings(mask: Mask) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of the mask's box with RING_PX around it, inside the frame."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    height, width = mask.shape
    return (
        max(rows[0] - RING_PX, 0),
        min(rows[-1] + 1 + RING_PX, height),
        max(columns[0] - RING_PX, 0),
        min(columns[-1] + 1 + RING_PX, width),
    )


def _grown(mask: Mask, px: int) -> Mask:
    return np.asarray(cv2.dilate(mask.astype(np.uint8), np.ones((2 * px + 1, 2 * px + 1), np.uint8)) > 0)


def _warped(frame_HWC: Frames, way: Homography, shape: tuple[int, ...]) -> Plane:
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpPerspective(frame_HWC, way, shape[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(warped, np.float32)


def _warped_mask(mask: Mask, way: Homography, shape: tuple[int, ...]) -> Mask:
    """Where any of the pixels that `_warped` reads is masked or outside."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpPerspective(mask.astype(np.float32), way, shape[::-1], flags=flags, borderValue=1) > 1e-3)


def _remap(plane: Plane, to: Plane) -> Plane:
    return np.asarray(cv2.remap(plane, to, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))
