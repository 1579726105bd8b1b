"""What figures of frame pairs share: checked inputs, means inside a mask, and a meter that keeps a value per frame."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from hetcache.metrics.errors import MetricError
from hetcache.metrics.metric import Figures, Frames, Regions

Frame = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Map = NDArray[np.floating]
ByFrame = Callable[[Frames, Frames, Regions], dict[str, list[float]]]
"""(pred [T, H, W, 3], other, {region: mask [T, H, W]}) -> {"all" or region: a value per frame, nan where empty}"""
Mean = Callable[[list[float]], float]


class FrameMeter:
    """Figures of frame pairs: `by_frame` gives a value for each, `means` {figure: how the values become it}."""

    def __init__(self, by_frame: ByFrame, means: Mapping[str, Mean]) -> None:
        self._by_frame = by_frame
        self._means = means
        self._values: dict[str, list[float]] = {}

    def update(self, pred_THWC: Frames, other_THWC: Frames, regions: Regions) -> None:
        """Add frame pairs [T, H, W, 3] and the mask [T, H, W] of each region."""
        for region, values in self._by_frame(pred_THWC, other_THWC, regions).items():
            self._values.setdefault(region, []).extend(values)

    def result(self) -> Figures:
        """The means over frames."""
        return {
            region: {name: mean(values) for name, mean in self._means.items()}
            for region, values in self._values.items()
        }


def mean_in_regions(
    pred_THWC: Frames, other_THWC: Frames, regions: Regions, map_of: Callable[[Frame, Frame], Map], border: int = 0
) -> dict[str, list[float]]:
    """{"all" or region: the mean of each frame pair's map [H, W] there}; see `masked_mean`."""
    values: dict[str, list[float]] = {name: [] for name in ("all", *regions)}
    for index, (a, b) in enumerate(zip(pred_THWC, other_THWC, strict=True)):
        each = map_of(a, b)
        for name, found in values.items():
            found.append(masked_mean(each, None if name == "all" else regions[name][index], border))
    return values


def masked_mean(values: Map, mask: Mask | None, border: int = 0) -> float:
    """Mean of a map [H, W] inside `mask` [H, W], without `border` pixels at the edge; nan if empty."""
    inner = slice(border, -border or None)
    values = values[inner, inner]
    if mask is not None:
        values = values[mask[inner, inner]]
    return float(np.mean(values, dtype=np.float64)) if values.size else math.nan


def values_of(by_frame: ByFrame, a: Frames, b: Frames, mask: Mask | None) -> list[float]:
    """A value per frame pair of two uint8 arrays, [H, W, 3] or [T, H, W, 3], in `mask` (bool, [H, W] or [T, H, W]) or
    whole. Raises MetricError when shapes or dtypes do not fit."""
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
        return by_frame(a, b, {})["all"]
    if mask.dtype != np.bool_ or mask.shape[-2:] != a.shape[1:3] or mask.shape not in (a.shape[:3], a.shape[1:3]):
        raise MetricError(
            f"the mask must be bool {list(a.shape[1:3])} or {list(a.shape[:3])}, not {mask.dtype} {list(mask.shape)}"
        )
    return by_frame(a, b, {"mask": np.broadcast_to(mask, a.shape[:3])})["mask"]
