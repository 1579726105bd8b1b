"""How the thing and its surroundings look, place by place: histograms of colour on a coarse grid of places.

A grid in place and colour, as in bilateral-space video segmentation (Maerki et al., CVPR 2016): what a pixel's
neighbours in place and in colour were decides what it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from hetcache.masking.track import Mask, Plane

Frame = NDArray[np.uint8]

PLACE_SHARE = 1 / 15
"""The side of a cell of places, as a share of the picture's smaller side."""

LEAST_PLACE_PX = 8
LIGHT_STEP, COLOUR_STEP = 10.0, 8.0
"""The sides of a cell of colours, in L and in a and b of CIE Lab."""

MOST_PALETTE_ODDS = 2.0

PLACE_BLUR, COLOUR_BLUR = 1.0, 0.7
"""In cells."""


def lab(frame: Frame) -> Plane:
    """[H, W, 3] float32 CIE Lab of uint8 RGB."""
    return np.asarray(cv2.cvtColor(frame.astype(np.float32) / 255, cv2.COLOR_RGB2Lab))


@dataclass(frozen=True)
class Looks:
    """`grids` are two histograms, of the thing and of the rest, over (row, column, L, a, b) in cells of `steps`, from
    `lowest` on."""

    grids: tuple[NDArray[np.float32], NDArray[np.float32]]
    lowest: NDArray[np.float32]
    steps: NDArray[np.float32]

    @classmethod
    def of(cls, lab_HW3: Plane, opacity_HW: Plane, weight_HW: Plane | None, place_px: float) -> Looks:
        """From a picture and what of it is the thing; `weight_HW` says how much a pixel counts (None: all alike)."""
        steps = np.array([place_px, place_px, LIGHT_STEP, COLOUR_STEP, COLOUR_STEP], np.float32)
        spots = _spots(lab_HW3) / steps
        lowest = np.floor(spots.min(0)) - 1
        cells = np.rint(spots - lowest).astype(np.int64)
        shape = tuple(cells.max(0) + 2)
        flat = np.ravel_multi_index(tuple(cells.T), shape)
        counted = np.ones_like(opacity_HW) if weight_HW is None else weight_HW
        sums = [
            np.bincount(flat, (counted * share).ravel(), int(np.prod(shape))) for share in (opacity_HW, 1 - opacity_HW)
        ]
        blur = (PLACE_BLUR, PLACE_BLUR, COLOUR_BLUR, COLOUR_BLUR, COLOUR_BLUR)
        thing, rest = (
            gaussian_filter(each.astype(np.float32).reshape(shape), blur, mode="constant", truncate=2.5)
            for each in sums
        )
        return cls((thing, rest), lowest, steps)

    def masses(self, lab_HW3: Plane, where: Mask) -> tuple[Plane, Plane]:
        """(of the thing, of the rest): how much of each was near each pixel of `where`, in place and colour [N]."""
        shape = np.array(self.grids[0].shape)
        spots = _spots(lab_HW3)[where.ravel()] / self.steps - self.lowest
        spots = spots.clip(0, (shape - 1.001).astype(np.float32))
        base = np.floor(spots).astype(np.int64)
        part = (spots - base).astype(np.float32)
        strides = np.array([int(np.prod(shape[axis + 1 :])) for axis in range(5)])
        start = base @ strides
        thing, rest = (np.zeros(len(spots), np.float32) for _ in range(2))
        flat = [grid.ravel() for grid in self.grids]
        for corner in range(32):
            up = [(corner >> axis) & 1 for axis in range(5)]
            weight = np.ones(len(spots), np.float32)
            for axis, one in enumerate(up):
                weight *= part[:, axis] if one else 1 - part[:, axis]
            there = start + int(np.dot(up, strides))
            thing += weight * flat[0][there]
            rest += weight * flat[1][there]
        return thing, rest


@dataclass(frozen=True)
class Palette:
    """The thing's colours in a whole picture: its share of each cell of colours, and how much more it has of it than
    the rest, as log odds."""

    thing: NDArray[np.float64]
    odds: Plane

    @classmethod
    def of(cls, lab_HW3: Plane, opacity_HW: Plane) -> Palette:
        thing, rest = (_colour_shares(lab_HW3, weights) for weights in (opacity_HW, 1 - opacity_HW))
        odds = np.log((thing + 1e-4) / (rest + 1e-4))
        return cls(thing, odds.clip(-MOST_PALETTE_ODDS, MOST_PALETTE_ODDS).astype(np.float32))

    def likeness(self, lab_HW3: Plane, opacity_HW: Plane) -> float:
        """How alike the thing's colours are in another picture: Bhattacharyya's coefficient, 1 for the same."""
        return float(np.sqrt(self.thing * _colour_shares(lab_HW3, opacity_HW)).sum())

    def look_up(self, lab_HW3: Plane, where: Mask) -> Plane:
        """The log odds of each pixel of `where` [N]."""
        return np.asarray(self.odds[_colour_cells(lab_HW3[where])])


_LOWEST_COLOUR = np.array([0.0, -110.0, -110.0], np.float32)
_COLOUR_STEPS = np.array([LIGHT_STEP, COLOUR_STEP, COLOUR_STEP], np.float32)
_COLOUR_CELLS = (11, 29, 29)


def _colour_shares(lab_HW3: Plane, weights_HW: Plane) -> NDArray[np.float64]:
    """Of all that counts, the share of each cell of colours, blurred by one cell."""
    flat = np.ravel_multi_index(_colour_cells(lab_HW3.reshape(-1, 3)), _COLOUR_CELLS)
    counts = np.bincount(flat, weights_HW.ravel(), int(np.prod(_COLOUR_CELLS))).reshape(_COLOUR_CELLS)
    return np.asarray(gaussian_filter(counts, 1.0) / max(float(counts.sum()), 1.0))


def _colour_cells(lab_N3: Plane) -> tuple[NDArray[np.int64], ...]:
    cells = np.rint((lab_N3 - _LOWEST_COLOUR) / _COLOUR_STEPS).astype(np.int64)
    return tuple(cells.clip(0, np.array(_COLOUR_CELLS) - 1).T)


def place_px(size: tuple[int, int]) -> float:
    """The side of a cell of places in a picture of `size` (height, width)."""
    return max(LEAST_PLACE_PX, PLACE_SHARE * min(size))


def _spots(lab_HW3: Plane) -> Plane:
    """[H W, 5]: row, column, L, a, b of each pixel."""
    height, width = lab_HW3.shape[:2]
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    return np.concatenate([rows.reshape(-1, 1), columns.reshape(-1, 1), lab_HW3.reshape(-1, 3)], axis=1)
