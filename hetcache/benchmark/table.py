"""The columns of the table, and the table as text and Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hetcache.benchmark.quality import metrics
from hetcache.benchmark.rows import REGIONS, Row
from hetcache.metrics.metric import PairMetric

NONE = "-"
Value = Callable[[Row], Any]


@dataclass(frozen=True)
class Column:
    """`group` heads several columns; `meaning` is one sentence for the reader; `show` gives the cell's text."""

    group: str
    name: str
    meaning: str
    value: Value
    show: Callable[[Any], str]
    brief: bool = False

    def text(self, row: Row) -> str:
        value = self.value(row)
        return NONE if value is None or (isinstance(value, float) and math.isnan(value)) else self.show(value)


def _key(name: str) -> Value:
    return lambda row: row.get(name)


def _quality(against: str, region: str, metric: str) -> Value:
    return lambda row: row.get("quality", {}).get(against, {}).get(region, {}).get(metric)


def _count(value: float) -> str:
    return f"{value:.0f}" if value == round(value) else f"{value:.1f}"


def _counts(row: Row) -> str | None:
    """Means over videos and seeds where those differ."""
    if "full" not in row:
        return None
    return "/".join(_count(row[name]) for name in ("full", "partial", "reuse"))


def _ratio(value: float) -> str:
    return f"{value:.2f}x"


def _bytes(value: int) -> str:
    return "0" if not value else f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.1f} MiB"


def _seconds(value: float) -> str:
    return f"{value:.1f}" if value >= 100 else f"{value:.2f}"


def _pflops(value: float) -> str:
    return f"{value:.3g}"


def _spread(stage: str) -> Value:
    def value(row: Row) -> str | None:
        low, high = row.get(f"{stage}_min_s"), row.get(f"{stage}_max_s")
        return None if low is None or high is None or row["runs"] < 2 else f"{_seconds(low)}-{_seconds(high)}"

    return value


def columns() -> list[Column]:
    """All columns of the table, in order; the brief ones fit a terminal."""

    def text(value: Any) -> str:
        return str(value) or NONE

    found = [
        Column("", "method", "mode or preset", _key("method"), text, True),
        Column("", "setting", "what differs from the mode's defaults", _key("setting"), text),
        Column(
            "steps",
            "full/partial/reuse",
            "steps computed in full, in some tokens or sub-layers, and not at all",
            _counts,
            text,
            True,
        ),
        Column("work", "PFLOPs", "analytic FLOPs of the denoising loop, both branches", _key("pflops"), _pflops),
        Column("work", "ratio", "uncached FLOPs over these", _key("flops_ratio"), _ratio, True),
        Column("denoising", "s", "median time of the denoising loop", _key("denoise_s"), _seconds, True),
        Column("denoising", "range", "fastest to slowest run", _spread("denoise"), text),
        Column("denoising", "speed-up", "the same process's baseline over this", _key("speedup"), _ratio, True),
        Column(
            "denoising",
            "realised",
            "speed-up over FLOPs ratio: 1 turns all saved work into saved time",
            _key("realised"),
            lambda v: f"{v:.2f}",
        ),
        Column("end to end", "s", "text, VAE encode, denoise, VAE decode", _key("end_to_end_s"), _seconds, True),
        Column(
            "end to end", "speed-up", "the same process's baseline over this", _key("end_to_end_speedup"), _ratio, True
        ),
    ]
    for region, name in REGIONS:
        found += [_compared(metric, region, name) for metric in metrics()]
    found += [
        Column(
            "against source",
            metric.title,
            f"{metric.title} of the raw output against the source video",
            _quality("source", "all", metric.name),
            _shown(metric),
        )
        for metric in metrics()
    ]
    found += [
        Column("memory", "cache", "peak bytes kept from step to step", _key("cache_bytes"), _bytes),
        Column(
            "memory",
            "peak GiB",
            "peak of the GPU's allocations, of resident memory on a CPU",
            _key("peak_memory_gib"),
            lambda v: f"{v:.2f}",
        ),
    ]
    return found


def _compared(metric: PairMetric, region: str, name: str) -> Column:
    """A metric's column against the uncached output, in one region."""
    return Column(
        f"against uncached: {name}",
        metric.title,
        f"{metric.title} of the raw output, {name}, against the baseline's",
        _quality("baseline", region, metric.name),
        _shown(metric),
        brief=region == "in_mask" and metric.name == "psnr",
    )


def _shown(metric: PairMetric) -> Callable[[Any], str]:
    return lambda value: metric.text(value, brief=True)


def plain(rows: list[Row]) -> str:
    """The brief columns, aligned, with failures spelled out below."""
    shown = [column for column in columns() if column.brief]
    head = [_head(column) for column in shown]
    lines = [head, *([column.text(row) for column in shown] for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(head))]
    text = [
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    return "\n".join([*text, *failures(rows)])


def markdown(rows: list[Row], brief: bool = False) -> str:
    """All columns, or the brief ones, as a Markdown table."""
    shown = [column for column in columns() if column.brief or not brief]
    head = [_head(column) if brief else "<br>".join(filter(None, (column.group, column.name))) for column in shown]
    rule = ["---" if column.name in ("method", "setting") else "---:" for column in shown]
    lines = [head, rule, *([column.text(row) for column in shown] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def failures(rows: list[Row]) -> list[str]:
    """One line for each row whose cells failed, and for each accelerating one that skipped nothing."""
    lines = []
    for row in rows:
        if "failed" in row:
            state = f"FAILED after {row['runs']} finished runs" if row["runs"] else "FAILED"
            lines.append(f"{row['method']}: {state}: {row['failed']}")
        elif not row["accelerated"] and row["mode"] != "baseline":
            lines.append(f"{row['method']}: NOT ACCELERATED, it computed every step in full at these settings")
    return lines


def _head(column: Column) -> str:
    """A short heading that needs no group above it."""
    group = {
        "steps": "",
        "work": "FLOPs",
        "denoising": "denoise",
        "end to end": "whole",
        "against uncached: in mask": "in-mask",
    }.get(column.group, column.group)
    return " ".join(part for part in (group, column.name) if part)
