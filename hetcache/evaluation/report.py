"""What an evaluation looks like: an aligned table, JSON and CSV."""

from __future__ import annotations

import csv
import io
import math
import os
import platform
from collections.abc import Collection, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from hetcache.evaluation.compare import OTHER, Comparison
from hetcache.evaluation.quality import Quality
from hetcache.metrics.errors import MetricError
from hetcache.metrics.metric import JoinMetric, Metric, SetMetric, VideoMetric
from hetcache.metrics.registry import METRICS, chosen

SCHEMA = "hetcache.evaluation/1"
AGAINST_TITLES = {
    "gt": "gt: the source video",
    "reference": "reference: the uncached output of the same seed",
}
_PACKAGES = (
    "hetcache",
    "torch",
    "numpy",
    "scikit-image",
    "lpips",
    "opencv-python-headless",
    "imageio-ffmpeg",
)


def columns() -> dict[str, str]:
    """{figure: its heading in the table}; a video metric has a second column for the other video. What only an edit in
    windows has, and what only sets of videos have, stands below the table."""
    found: dict[str, str] = {}
    for metric in METRICS.values():
        if metric.title and not isinstance(metric, (SetMetric, JoinMetric)):
            found[metric.name] = metric.heading
            if isinstance(metric, VideoMetric):
                found[f"{metric.name}{OTHER}"] = "(ref)"
    return found


def document(quality: Quality, parameters: Mapping[str, Any], unmatched: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The JSON document of a `quality` run: see docs/evaluation.md for its keys."""
    return {
        "schema": SCHEMA,
        "command": "quality",
        "parameters": parameters,
        "versions": versions(),
        "weights": {loaded.weights: loaded.facts for loaded in quality.loaded.values()},
        "definitions": {metric.name: metric.definition for metric in METRICS.values()},
        "missing": quality.missing,
        "per_video": [_row(result) for result in quality.results],
        "aggregate": quality.aggregate,
        "distances": quality.distances,
        "unmatched": {role: list(names) for role, names in unmatched.items()},
        "failures": [{"name": name, "error": error} for name, error in quality.failures],
        "warnings": quality.warnings,
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that produce the numbers; absent ones are left out."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def check_targets(paths: Sequence[Path | None]) -> None:
    """Make the folders of the files to write, before any work; MetricError or OSError if it cannot be."""
    for path in paths:
        if path is None:
            continue
        if path.is_dir():
            raise MetricError(f"{path} is a folder: give a file name")
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(path.parent, os.W_OK):
            raise MetricError(f"{path.parent} cannot be written to: choose another folder")


def to_csv(quality: Quality) -> str:
    """One line per video, other video and region, then the means; empty where there is no value."""
    untitled = [metric.name for metric in METRICS.values() if not metric.title]
    joins = [metric.name for metric in chosen(JoinMetric)]
    names = [name for name in (*columns(), *untitled, *joins) if _has(quality, name)]
    sets = [metric.name for metric in chosen(SetMetric)]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["name", "against", "region", "num_frames", "width", "height", *names, *sets])
    for result in quality.results:
        for region, values in result.metrics.items():
            head = [result.name, result.against, region, result.num_frames, result.size[1], result.size[0]]
            writer.writerow([*head, *(_cell(values.get(name)) for name in names), *("" for _ in sets)])
    for against, by_region in quality.aggregate.items():
        for region, values in by_region.items():
            figures = quality.distances.get(against, {}).get(region, {})
            tail = [_cell(figures.get(name, {}).get("value")) for name in sets]
            writer.writerow(["mean", against, region, "", "", "", *(_cell(values.get(n)) for n in names), *tail])
    return stream.getvalue()


def table(quality: Quality) -> str:
    """The report for a terminal."""
    blocks = []
    for against, means in quality.aggregate.items():
        results = [result for result in quality.results if result.against == against]
        heads = {name: head for name, head in columns().items() if any(name in values for values in means.values())}
        rows = [["video", "region", "frames", *heads.values()]]
        for result in results:
            rows += _rows(result.name, str(result.num_frames), result.metrics, heads)
        if len(results) > 1:
            rows += _rows(f"mean of {len(results)}", "", means, heads)
        head = [f"against {AGAINST_TITLES[against]}", f"compared: {_compared(results)}"]
        if any(name.endswith(OTHER) for name in heads):
            head.append(f"(ref): the same figure of the {against} video alone")
        blocks.append("\n".join([*head, align(rows), *_join_lines(results)]))
        if against in quality.distances:
            blocks.append(_distance_lines(quality, against))
    blocks += [f"{metric.upper()}: not measured. {reason}" for metric, reason in quality.missing.items()]
    with_distances = {metric.asked for metric in chosen(SetMetric)}
    blocks += [loaded.line for family, loaded in quality.loaded.items() if family not in with_distances]
    return "\n\n".join(blocks)


def notes(unmatched: Mapping[str, Sequence[str]], warnings: Sequence[str], failures: Sequence[tuple[str, str]]) -> str:
    """What was left out, doubtful or wrong, a line each."""
    lines = [f"unmatched {role}: {name}" for role, names in unmatched.items() for name in names]
    lines += [f"warning: {text}" for text in warnings]
    lines += [f"failed: {name}: {error}" for name, error in failures]
    return "".join(f"{line}\n" for line in lines)


def align(rows: Sequence[Sequence[str]]) -> str:
    """Rows as text: the first two columns to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "-" * len(max(lines, key=len)))
    return "\n".join(lines)


def _rows(
    title: str, frames: str, metrics: Mapping[str, Mapping[str, float]], names: Collection[str]
) -> list[list[str]]:
    lines = []
    for number, (region, values) in enumerate(metrics.items()):
        head = [title, region, frames] if number == 0 else ["", region, ""]
        lines.append([*head, *(_metric(name).text(values.get(name)) for name in names)])
    return lines


def _join_lines(results: Sequence[Comparison]) -> list[str]:
    """A line for each video that was edited in windows."""
    lines = []
    for result in results:
        values = result.metrics.get("in_mask", {})
        parts = [f"{m.title} {m.text(values[m.name])} {m.unit}".strip() for m in chosen(JoinMetric) if m.name in values]
        if parts:
            lines.append(f"joins of {result.name}: {', '.join(parts)}")
    return lines


def _metric(name: str) -> Metric:
    return METRICS[name.removesuffix(OTHER)]


def _compared(results: Sequence[Comparison]) -> str:
    """Which output the predictions are, from their run records."""
    kinds = sorted({result.pred_origin.output for result in results})
    text = " and ".join("outputs without a run record" if kind == "unknown" else f"{kind} outputs" for kind in kinds)
    others = sorted({result.other_origin.output for result in results} - {"unknown"})
    return f"{text}, with {' and '.join(others)} references" if others else text


def _distance_lines(quality: Quality, against: str) -> str:
    figures = quality.distances[against]
    regions = list(figures)
    metrics = [metric for metric in chosen(SetMetric) if metric.name in figures[regions[0]]]
    rows = [["distance", "clips", *regions]]
    for metric in metrics:
        shown = [metric.text(figures[region][metric.name]["value"]) for region in regions]
        rows.append([metric.title, str(figures[regions[0]][metric.name]["clips"]), *shown])
    lines = [f"{metric.title}: {metric.definition}" for metric in metrics]
    families = dict.fromkeys(metric.asked for metric in metrics)
    networks = [quality.loaded[family].line for family in families if family in quality.loaded]
    return "\n".join([align(rows), *lines, *networks])


def _row(result: Comparison) -> dict[str, Any]:
    return {
        "name": result.name,
        "against": result.against,
        "pred": str(result.pred),
        "pred_output": result.pred_origin.output,
        "pred_mode": result.pred_origin.mode,
        "pred_record": result.pred_origin.record,
        "other": str(result.other),
        "other_output": result.other_origin.output,
        "num_frames": result.num_frames,
        "width": result.size[1],
        "height": result.size[0],
        "metrics": result.metrics,
        "warnings": result.warnings,
    }


def _has(quality: Quality, name: str) -> bool:
    return any(name in values for result in quality.results for values in result.metrics.values())


def _cell(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else repr(value)
