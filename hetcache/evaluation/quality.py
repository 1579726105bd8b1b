"""Evaluate a list of jobs: load the networks once, go on past bad pairs, add up, compare the sets of videos."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from hetcache.evaluation.compare import OTHER, Comparison, Settings, compare
from hetcache.evaluation.pairs import AGAINST, Job
from hetcache.metrics.errors import MetricError
from hetcache.metrics.metric import Choices, Loaded, SetMetric
from hetcache.metrics.regions import REGION_NAMES
from hetcache.metrics.registry import METRICS, Ready, ReadyView, chosen, load


@dataclass
class Quality:
    """Everything that was measured, and everything that was not and why."""

    results: list[Comparison] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    loaded: dict[str, Loaded] = field(default_factory=dict)
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


def load_models(asked: Collection[str], choices: Choices) -> tuple[Ready, Quality]:
    """Load what the metrics of the families in `asked` need; one whose weights or package are missing is left out.

    Returns what can be measured, and a Quality that holds only `loaded` (the networks, by family) and `missing`
    (what was not loaded, with the command that brings it).
    """
    ready, missing = load(asked, choices)
    return ready, Quality(missing=missing, loaded={family: each for family, each in ready.items() if each is not None})


def evaluate(
    jobs: Sequence[Job],
    settings: Settings,
    ready: ReadyView,
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
            quality.results += compare(job, settings, ready, report)
        except (ValueError, OSError, RuntimeError) as error:
            # RuntimeError: a device that runs out of memory on one video should not cost the others.
            quality.failures.append((job.name, one_line(error)))
        except KeyboardInterrupt:
            # What took hours before the interruption is still reported.
            quality.failures += [(left.name, "interrupted before it was measured") for left in jobs[position:]]
            break
    set_metrics = chosen(SetMetric, ready)
    for against in AGAINST:
        measured = [result for result in quality.results if result.against == against]
        if measured:
            quality.aggregate[against] = _aggregate(measured)
            if set_metrics:
                quality.distances[against] = _distances(measured, set_metrics)
    quality.warnings += [f"{result.name}: {warning}" for result in quality.results for warning in result.warnings]
    quality.warnings += _distance_warnings(quality, set_metrics)
    return quality


def one_line(error: BaseException) -> str:
    """An exception's message on one line; its type when it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def _aggregate(results: Sequence[Comparison]) -> dict[str, dict[str, float]]:
    """Mean over videos of every metric of every region, by the rules of the mean over frames."""
    means: dict[str, dict[str, float]] = {}
    for region in ("all", *REGION_NAMES):
        rows = [result.metrics[region] for result in results if region in result.metrics]
        for name in dict.fromkeys(key for row in rows for key in row):
            mean = METRICS[name.removesuffix(OTHER)].mean
            means.setdefault(region, {})[name] = mean([row[name] for row in rows if name in row])
    return means


def _distances(results: Sequence[Comparison], metrics: Sequence[SetMetric]) -> dict[str, dict[str, dict[str, Any]]]:
    """{region: {metric: {"value", "clips", "features", "definition"}}}; value nan for fewer clips than it needs."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for region in ("all", *REGION_NAMES):
        # A clip counts when the region shows in it: the mask is the same for both videos.
        shown = [result for result in results if region in result.pred_features and region in result.other_features]
        if not shown:
            continue
        found[region] = {}
        for metric in metrics:
            pred = np.stack([result.pred_features[region][metric.feature] for result in shown])
            other = np.stack([result.other_features[region][metric.feature] for result in shown])
            value = metric.distance(pred, other) if len(shown) >= metric.min_videos else math.nan
            found[region][metric.name] = {
                "value": value,
                "clips": len(shown),
                "features": pred.shape[1],
                "definition": metric.definition,
            }
    return found


def _distance_warnings(quality: Quality, metrics: Sequence[SetMetric]) -> list[str]:
    warnings = []
    for against, by_region in quality.distances.items():
        for metric in metrics:
            figure = by_region.get("all", {}).get(metric.name)
            if figure is None:
                continue
            least, clips = metric.min_videos, figure["clips"]
            if clips < least:
                warnings.append(f"{metric.title} against {against}: needs {least} clips or more, there is {clips}")
            elif text := metric.doubt(clips, figure["features"]):
                warnings.append(f"{metric.title} against {against}: {text}")
    return warnings
