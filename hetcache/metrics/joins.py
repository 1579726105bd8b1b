"""How well the windows of a long edit join: steps at the joins, drift of the hole's colour, loss of its detail."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hetcache.media.windows import Window
from hetcache.metrics.errors import optional_import
from hetcache.metrics.metric import Figures, Frames, JoinMetric, Regions, decimals

Mask = NDArray[np.bool_]
Plane = NDArray[np.float32]

# A join is compared with at least so many neighbours: a model's latent frames of 4 step at their borders.
LEAST_PAIRS = 8
# Detail is what a Gaussian takes away; its kernel reaches so far, and nothing across the mask's border counts.
DETAIL_SIGMA, REACH_PX = 2.0, 6
SURROUNDINGS_PX = 24


@dataclass(frozen=True)
class JoinFigures:
    """`change`: the largest mean |x(t+1) - x(t)| in the mask, in grey levels, where the output passes from one window
    to the next; `usual`: the largest of as many neighbouring pairs beside it. nan where no pixel is in the hole."""

    change: float
    usual: float

    @property
    def seam_ratio(self) -> float:
        """1 where nothing steps."""
        if self.usual == 0 and self.change > 0:
            return math.inf
        return 1.0 if self.change == 0 else self.change / self.usual


@dataclass(frozen=True)
class HoleFigures:
    """Of a window's new frames. Drifts: CIEDE2000 from the first window's mean colour, in the mask and around it;
    details: mean square of the luminance's fine structure, likewise. nan where no pixel is in the hole."""

    colour_drift_de: float
    surroundings_drift_de: float
    detail: float
    surroundings_detail: float


class JoinMeter:
    """Takes the frames of a video that was edited in `windows`, in order; keeps one frame and a few sums per frame.
    Without windows, or without a mask (the region in_mask), it measures nothing."""

    def __init__(self, windows: Sequence[Window] = ()) -> None:
        self._cv2 = optional_import("cv2", "opencv-python-headless", "the joins of windows")
        self._colour = optional_import("skimage.color", "scikit-image", "the joins of windows")
        self._windows = windows if len(windows) > 1 else ()
        self._last: tuple[Frames, Mask] | None = None
        self._changes: list[float] = []
        self._sums: list[NDArray[np.float64]] = []

    def update(self, frames_THWC: Frames, regions: Regions) -> None:
        """Add frames [T, H, W, 3] uint8, with the mask [T, H, W] of each region."""
        if not self._windows or "in_mask" not in regions:
            return
        for frame, mask in zip(frames_THWC, regions["in_mask"], strict=True):
            if self._last is not None:
                self._changes.append(_change(*self._last, frame, mask))
            self._sums.append(self._hole_sums(frame, mask))
            self._last = frame, mask

    def joins(self) -> list[JoinFigures]:
        """Of every window but the first."""
        pairs = [range(window.start - 1, window.start + window.known) for window in self._windows[1:]]
        free = sorted(set(range(len(self._changes))).difference(*pairs))
        return [self._join(each, free) for each in pairs]

    def holes(self) -> list[HoleFigures]:
        """Of every window."""
        means = [self._window_means(window) for window in self._windows]
        first_hole, first_around = means[0][:2]
        return [
            HoleFigures(
                self._distance(first_hole, hole),
                self._distance(first_around, around),
                float(detail[0]),
                float(detail_around[0]),
            )
            for hole, around, detail, detail_around in means
        ]

    def colours(self) -> list[NDArray[np.float64]]:
        """Of every window: the mean RGB in the mask of its new frames, 0..255; nan without a pixel."""
        return [self._window_means(window)[0] for window in self._windows]

    def result(self) -> Figures:
        """The worst of each figure: {"in_mask": {"seam_ratio", "colour_drift", "detail_kept"}}."""
        if not self._changes:
            return {}
        holes = self.holes()
        kept = [b.detail / a.detail for a, b in zip(holes, holes[1:], strict=False) if a.detail > 0]
        values = {
            "seam_ratio": _worst([join.seam_ratio for join in self.joins()]),
            "colour_drift": _worst([hole.colour_drift_de for hole in holes]),
            "detail_kept": -_worst([-each for each in kept]),
        }
        return {"in_mask": values}

    def _join(self, pairs: range, free: list[int]) -> JoinFigures:
        wanted = max(len(pairs), LEAST_PAIRS)
        before = [t for t in free if t < pairs.start][::-1]
        after = [t for t in free if t >= pairs.stop]
        # Half of them on either side; what one side lacks the other gives.
        on_the_left = min(len(before), max(wanted // 2, wanted - len(after)))
        beside = before[:on_the_left] + after[: wanted - on_the_left]
        change, usual = (_worst([self._changes[t] for t in each if t < len(self._changes)]) for each in (pairs, beside))
        return JoinFigures(change, usual)

    def _hole_sums(self, frame: Frames, mask: Mask) -> NDArray[np.float64]:
        """[4, 4]: per area (hole, surroundings, and both for detail) the sums of values and in the last column how many
        pixels; detail has one value."""
        sums = np.zeros((4, 4))
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not len(rows):
            return sums
        reach = SURROUNDINGS_PX + REACH_PX
        box = tuple(slice(max(side[0] - reach, 0), side[-1] + reach + 1) for side in (rows, columns))
        frame, mask = frame[box], mask[box]
        cv2, hole = self._cv2, mask.astype(np.uint8)
        kernels = [np.ones((2 * px + 1, 2 * px + 1), np.uint8) for px in (REACH_PX, SURROUNDINGS_PX)]
        near, far = (cv2.dilate(hole, kernel) > 0 for kernel in kernels)
        inner = cv2.erode(hole, kernels[0], borderValue=1) > 0
        luminance = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
        side = 2 * REACH_PX + 1
        fine = np.square(luminance - cv2.GaussianBlur(luminance, (side, side), DETAIL_SIGMA))
        for row, where, values in ((0, mask, frame), (1, far & ~near, frame), (2, inner, fine), (3, far & ~near, fine)):
            picked = np.atleast_2d(values[where].astype(np.float64).T)
            sums[row, : len(picked)] = picked.sum(1)
            sums[row, 3] = picked.shape[1]
        return sums

    def _window_means(self, window: Window) -> NDArray[np.float64]:
        """[4, 3], nan where there is no pixel: the sums of the window's new frames over their counts."""
        sums = sum(self._sums[window.start + window.known : window.stop], np.zeros((4, 4)))
        with np.errstate(invalid="ignore"):
            return np.asarray(np.where(sums[:, 3:] > 0, sums[:, :3] / sums[:, 3:], np.nan))

    def _distance(self, first_rgb: NDArray[np.float64], rgb: NDArray[np.float64]) -> float:
        """CIEDE2000 of two mean sRGB colours, 0..255."""
        if not np.isfinite([first_rgb, rgb]).all():
            return math.nan
        return float(self._colour.deltaE_ciede2000(*(self._colour.rgb2lab(each / 255) for each in (first_rgb, rgb))))


def _change(last: Frames, last_mask: Mask, frame: Frames, mask: Mask) -> float:
    """Mean absolute difference where both frames are masked; nan where they are nowhere."""
    both = last_mask & mask
    if not both.any():
        return math.nan
    return float(np.abs(frame[both].astype(np.int16) - last[both]).mean())


def _worst(values: list[float]) -> float:
    """The largest that is not nan; nan when there is none."""
    return max((value for value in values if not math.isnan(value)), default=math.nan)


NEEDS = {"cv2": "opencv-python-headless", "skimage.color": "scikit-image"}
SEAM_RATIO = JoinMetric(
    "seam_ratio",
    "seam ratio",
    "long edits: the largest mean absolute change of neighbouring frames, in the mask, where the output passes from "
    "one window to the next, over the largest of as many pairs beside it; the worst join",
    show=decimals(2),
    family="joins",
    needs=NEEDS,
    meter=JoinMeter,
    of_windows=JoinMeter,
)
COLOUR_DRIFT = JoinMetric(
    "colour_drift",
    "drift",
    "long edits: CIEDE2000 of the mean colour in the mask of a window's new frames from the first window's; the worst "
    "window",
    unit="dE",
    show=decimals(2),
    family="joins",
    needs=NEEDS,
    meter=JoinMeter,
    of_windows=JoinMeter,
)
DETAIL_KEPT = JoinMetric(
    "detail_kept",
    "detail kept",
    "long edits: mean square of luminance minus its Gaussian (sigma 2) in the mask of a window's new frames over the "
    "window's before; the worst window",
    show=decimals(2),
    family="joins",
    needs=NEEDS,
    meter=JoinMeter,
    of_windows=JoinMeter,
)
