"""Compare one prediction with its source and its uncached reference in a single pass over the videos."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hetcache.evaluation.pairs import Job
from hetcache.evaluation.records import Origin, mixed_outputs, origin_of
from hetcache.evaluation.videos import (
    MIN_FRAMES,
    FewerFramesError,
    Source,
    frames_of,
    inspect,
    masks_of,
    take,
    target_size,
)
from hetcache.metrics.errors import MetricError
from hetcache.metrics.i3d import I3D
from hetcache.metrics.meters import ClipMeter, FrameMeter
from hetcache.metrics.perceptual import Lpips
from hetcache.metrics.regions import DEFAULT_SEAM_PX, REGION_NAMES, regions
from hetcache.metrics.temporal import TemporalMeter
from hetcache.metrics.vmaf import vmaf

METRICS = ("psnr", "ssim", "lpips", "vfid", "temporal", "vmaf")
Features = dict[str, dict[str, NDArray[np.float32]]]


@dataclass(frozen=True)
class Settings:
    """What to measure and how. `metrics` are names of METRICS; sizes and counts are pixels and frames."""

    metrics: frozenset[str] = frozenset(METRICS) - {"vmaf"}
    target_frames: int = 8
    resize: str | None = None
    seam_px: int = DEFAULT_SEAM_PX
    batch_frames: int = 8
    device: str = "cpu"


@dataclass(frozen=True)
class Models:
    """Networks that are loaded once for all pairs; None leaves the metric out."""

    lpips: Lpips | None = None
    i3d: I3D | None = None


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

    def __init__(self, role: str, source: Source, pred: Source, settings: Settings, models: Models) -> None:
        self.role = role
        self.source = source
        self.num_frames = min(source.num_frames, pred.num_frames)
        self.pair = FrameMeter(settings.metrics, models.lpips)
        self.temporal = TemporalMeter() if "temporal" in settings.metrics else None
        self.pred_clip = ClipMeter(self.num_frames, settings.target_frames)
        self.clip = ClipMeter(self.num_frames, settings.target_frames)
        self._clips = models.i3d is not None

    def update(self, pred: NDArray[np.uint8], frames: NDArray[np.uint8], parts: dict[str, Any]) -> None:
        parts = {name: mask[: len(frames)] for name, mask in parts.items()}
        pred = pred[: len(frames)]
        self.pair.update(pred, frames, parts)
        if self.temporal:
            self.temporal.update(frames, parts)
        if self._clips:
            self.pred_clip.update(pred, parts)
            self.clip.update(frames, parts)


def compare(
    job: Job, settings: Settings, models: Models, progress: Callable[[int, int], None] | None = None
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
            results = _measure(job, sources, settings, models, progress)
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
    models: Models,
    progress: Callable[[int, int], None] | None,
) -> list[Comparison]:
    """One pass over the videos; FewerFramesError when one of them does not have its number of frames."""
    pred = sources["prediction"]
    others = {role: source for role, source in sources.items() if role != "prediction"}
    size = target_size(pred, others, settings.resize)
    meters = [_Against(role, source, pred, settings, models) for role, source in others.items()]
    own = TemporalMeter() if "temporal" in settings.metrics else None
    with ExitStack() as stack:

        def opened(stream: Generator[NDArray, None, None]) -> Generator[NDArray, None, None]:
            return stack.enter_context(closing(stream))

        frames = opened(frames_of(pred, pred.num_frames, size, "prediction"))
        streams = [opened(frames_of(meter.source, meter.num_frames, size, meter.role)) for meter in meters]
        masks = None
        if job.mask:
            masks = opened(masks_of(job.mask, pred.num_frames, size, settings.resize is not None))
        done = 0
        while (batch := take(frames, settings.batch_frames)) is not None:
            parts: dict[str, NDArray[np.bool_]] = {}
            if masks is not None:
                mask = take(masks, len(batch))
                assert mask is not None
                parts = regions(mask, settings.seam_px)
            if own:
                own.update(batch, parts)
            for meter, stream in zip(meters, streams, strict=True):
                other = take(stream, len(batch))
                if other is not None:
                    meter.update(batch, other, parts)
            done += len(batch)
            if progress:
                progress(done, pred.num_frames)
    return [_result(job, pred, size, meter, own, settings, models) for meter in meters]


def _result(
    job: Job,
    pred: Source,
    size: tuple[int, int],
    meter: _Against,
    own: TemporalMeter | None,
    settings: Settings,
    models: Models,
) -> Comparison:
    """Turn the meters of one reference into its Comparison."""
    metrics = meter.pair.result()
    for temporal, suffix in ((own, ""), (meter.temporal, "_ref")):
        if temporal:
            for region, values in temporal.result().items():
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
    if "vmaf" in settings.metrics:
        _add_vmaf(result)
    if models.i3d is not None:
        result.pred_features = meter.pred_clip.features(models.i3d, settings.device)
        result.other_features = meter.clip.features(models.i3d, settings.device)
    return result


def _add_vmaf(result: Comparison) -> None:
    """Add VMAF, or a warning that says why there is none: the other metrics stand without it."""
    try:
        value = vmaf(result.pred, result.other, result.num_frames, result.size)
    except MetricError as error:
        result.warnings.append(str(error))
        value = math.nan
    result.metrics.setdefault("all", {})["vmaf"] = value
