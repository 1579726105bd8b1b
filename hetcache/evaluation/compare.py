"""Compare one prediction with its source and its uncached reference in a single pass over the videos."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hetcache.evaluation.origin import Origin, mixed_outputs, origin_of, windows_of
from hetcache.evaluation.pairs import Job
from hetcache.evaluation.videos import (
    MIN_FRAMES,
    FewerFramesError,
    Source,
    T,
    frames_of,
    inspect,
    masks_of,
    take,
    target_size,
)
from hetcache.media.options import Timing
from hetcache.media.windows import Window
from hetcache.metrics.errors import MetricError
from hetcache.metrics.metric import ClipMeter, Features, FileMetric, JoinMetric, SetMetric, VideoMeter, VideoMetric
from hetcache.metrics.regions import DEFAULT_SEAM_PX, REGION_NAMES, regions
from hetcache.metrics.registry import PairMeters, ReadyView, chosen, passes

OTHER = "_ref"
"""Ends the name of a video metric's figure of the other video."""


@dataclass(frozen=True)
class Settings:
    """How to measure; sizes and counts are pixels and frames."""

    target_frames: int = 8
    resize: str | None = None
    seam_px: int = DEFAULT_SEAM_PX
    mask_timing: Timing = "auto"
    batch_frames: int = 8
    device: str = "cpu"


@dataclass
class Comparison:
    """One prediction against one other video. `metrics`: {"all" or region: {metric: value}}."""

    name: str
    against: str
    pred: Path
    other: Path
    pred_origin: Origin
    other_origin: Origin
    num_frames: int
    size: tuple[int, int]
    metrics: dict[str, dict[str, float]]
    warnings: list[str] = field(default_factory=list)
    pred_features: Features = field(default_factory=dict, repr=False)
    other_features: Features = field(default_factory=dict, repr=False)


class _Against:
    """The meters of one reference: the pair's, the reference's own, and both clips."""

    def __init__(self, role: str, source: Source, pred: Source, settings: Settings, ready: ReadyView) -> None:
        self.role = role
        self.source = source
        self.num_frames = min(source.num_frames, pred.num_frames)
        self.pair = PairMeters(ready)
        self.own = _video_meters(ready, ())
        self.clips: list[tuple[SetMetric, ClipMeter, ClipMeter]] = []
        for metric in passes(chosen(SetMetric, ready)):
            pred_clip, clip = (metric.meter(self.num_frames, settings.target_frames) for _ in range(2))
            self.clips.append((metric, pred_clip, clip))

    def update(self, pred: NDArray[np.uint8], frames: NDArray[np.uint8], parts: dict[str, Any]) -> None:
        parts = {name: mask[: len(frames)] for name, mask in parts.items()}
        pred = pred[: len(frames)]
        self.pair.update(pred, frames, parts)
        for meter in self.own:
            meter.update(frames, parts)
        for _, pred_clip, clip in self.clips:
            pred_clip.update(pred, parts)
            clip.update(frames, parts)


def _video_meters(ready: ReadyView, windows: Sequence[Window]) -> list[VideoMeter]:
    """Those of the metrics that are ready; of a video edited in `windows` of its joins, too."""
    metrics = passes(chosen(VideoMetric, ready))
    alone = [metric.meter() for metric in metrics if not isinstance(metric, JoinMetric)]
    joined = [metric.of_windows(windows) for metric in metrics if isinstance(metric, JoinMetric) and windows]
    return [*alone, *joined]


def compare(
    job: Job, settings: Settings, ready: ReadyView, progress: Callable[[int, int], None] | None = None
) -> list[Comparison]:
    """Measure `job`, one result per video it is compared with; every file is decoded once, in batches.

    The other videos are cut to the prediction's length. `progress(done, total)` is called after each batch
    with numbers of frames. Raises VideoError or MetricError, one line each, for inputs that cannot be
    measured.
    """
    sources = {role: inspect(path, role) for role, path in {"prediction": job.pred, **job.against}.items()}
    warnings: list[str] = []
    while True:
        try:
            results = _measure(job, sources, settings, ready, progress)
        except FewerFramesError as error:
            # A cut made without encoding keeps frames that are never shown: only decoding tells how many.
            if error.found < MIN_FRAMES:
                raise
            sources[error.what] = replace(sources[error.what], num_frames=error.found)
            warnings.append(str(error))
            continue
        for result in results:
            result.warnings += warnings
        return results


def _measure(
    job: Job,
    sources: dict[str, Source],
    settings: Settings,
    ready: ReadyView,
    progress: Callable[[int, int], None] | None,
) -> list[Comparison]:
    """One pass over the videos; FewerFramesError when one of them does not have its number of frames."""
    pred = sources["prediction"]
    others = {role: source for role, source in sources.items() if role != "prediction"}
    size = target_size(pred, others, settings.resize)
    meters = [_Against(role, source, pred, settings, ready) for role, source in others.items()]
    own = _video_meters(ready, windows_of(job.pred))
    with ExitStack() as stack:

        def opened(stream: Generator[NDArray[T], None, None]) -> Generator[NDArray[T], None, None]:
            return stack.enter_context(closing(stream))

        frames = opened(frames_of(pred, pred.num_frames, size, "prediction"))
        streams = [opened(frames_of(meter.source, meter.num_frames, size, meter.role)) for meter in meters]
        masks = None
        if job.mask:
            masks = opened(masks_of(job.mask, pred, size, settings.resize is not None, settings.mask_timing))
        done = 0
        while (batch := take(frames, settings.batch_frames)) is not None:
            parts: dict[str, NDArray[np.bool_]] = {}
            if masks is not None:
                mask = take(masks, len(batch))
                assert mask is not None
                parts = regions(mask, settings.seam_px)
            for video_meter in own:
                video_meter.update(batch, parts)
            for meter, stream in zip(meters, streams, strict=True):
                other = take(stream, len(batch))
                if other is not None:
                    meter.update(batch, other, parts)
            done += len(batch)
            if progress:
                progress(done, pred.num_frames)
    return [_result(job, pred, size, meter, own, settings, ready) for meter in meters]


def _result(
    job: Job,
    pred: Source,
    size: tuple[int, int],
    meter: _Against,
    own: Sequence[VideoMeter],
    settings: Settings,
    ready: ReadyView,
) -> Comparison:
    """Turn the meters of one reference into its Comparison."""
    metrics = meter.pair.result()
    for meters, suffix in ((own, ""), (meter.own, OTHER)):
        for video_meter in meters:
            for region, values in video_meter.result().items():
                found = metrics.setdefault(region, {})
                found.update({f"{key}{suffix}": value for key, value in values.items()})
    result = Comparison(
        name=job.name,
        against=meter.role,
        pred=job.pred,
        other=meter.source.path,
        pred_origin=origin_of(job.pred),
        other_origin=origin_of(meter.source.path) if meter.role == "reference" else Origin(),
        num_frames=meter.num_frames,
        size=size,
        metrics={name: metrics[name] for name in ("all", *REGION_NAMES) if name in metrics},
    )
    if meter.num_frames < pred.num_frames:
        result.warnings.append(
            f"the {meter.role} has {meter.num_frames} frames and the prediction {pred.num_frames}: "
            f"only the first {meter.num_frames} are compared"
        )
    if mixed := mixed_outputs(result.pred_origin, result.other_origin):
        result.warnings.append(mixed)
    for file_metric in chosen(FileMetric, ready):
        _add_file_metric(result, file_metric)
    for metric, pred_clip, clip in meter.clips:
        loaded = ready[metric.asked]
        model = None if loaded is None else loaded.model
        _add_features(result.pred_features, pred_clip.features(model, settings.device))
        _add_features(result.other_features, clip.features(model, settings.device))
    return result


def _add_features(all_features: Features, own: Features) -> None:
    for region, features in own.items():
        all_features.setdefault(region, {}).update(features)


def _add_file_metric(result: Comparison, metric: FileMetric) -> None:
    """Add the figure, or a warning that says why there is none: the other metrics stand without it."""
    try:
        value = metric.measure(result.pred, result.other, result.num_frames, result.size)
    except MetricError as error:
        result.warnings.append(str(error))
        value = math.nan
    result.metrics.setdefault("all", {})[metric.name] = value
