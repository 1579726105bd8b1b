"""What a metric is: a record from which its column, its CSV field, its definition and both tables derive.

A new metric is one file with its record, and its line in `hetcache.metrics.registry.METRICS`. What kind of record it is
says what it looks at: the frames of two videos side by side (`PairMetric`), one video alone (`VideoMetric`) or at the
joins of its windows (`JoinMetric`), two files (`FileMetric`), or two sets of videos (`SetMetric`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hetcache.media.windows import Window

Frames = NDArray[np.uint8]
Regions = Mapping[str, NDArray[np.bool_]]
Figures = dict[str, dict[str, float]]
"""{"all" or region: {figure: value}}; nan where a region holds nothing to measure."""
Features = dict[str, dict[str, NDArray[np.float32]]]
"""{"all" or region: {kind of feature: vector}} of one video."""


class PairMeter(Protocol):
    """Takes frame pairs batch by batch, and keeps a few numbers per frame."""

    def update(self, pred_THWC: Frames, other_THWC: Frames, regions: Regions) -> None: ...

    def result(self) -> Figures: ...


class VideoMeter(Protocol):
    """Takes the frames of one video in order."""

    def update(self, frames_THWC: Frames, regions: Regions) -> None: ...

    def result(self) -> Figures: ...


class ClipMeter(Protocol):
    """Takes the frames of one video in order, and gives the features that sets of videos are compared by."""

    def update(self, frames_THWC: Frames, regions: Regions) -> None: ...

    def features(self, model: Any, device: str) -> Features: ...


@dataclass(frozen=True)
class Choices:
    """What networks are loaded from and run on; None takes what was fetched."""

    device: str = "cpu"
    lpips_net: str = "alex"
    lpips_weights: str | Path | None = None
    i3d_checkpoint: Path | None = None


@dataclass(frozen=True)
class Loaded:
    """A network, and for reports: the weights' name in JSON, their facts there, and one line for a person."""

    model: Any
    weights: str
    facts: Mapping[str, Any]
    line: str


def decimals(count: int) -> Callable[[float], str]:
    """Text of a value, with that many decimals; infinity is "inf"."""
    return lambda value: f"{value:.{count}f}"


def nan_mean(values: list[float]) -> float:
    """Mean of the values that are not nan; nan when there is none."""
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan


@dataclass(frozen=True)
class Metric:
    """One figure. `name` is its key in JSON and CSV, `title` and `unit` its heading; without a title it has no column.

    `family` is what `--metrics` calls it (default: its name): figures of one family come from one pass of one meter.
    `needs` are optional modules with the packages that bring them. `load` makes the network (MetricError says how to
    get its weights, `fetch` is their name for `python -m hetcache.metrics`). `mean` goes over videos.
    """

    name: str
    title: str
    definition: str
    unit: str = ""
    show: Callable[[float], str] = decimals(4)
    show_brief: Callable[[float], str] | None = None
    family: str = ""
    needs: Mapping[str, str] = field(default_factory=dict)
    load: Callable[[Choices], Loaded] | None = None
    fetch: str = ""
    mean: Callable[[list[float]], float] = nan_mean
    by_default: bool = True

    @property
    def asked(self) -> str:
        """Its name in `--metrics`."""
        return self.family or self.name

    @property
    def heading(self) -> str:
        return f"{self.title} {self.unit}".rstrip()

    def text(self, value: float | None, brief: bool = False) -> str:
        """A table's cell; a dash for what was not measured."""
        if value is None or math.isnan(value):
            return "-"
        return (self.show_brief or self.show)(value) if brief else self.show(value)


@dataclass(frozen=True, kw_only=True)
class PairMetric(Metric):
    """A figure of two videos, frame by frame. `meter` takes the network (None without `load`)."""

    meter: Callable[[Any], PairMeter]


@dataclass(frozen=True, kw_only=True)
class VideoMetric(Metric):
    """A figure of one video alone; reports give it for the other video, too."""

    meter: Callable[[], VideoMeter]


@dataclass(frozen=True, kw_only=True)
class JoinMetric(VideoMetric):
    """A figure of a video that was edited in windows: `of_windows` makes its meter when a record says which. For the
    other video, which has no joins, there is none."""

    of_windows: Callable[[Sequence[Window]], VideoMeter]


@dataclass(frozen=True, kw_only=True)
class FileMetric(Metric):
    """A figure that another program takes of two files: `measure(pred, other, num_frames, (height, width))`."""

    measure: Callable[[Path, Path, int, tuple[int, int]], float]


@dataclass(frozen=True, kw_only=True)
class SetMetric(Metric):
    """A distance between two sets of videos. `meter(num_frames, num_samples)` is one video's, `feature` the kind of
    its features that `distance` compares: two arrays [videos, width], `min_videos` or more of each."""

    meter: Callable[[int, int], ClipMeter]
    feature: str
    distance: Callable[[NDArray[np.floating], NDArray[np.floating]], float]
    min_videos: int
    doubt: Callable[[int, int], str | None]
