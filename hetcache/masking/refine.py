"""A mask from frame to frame: dense flow moves it, colours say where it holds, the picture's edges where it ends."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from hetcache.masking.flow import Flow, flow_between, grid
from hetcache.masking.guided import guided_filter
from hetcache.masking.looks import Looks, lab, place_px
from hetcache.masking.track import Mask, Plane

Frame = NDArray[np.uint8]
Box = tuple[slice, slice]

REACH_SHARE = 0.15
"""So far from where it was carried to, as a share of the square root of its area, the thing may have grown."""

LEAST_REACH_PX = 12
KEY_WEIGHT = 0.5
"""How much the keyframe's colours count beside the last frame's."""

FAINT = 0.1
MOST_LOG_ODDS = 3.0
SHARPNESS = 3.0


class Carrier:
    """Starts with a keyframe and its mask; `next` gives the opacity [H, W] of the following frame and a confidence."""

    def __init__(self, frame: Frame, mask: Mask) -> None:
        self.frame, self.lab_HW3 = frame, lab(frame)
        self.opacity_HW: Plane = mask.astype(np.float32)
        self.key_lab_HW3, self.key_opacity_HW = self.lab_HW3, self.opacity_HW
        self.to_key_HW2 = grid(*mask.shape)
        self.place_px = place_px((mask.shape[0], mask.shape[1]))

    def next(self, frame: Frame) -> tuple[Plane, float]:
        flow = flow_between(self.frame, frame)
        lab_HW3 = lab(frame)
        carried = flow.carry(self.opacity_HW)
        self.to_key_HW2 = cv2.remap(self.to_key_HW2, flow.to_HW2, None, cv2.INTER_LINEAR, borderValue=(-1e4, -1e4))
        opacity, confidence = np.zeros_like(carried), 1.0
        if (carried > FAINT).any():
            opacity, confidence = self._refined(frame, lab_HW3, carried, flow)
        self.frame, self.lab_HW3, self.opacity_HW = frame, lab_HW3, opacity
        return opacity, confidence

    def _refined(self, frame: Frame, lab_HW3: Plane, carried: Plane, flow: Flow) -> tuple[Plane, float]:
        near, box = _surroundings(carried)
        colours = self._log_odds(lab_HW3[box], near[box], flow.to_HW2[box], carried[box], self.to_key_HW2[box])
        prior = cv2.GaussianBlur(carried[box], (0, 0), 1.0).clip(0.02, 0.98)
        odds = np.log(prior / (1 - prior)) + colours
        odds[~near[box]] = -4
        odds = guided_filter(frame[box].astype(np.float32) / 255, odds.astype(np.float32))
        inside = 1 / (1 + np.exp(-SHARPNESS * odds))
        opacity = np.zeros_like(carried)
        opacity[box] = _without_islands(inside.astype(np.float32), carried[box])
        return opacity, _confidence(opacity, carried, flow)

    def _log_odds(self, lab_HW3: Plane, near: Mask, to_HW2: Plane, carried: Plane, to_key_HW2: Plane) -> Plane:
        """For the thing and against it, by colour and place, from the last frame and from the keyframe; 0 elsewhere."""
        last = cv2.remap(self.lab_HW3, to_HW2, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        thing, rest = Looks.of(last, carried, None, self.place_px).masses(lab_HW3, near)
        key = cv2.remap(self.key_lab_HW3, to_key_HW2, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        key_opacity = cv2.remap(self.key_opacity_HW, to_key_HW2, None, cv2.INTER_LINEAR)
        known = (to_key_HW2[..., 0] >= 0).astype(np.float32)
        key_thing, key_rest = Looks.of(key, key_opacity, known, self.place_px).masses(lab_HW3, near)
        thing, rest = thing + KEY_WEIGHT * key_thing, rest + KEY_WEIGHT * key_rest
        odds = np.zeros(near.shape, np.float32)
        few = self.place_px**2 * 4e-4
        odds[near] = np.log((thing + few) / (rest + few)).clip(-MOST_LOG_ODDS, MOST_LOG_ODDS)
        return odds


def _surroundings(carried: Plane) -> tuple[Mask, Box]:
    """(where the thing may be, a box around it that shows its surroundings too)."""
    there = carried > FAINT
    reach = int(max(LEAST_REACH_PX, REACH_SHARE * float((carried > 0.5).sum()) ** 0.5))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    near = cv2.dilate(there.astype(np.uint8), disc) > 0
    rows, columns = np.flatnonzero(there.any(1)), np.flatnonzero(there.any(0))
    top, left = max(rows[0] - 2 * reach, 0), max(columns[0] - 2 * reach, 0)
    return np.asarray(near), np.s_[top : rows[-1] + 1 + 2 * reach, left : columns[-1] + 1 + 2 * reach]


def _without_islands(opacity: Plane, carried: Plane) -> Plane:
    """Parts that were hardly there before are taken away."""
    number, parts = cv2.connectedComponents((opacity >= 0.5).astype(np.uint8))
    before = np.bincount(parts[carried > 0.5], minlength=number)
    strange = before < 0.2 * np.bincount(parts.ravel(), minlength=number)
    strange[0] = False
    return np.where(strange[parts], np.float32(0), opacity)


def _confidence(opacity: Plane, carried: Plane, flow: Flow) -> float:
    """How far motion there and back agree inside the thing, and how far what was carried there is what was found."""
    found, expected = opacity >= 0.5, carried >= 0.5
    union = (found | expected).sum()
    if not union:
        return 0.0
    agreed = (found & expected).sum() / union
    steady = np.exp(-flow.doubt_HW[found | expected] / 2).mean()
    return float(agreed * (0.5 + 0.5 * steady))
