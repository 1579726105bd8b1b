"""What an evaluation looks like: an aligned table, JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from hetcache.evaluation.compare import Comparison
from hetcache.evaluation.quality import DEFINITIONS, Quality
from hetcache.metrics.errors import MetricError

SCHEMA = "hetcache.evaluation/1"
AGAINST_TITLES = {
    "gt": "gt: the source video",
    "reference": "reference: the uncached output of the same seed",
}
COLUMNS = {
    "psnr": "PSNR dB", "ssim": "SSIM", "lpips": "LPIPS", "vmaf": "VMAF", "warp_error": "warp x1e3",
    "warp_error_ref": "(ref)", "flicker": "flicker", "flicker_ref": "(ref)",
}  # fmt: skip
_PACKAGES = (
    "hetcache",
    "torch",
    "numpy",
    "scikit-image",
    "lpips",
    "opencv-python-headless",
    "imageio-ffmpeg",
)


def jsonable(value: Any) -> Any:
    """The value as strict JSON can hold it: infinities as the strings "inf" and "-inf", nan as null."""
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return value if math.isfinite(value) else ("inf" if value > 0 else "-inf")
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return str(value) if isinstance(value, Path) else value


def document(quality: Quality, parameters: Mapping[str, Any], unmatched: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The JSON document of a `quality` run: see docs/evaluation.md for its keys."""
    return {
        "schema": SCHEMA,
        "command": "quality",
        "parameters": jsonable(parameters),
        "versions": versions(),
        "weights": jsonable(quality.weights),
        "definitions": DEFINITIONS,
        "missing": quality.missing,
        "per_video": [_row(result) for result in quality.results],
        "aggregate": jsonable(quality.aggregate),
        "distances": jsonable(quality.distances),
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


def write_text(path: Path, text: str) -> None:
    """Write a report in one step, so that no half of it is ever read."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def to_json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def to_csv(quality: Quality) -> str:
    """One line per video, other video and region, then the means; empty where there is no value."""
    names = [name for name in (*COLUMNS, "identical_frames") if _has(quality, name)]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["name", "against", "region", "num_frames", "width", "height", *names, "vfid", "fvd"])
    for result in quality.results:
        for region, values in result.metrics.items():
            head = [result.name, result.against, region, result.num_frames, result.size[1], result.size[0]]
            writer.writerow([*head, *(_cell(values.get(name)) for name in names), "", ""])
    for against, by_region in quality.aggregate.items():
        for region, values in by_region.items():
            figures = quality.distances.get(against, {}).get(region, {})
            tail = [_cell(figures.get(metric, {}).get("value")) for metric in ("vfid", "fvd")]
            writer.writerow(["mean", against, region, "", "", "", *(_cell(values.get(n)) for n in names), *tail])
    return stream.getvalue()


def table(quality: Quality) -> str:
    """The report for a terminal."""
    blocks = []
    for against, means in quality.aggregate.items():
        results = [result for result in quality.results if result.against == against]
        names = [name for name in COLUMNS if any(name in values for values in means.values())]
        rows = [["video", "region", "frames", *(COLUMNS[name] for name in names)]]
        for result in results:
            rows += _rows(result.name, str(result.num_frames), result.metrics, names)
        if len(results) > 1:
            rows += _rows(f"mean of {len(results)}", "", means, names)
        head = [f"against {AGAINST_TITLES[against]}", f"compared: {_compared(results)}"]
        if "flicker_ref" in names:
            head.append(f"(ref): the same figure of the {against} video alone")
        blocks.append("\n".join([*head, align(rows)]))
        if against in quality.distances:
            blocks.append(_distance_lines(quality, against))
    blocks += [f"{metric.upper()}: not measured. {reason}" for metric, reason in quality.missing.items()]
    if lpips := quality.weights.get("lpips"):
        blocks.append(f"LPIPS weights: {lpips['net']}, {lpips['source']}, {lpips['path']}")
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


def _rows(title: str, frames: str, metrics: Mapping[str, Mapping[str, float]], names: Sequence[str]) -> list[list[str]]:
    lines = []
    for number, (region, values) in enumerate(metrics.items()):
        head = [title, region, frames] if number == 0 else ["", region, ""]
        lines.append([*head, *(_shown(name, values.get(name)) for name in names)])
    return lines


def _shown(name: str, value: float | None) -> str:
    if value is None or math.isnan(value):
        return "-"
    if name.startswith("warp_error"):
        return f"{value * 1e3:.3f}"
    return f"{value:.2f}" if name in ("vmaf", "flicker", "flicker_ref") else f"{value:.4f}"


def _compared(results: Sequence[Comparison]) -> str:
    """Which output the predictions are, from their run records."""
    kinds = sorted({result.pred_origin.output for result in results})
    text = " and ".join("outputs without a run record" if kind == "unknown" else f"{kind} outputs" for kind in kinds)
    others = sorted({result.other_origin.output for result in results} - {"unknown"})
    return f"{text}, with {' and '.join(others)} references" if others else text


def _distance_lines(quality: Quality, against: str) -> str:
    figures = quality.distances[against]
    regions = list(figures)
    rows = [["distance", "clips", *regions]]
    for metric in ("vfid", "fvd"):
        values = [figures[region][metric]["value"] for region in regions]
        shown = ["-" if math.isnan(value) else f"{value:.4f}" for value in values]
        rows.append([metric.upper(), str(figures[regions[0]][metric]["clips"]), *shown])
    checkpoint = quality.weights["i3d"]
    notes = [f"{metric.upper()}: {DEFINITIONS[metric]}" for metric in ("vfid", "fvd")]
    notes.append(f"I3D weights: {checkpoint['layout']}, {checkpoint['path']}")
    return "\n".join([align(rows), *notes])


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
        "metrics": jsonable(result.metrics),
        "warnings": result.warnings,
    }


def _has(quality: Quality, name: str) -> bool:
    return any(name in values for result in quality.results for values in result.metrics.values())


def _cell(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else repr(value)
