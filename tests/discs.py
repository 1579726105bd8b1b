"""Clips of a textured disc that moves over a textured background, with the truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

HEIGHT, WIDTH, RADIUS = 96, 128, 20


@dataclass(frozen=True)
class Discs:
    """`frames_THWC` RGB uint8 and `truth_THW` bool, where the disc shows."""

    frames_THWC: NDArray[np.uint8]
    truth_THW: NDArray[np.bool_]

    def box(self, frame: int = 0) -> tuple[int, int, int, int]:
        """(x0, y0, x1, y1) around the disc."""
        rows, columns = np.flatnonzero(self.truth_THW[frame].any(1)), np.flatnonzero(self.truth_THW[frame].any(0))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def texture(low: int, high: int, seed: int, height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.uint8]:
    """[H, W, 3] uint8: smooth spots of random colours."""
    spots = np.random.default_rng(seed).integers(low, high, (height // 4 + 1, width // 4 + 1, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(spots, (width, height), interpolation=cv2.INTER_LINEAR))


def discs(
    num_frames: int = 9,
    centre: Callable[[int], tuple[float, float]] = lambda t: (40 + 4 * t, 48),
    pole: tuple[int, int] | None = None,
) -> Discs:
    """A disc whose centre (x, y) at frame t is `centre(t)`; a `pole` covers the columns from its first on."""
    background, thing, wood = (
        texture(20, 110, 1),
        texture(120, 250, 2, 2 * RADIUS + 1, 2 * RADIUS + 1),
        texture(0, 60, 3),
    )
    yy, xx = np.mgrid[:HEIGHT, :WIDTH]
    frames = np.repeat(background[None], num_frames, axis=0)
    truth = np.zeros(frames.shape[:3], np.bool_)
    for index in range(num_frames):
        x, y = centre(index)
        truth[index] = (xx - x) ** 2 + (yy - y) ** 2 < RADIUS**2
        rows, columns = np.nonzero(truth[index])
        moved = thing[(rows - round(y) + RADIUS).clip(0, 2 * RADIUS), (columns - round(x) + RADIUS).clip(0, 2 * RADIUS)]
        frames[index, rows, columns] = moved
        if pole is not None:
            frames[index, :, pole[0] : pole[1]] = wood[:, pole[0] : pole[1]]
            truth[index, :, pole[0] : pole[1]] = False
    return Discs(frames, truth)


def jaccard(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Intersection over union; 1 where both are empty."""
    union = (mask | truth).sum()
    return float((mask & truth).sum() / union) if union else 1.0
