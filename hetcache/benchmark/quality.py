"""Quality of one cell: the raw output against the uncached one and against the source, by every pair metric."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from hetcache.metrics.metric import Choices, Figures, PairMetric
from hetcache.metrics.regions import regions
from hetcache.metrics.registry import Ready, ReadyView, chosen, load, measure

Frames = NDArray[np.uint8]


def metrics() -> list[PairMetric]:
    """The metrics with a column in the benchmark's table."""
    return [metric for metric in chosen(PairMetric) if metric.title]


def load_metrics(device: str) -> tuple[Ready, dict[str, str]]:
    """(what can be measured, {family: why it cannot be}) for `judge`."""
    return load({metric.asked for metric in metrics()}, Choices(device))


def judge(
    frames_THWC: Frames,
    baseline_THWC: Frames | None,
    source_THWC: Frames,
    mask_THW: NDArray[np.bool_],
    ready: ReadyView,
) -> dict[str, Figures]:
    """{"baseline", "source": {region: {metric: value}}}, at the model's size, before compositing.

    Metrics that are not in `ready` (see `load_metrics`) are absent, and so is what a region without pixels would give.
    Raises MetricError for shapes that do not fit.
    """
    parts = {name: area for name, area in regions(mask_THW).items() if name in ("in_mask", "seam")}
    found = {"source": _compare(frames_THWC, source_THWC, {}, ready)}
    if baseline_THWC is not None:
        found["baseline"] = _compare(frames_THWC, baseline_THWC, parts, ready)
    return found


def _compare(frames: Frames, other: Frames, parts: Mapping[str, NDArray[np.bool_]], ready: ReadyView) -> Figures:
    return {
        region: {name: value for name, value in values.items() if not math.isnan(value)}
        for region, values in measure(frames, other, parts, ready).items()
    }
