"""Evaluate a list of jobs: load the networks once, go on past bad pairs, add up, take VFID and FVD."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hetcache.evaluation.compare import Comparison, Models, Settings, compare
from hetcache.evaluation.pairs import AGAINST, Job
from hetcache.metrics.errors import MetricError, optional_import
from hetcache.metrics.frame import mean_psnr, nan_mean
from hetcache.metrics.frechet import MIN_CLIPS, frechet_distance, too_few_clips
from hetcache.metrics.i3d_weights import load_i3d
from hetcache.metrics.perceptual import load_lpips
from hetcache.metrics.regions import REGION_NAMES

DEFINITIONS = {
    "psnr": "dB, 10 log10(255^2 / MSE) of each frame, mean over frames; identical frames are left out of the "
    "mean (all identical: inf)",
    "ssim": "scikit-image structural_similarity, 7x7 uniform window, data_range 255, mean over frames",
    "lpips": "LPIPS v0.1, frames in [-1, 1] at full size, mean over frames; in a region, mean of the per-pixel map",
    "warp_error": "mean squared difference (0..1 scale) of frame t and frame t+1 carried back by DIS flow, "
    "non-occluded pixels; of the prediction (_ref: of the other video)",
    "flicker": "mean absolute difference of neighbouring frames, 0..255; of the prediction (_ref: of the other video)",
    "vmaf": "libvmaf's default model vmaf_v0.6.1, mean over frames",
    "vfid": "Frechet distance of 1024-d I3D features, pooled before the classifier, one clip per video",
    "fvd": "Frechet distance of the 400-d I3D logits, one clip per video",
}
DISTANCES = {"vfid": "pooled", "fvd": "logits"}


@dataclass
class Quality:
    """Everything that was measured, and everything that was not and why."""

    results: list[Comparison] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    weights: dict[str, dict[str, Any]] = field(default_factory=dict)
    aggregate: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    distances: dict[str, dict[str, dict[str, dict[str, Any]]]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def resolve_device(name: str) -> str:
    """The torch device `name`, "auto" being CUDA if there is one; MetricError when it cannot be used."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        why = one_line(error)[:80]
        raise MetricError(f"--device {name} cannot be used ({why}): use --device cpu") from error
    return name


def load_models(
    settings: Settings, lpips_net: str, lpips_weights: str | None, i3d_checkpoint: Path | None
) -> tuple[Settings, Models, Quality]:
    """Load what `settings` asks for; a metric whose weights or package are missing is taken out of it.

    Returns the settings that can be followed, the networks, and a Quality that holds only `weights` (what was
    loaded) and `missing` (what was not, with the command that brings it).
    """
    quality = Quality()
    metrics = set(settings.metrics)
    lpips = i3d = None
    for metric, module, package in (
        ("ssim", "skimage.metrics", "scikit-image"), ("temporal", "cv2", "opencv-python-headless"),
    ):  # fmt: skip
        if metric in metrics:
            try:
                optional_import(module, package, metric)
            except MetricError as error:
                quality.missing[metric] = str(error)
    if "lpips" in metrics:
        try:
            lpips = load_lpips(lpips_net, lpips_weights, settings.device)
            quality.weights["lpips"] = asdict(lpips.weights)
        except MetricError as error:
            quality.missing["lpips"] = str(error)
    if "vfid" in metrics:
        try:
            i3d, checkpoint = load_i3d(i3d_checkpoint, settings.device)
            quality.weights["i3d"] = asdict(checkpoint)
        except MetricError as error:
            quality.missing["vfid"] = str(error)
    usable = replace(settings, metrics=frozenset(metrics - quality.missing.keys()))
    return usable, Models(lpips, i3d), quality


def evaluate(
    jobs: Sequence[Job],
    settings: Settings,
    models: Models,
    quality: Quality,
    progress: Callable[[str, int, int], None] | None = None,
) -> Quality:
    """Measure every job into `quality`; one that cannot be measured becomes a failure and the rest go on.

    An interruption (Ctrl-C) makes failures of the jobs that are left and keeps the figures of the others.

    `progress(name, done, total)` is called with numbers of frames.
    """
    for position, job in enumerate(jobs):

        def report(done: int, total: int, name: str = job.name) -> None:
            if progress:
                progress(name, done, total)

        try:
            quality.results += compare(job, settings, models, report)
        except (ValueError, OSError, RuntimeError) as error:
            # RuntimeError: a device that runs out of memory on one video should not cost the others.
            quality.failures.append((job.name, one_line(error)))
        except KeyboardInterrupt:
            # What took hours before the interruption is still reported.
            quality.failures += [(left.name, "interrupted before it was measured") for left in jobs[position:]]
            break
    for against in AGAINST:
        chosen = [result for result in quality.results if result.against == against]
        if chosen:
            quality.aggregate[against] = _aggregate(chosen)
            if models.i3d is not None:
                quality.distances[against] = _distances(chosen)
    quality.warnings += [f"{result.name}: {warning}" for result in quality.results for warning in result.warnings]
    quality.warnings += _distance_warnings(quality)
    return quality


def one_line(error: BaseException) -> str:
    """An exception's message on one line; its type when it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def _aggregate(results: Sequence[Comparison]) -> dict[str, dict[str, float]]:
    """Mean over videos of every metric of every region, by the rules of the mean over frames."""
    means: dict[str, dict[str, float]] = {}
    for region in ("all", *REGION_NAMES):
        rows = [result.metrics[region] for result in results if region in result.metrics]
        for metric in dict.fromkeys(key for row in rows for key in row):
            values = [row[metric] for row in rows if metric in row]
            if metric == "identical_frames":
                means.setdefault(region, {})[metric] = sum(values)
            else:
                means.setdefault(region, {})[metric] = (mean_psnr if metric == "psnr" else nan_mean)(values)
    return means


def _distances(results: Sequence[Comparison]) -> dict[str, dict[str, dict[str, Any]]]:
    """{region: {"vfid" and "fvd": {"value", "clips", "features", "definition"}}}; value nan under 2 clips."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for region in ("all", *REGION_NAMES):
        # A clip counts when the region shows in it: the mask is the same for both videos.
        shown = [result for result in results if region in result.pred_features and region in result.other_features]
        if not shown:
            continue
        found[region] = {}
        for metric, key in DISTANCES.items():
            pred = np.stack([result.pred_features[region][key] for result in shown])
            other = np.stack([result.other_features[region][key] for result in shown])
            value = frechet_distance(pred, other) if len(shown) >= MIN_CLIPS else math.nan
            found[region][metric] = {
                "value": value,
                "clips": len(shown),
                "features": pred.shape[1],
                "definition": DEFINITIONS[metric],
            }
    return found


def _distance_warnings(quality: Quality) -> list[str]:
    warnings = []
    for against, by_region in quality.distances.items():
        for metric, figure in by_region.get("all", {}).items():
            if figure["clips"] < MIN_CLIPS:
                warnings.append(f"{metric.upper()} against {against}: needs {MIN_CLIPS} clips or more, there is 1")
            elif text := too_few_clips(figure["clips"], figure["features"]):
                warnings.append(f"{metric.upper()} against {against}: {text}")
    return warnings
