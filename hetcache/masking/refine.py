"""A mask from frame to frame: dense flow moves it, colours say where it holds, the picture's edges where it ends."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from hetcache.masking.flow import Flow, flow_between, grid
from hetcache.masking.guided import guided_filter
from hetcache.masking.looks import Looks, Palette, lab, place_px
from hetcache.masking.track import Mask, Plane

Frame = NDArray[np.uint8]
Box = tuple[slice, slice]

PIXELS_OF = 240
"""Lengths below in pixels are those of a picture of so many rows (or columns, if it is upright), and grow with it."""

REACH_SHARE, REACH_PX = 0.15, 12.0
"""How far from where it was carried to the thing may have grown: a share of the square root of its area, at least."""

DOUBT_PX, CHANGE = 1.0, 12.0
"""Where motion there and back disagrees by so much, or the colour (CIE Lab) changes, flow is trusted by 1/e."""

PRIOR_TRUSTED, PRIOR_DOUBTED = 2.0, 0.5
"""Weights of what flow carries, where it is trusted and where not."""

STRANGE = 1.5
"""Log odds against the thing where flow is not to be trusted: what was hidden before is mostly background."""

STANDING, STILL_PX = 2.0, 0.7
"""Log odds against the thing where the picture moves as the thing's surroundings do, to so many pixels, and the thing
does not."""

KEY_WEIGHT = 0.5
"""How much the keyframe's colours nearby count beside the last frame's."""

PALETTE_WEIGHT = 1.0
"""How much the colours of the whole keyframe count."""

MOST_LOG_ODDS = 3.0
FAINT = 0.1
FEW = 4e-4
"""Of a cell's pixels: how little seen of a colour says nothing."""

HIDDEN_KEPT, RIM_PX = 0.9, 3.0
"""Of what is hidden, so much is still expected a frame later, unless it is narrower than this on each side."""

KNOWN_BEFORE = 0.2
"""The least share of a part by itself that was there in the last frame."""

UNLIKE = 0.9
"""Likeness of colours from which down there is no confidence."""

SHARPNESS = 3.0
GUIDE_PX, PRIOR_BLUR_PX = 4.0, 1.0


class Carrier:
    """Starts with a keyframe and its mask; `next` gives the opacity [H, W] of the following frame and a confidence."""

    def __init__(self, frame: Frame, mask: Mask) -> None:
        self.frame, self.lab_HW3 = frame, lab(frame)
        self.opacity_HW: Plane = mask.astype(np.float32)
        self.key_lab_HW3, self.key_opacity_HW = self.lab_HW3, self.opacity_HW
        self.to_key_HW2 = grid(*mask.shape)
        self.palette = Palette.of(self.lab_HW3, self.opacity_HW)
        self.place_px = place_px((mask.shape[0], mask.shape[1]))
        self.scale = min(mask.shape) / PIXELS_OF
        # What something in front of the thing hides: it moves on with the rest, until it shows again or is forgotten.
        self.hidden_HW: Plane = np.zeros_like(self.opacity_HW)
        self.away = 1.0

    def next(self, frame: Frame) -> tuple[Plane, float]:
        flow = flow_between(self.frame, frame)
        lab_HW3 = lab(frame)
        carried = flow.carry(self.opacity_HW)
        self.to_key_HW2 = cv2.remap(self.to_key_HW2, flow.to_HW2, None, cv2.INTER_LINEAR, borderValue=(-1e4, -1e4))
        opacity, confidence = np.zeros_like(carried), self.away
        if (carried > FAINT).any():
            hidden = self._hidden(carried, flow)
            opacity, confidence = self._refined(frame, lab_HW3, carried, hidden, flow)
            # A mask that got empty stays so, and so does what is known of it.
            self.away = confidence
            self.hidden_HW = np.where(opacity >= 0.5, 0, hidden * HIDDEN_KEPT).astype(np.float32)
        self.frame, self.lab_HW3, self.opacity_HW = frame, lab_HW3, opacity
        return opacity, confidence

    def _refined(self, frame: Frame, lab_HW3: Plane, carried: Plane, hidden: Plane, flow: Flow) -> tuple[Plane, float]:
        near, box = self._surroundings(carried, hidden)
        last = cv2.remap(self.lab_HW3, flow.to_HW2[box], None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        trust = self._trust(lab_HW3[box], last, flow.doubt_HW[box])
        prior = cv2.GaussianBlur(carried[box], (0, 0), max(PRIOR_BLUR_PX * self.scale, 0.5)).clip(0.02, 0.98)
        odds = (PRIOR_DOUBTED + (PRIOR_TRUSTED - PRIOR_DOUBTED) * trust) * np.log(prior / (1 - prior))
        # Where the hidden part may show again, only colours speak.
        odds *= 1 - hidden[box]
        odds += self._colours(lab_HW3[box], near[box], last, carried[box], self.to_key_HW2[box])
        odds -= STRANGE * (1 - trust) + STANDING * trust * self._standing(carried[box], flow.to_HW2[box])
        odds[~near[box]] = -4
        radius = max(2, round(GUIDE_PX * self.scale))
        odds = guided_filter(frame[box].astype(np.float32) / np.float32(255), odds.astype(np.float32), radius)
        inside = (1 / (1 + np.exp((-SHARPNESS * odds).clip(-30, 30)))).astype(np.float32)
        opacity = np.zeros_like(carried)
        opacity[box] = _without_islands(inside, np.maximum(carried, hidden)[box])
        return opacity, self._confidence(lab_HW3, opacity, carried)

    def _confidence(self, lab_HW3: Plane, opacity: Plane, carried: Plane) -> float:
        """How like the keyframe's the thing's colours still are, and how well what was found agrees with what was
        carried. A thing that got lost within the picture has none; one that left it is known to be away."""
        found, expected = opacity >= 0.5, carried >= 0.5
        if not found.any():
            edge = np.concatenate([expected[0], expected[-1], expected[:, 0], expected[:, -1]])
            return float(edge.any())
        agreed = float((found & expected).sum() / (found | expected).sum())
        like = (self.palette.likeness(lab_HW3, found.astype(np.float32)) - UNLIKE) / (1 - UNLIKE)
        return min(max(like, 0.0), 1.0) * agreed

    def _hidden(self, carried: Plane, flow: Flow) -> Plane:
        """Where the thing would be too if it moved as the middle of what shows, and is not carried to: behind
        something, or hidden before. Rims, which a change of shape leaves, do not count."""
        shown = carried >= 0.5
        if not shown.any():
            return np.zeros_like(carried)
        x, y = np.median((grid(*carried.shape) - flow.to_HW2)[shown], axis=0)
        shift = np.array([[1, 0, x], [0, 1, y]], np.float64)
        whole = np.maximum(self.opacity_HW, self.hidden_HW)
        moved = cv2.warpAffine(whole, shift, carried.shape[::-1], flags=cv2.INTER_LINEAR)
        side = 2 * max(1, round(RIM_PX * self.scale)) + 1
        return np.asarray(cv2.morphologyEx(np.where(shown, 0, moved), cv2.MORPH_OPEN, np.ones((side, side), np.uint8)))

    def _standing(self, carried: Plane, to_HW2: Plane) -> Plane:
        """[H, W] in 0..1: how surely a pixel moves as the surroundings do (an affine map) while the thing does not."""
        here = grid(*carried.shape)
        step = max(2, round(4 * self.scale))
        around = carried[::step, ::step] < FAINT
        new, old = here[::step, ::step][around], to_HW2[::step, ::step][around]
        camera = cv2.estimateAffine2D(new, old, ransacReprojThreshold=self.scale)[0] if len(new) >= 12 else None
        thing = carried >= 0.5
        if camera is None or not thing.any():
            return np.zeros_like(carried)
        apart = np.linalg.norm(to_HW2 - here @ camera[:, :2].T - camera[:, 2], axis=2) / self.scale
        moving = min(max(float(np.median(apart[thing])) - 1.0, 0.0), 1.0)
        return np.asarray(moving * np.exp(-((apart / STILL_PX) ** 2)), np.float32)

    def _trust(self, lab_HW3: Plane, last_HW3: Plane, doubt_HW: Plane) -> Plane:
        """[H, W] in 0..1: whether what flow carries to a pixel belongs there."""
        change = np.linalg.norm(lab_HW3 - last_HW3, axis=2)
        trust = np.exp(-((doubt_HW / (DOUBT_PX * self.scale)) ** 2) - (change / CHANGE) ** 2)
        return np.asarray(cv2.GaussianBlur(trust, (0, 0), max(self.scale, 0.5)), np.float32)

    def _colours(self, lab_HW3: Plane, near: Mask, last_HW3: Plane, carried: Plane, to_key_HW2: Plane) -> Plane:
        """Log odds for the thing by colour and place, from the last frame and from the keyframe; 0 off `near`."""
        thing, rest = Looks.of(last_HW3, carried, None, self.place_px).masses(lab_HW3, near)
        key = cv2.remap(self.key_lab_HW3, to_key_HW2, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        key_opacity = cv2.remap(self.key_opacity_HW, to_key_HW2, None, cv2.INTER_LINEAR)
        known = (to_key_HW2[..., 0] >= 0).astype(np.float32)
        key_thing, key_rest = Looks.of(key, key_opacity, known, self.place_px).masses(lab_HW3, near)
        thing, rest = thing + KEY_WEIGHT * key_thing, rest + KEY_WEIGHT * key_rest
        few = FEW * self.place_px**2
        found = np.log((thing + few) / (rest + few)) + PALETTE_WEIGHT * self.palette.look_up(lab_HW3, near)
        odds = np.zeros(near.shape, np.float32)
        odds[near] = found.clip(-MOST_LOG_ODDS, MOST_LOG_ODDS)
        return odds

    def _surroundings(self, carried: Plane, hidden: Plane) -> tuple[Mask, Box]:
        """(where the thing may be, a box around it that shows its surroundings too)."""
        there = np.maximum(carried, hidden) > FAINT
        reach = int(max(REACH_PX * self.scale, REACH_SHARE * float((carried > 0.5).sum()) ** 0.5, 2))
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
        near = cv2.dilate(there.astype(np.uint8), disc) > 0
        rows, columns = np.flatnonzero(there.any(1)), np.flatnonzero(there.any(0))
        top, left = max(rows[0] - 2 * reach, 0), max(columns[0] - 2 * reach, 0)
        return np.asarray(near), np.s_[top : rows[-1] + 1 + 2 * reach, left : columns[-1] + 1 + 2 * reach]


def _without_islands(opacity: Plane, expected: Plane) -> Plane:
    """Without the parts that were hardly there before."""
    number, parts = cv2.connectedComponents((opacity >= 0.5).astype(np.uint8))
    before = np.bincount(parts[expected > 0.5], minlength=number)
    strange = before < KNOWN_BEFORE * np.bincount(parts.ravel(), minlength=number)
    strange[0] = False
    return np.where(strange[parts], np.float32(0), opacity)
