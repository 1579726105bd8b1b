"""What other frames show of the masked pixels: the known background is carried into the hole before a model sees it.

Per frame, the nearest frames in which a hidden pixel is uncovered are brought over by the camera's motion, refined by
dense flow (DIS) where that alone does not fit the surroundings, matched in exposure on what both frames show, and
weighed by how well they fit around the hole (`align.py`). Of these the values count that most times agree on
(`consensus.py`), so that nobody who walks past is pasted into the hole. What no frame shows is interpolated
(`push_pull_fill`). Nothing under the mask is ever read: every step works on frames in which it has been replaced.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from hetcache.media.align import LEAST_CONFIDENCE, View, fitted, spread, warped, warped_mask
from hetcache.media.consensus import NUM_SAMPLES, Sample, agreed
from hetcache.media.fill import GREY, fill_under_mask
from hetcache.media.motion import Motion, estimate_motion

Frames = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Plane = NDArray[np.float32]

# Around the hole: the pixels on which alignment, exposure and fit are judged.
RING_PX = 24
# The outline of an object bleeds over a mask that fits tightly.
SHY_PX = 2
# A mean error around the hole of about 7 grey levels.
KEPT_CONFIDENCE = 0.7
# Beyond the frames that are looked into because they uncover a pixel, one at each distance so many times the last one's
# says what is there at other times, if it shows so much of the hole and the camera's motion alone fits.
WITNESS_FROM, WITNESS_EVERY = 4, 1.5
LEAST_SHOWN = 0.05


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
    here = View(blind_THWC[index][box].astype(np.float32), shy_THW[index][box])
    to_box = np.array([[1.0, 0, left], [0, 1, top], [0, 0, 1]])
    samples: list[Sample] = []
    missing = np.where(hole, NUM_SAMPLES, 0)
    for other, is_witness in _nearest_first(index, len(blind_THWC), reach):
        way = motion.between(index, other)
        wanted = (missing > 0).any()
        if way is None or not (wanted or is_witness):
            continue
        hidden = warped_mask(shy_THW[other], way @ to_box, hole.shape)
        wanted = wanted and (~hidden & (missing > 0)).any()
        if not (wanted or (is_witness and (hole & ~hidden).sum() > LEAST_SHOWN * hole.sum())):
            continue
        view = View(warped(blind_THWC[other], way @ to_box, hole.shape), hidden)
        match = fitted(here, view, with_flow=bool(wanted))
        if match is not None:
            samples.append(Sample(other - index, match, match.weight()))
            missing -= hole & (samples[-1].weight > LEAST_CONFIDENCE)
    if samples:
        values_NC, confidence_N = agreed(here, samples, hole)
        shown_N = confidence_N > LEAST_CONFIDENCE
        known = hole.copy()
        known[hole] = shown_N
        filled_HWC[box][known] = values_NC[shown_N].round().clip(0, 255).astype(np.uint8)
        seen[box][known] = confidence_N[shown_N]


def _nearest_first(index: int, count: int, reach: int | None) -> Iterator[tuple[int, bool]]:
    """(frame, whether it is a witness) by distance, earlier before later; ever fewer of those further away than 8."""
    furthest = count if reach is None else min(reach, count)
    distance, witness_from = 1, float(WITNESS_FROM)
    while distance <= furthest:
        is_witness = distance >= witness_from
        yield from ((other, is_witness) for other in (index - distance, index + distance) if 0 <= other < count)
        distance, witness_from = (
            distance + max(1, distance // 8),
            WITNESS_EVERY * distance if is_witness else witness_from,
        )


def without_masked(frame_HWC: Frames, mask: Mask) -> Frames:
    """The frame with smooth colours in place of what is masked."""
    if not mask.any():
        return frame_HWC
    if mask.all():
        return np.full_like(frame_HWC, GREY)
    channels = [spread(frame_HWC[..., i].astype(np.float32), ~mask) for i in range(3)]
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
