"""From finished runs to one row per method: medians, spreads, ratios against the same process's baseline."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from hetcache.benchmark.cells import Case, Cell, Record, Store
from hetcache.benchmark.methods import BASELINE, Method
from hetcache.benchmark.quality import metrics
from hetcache.benchmark.runner import Plan

STAGES = ("text", "vae_encode", "denoise", "vae_decode")
REGIONS = (("in_mask", "in mask"), ("seam", "seam"), ("all", "whole"))
Row = dict[str, Any]


def table_rows(plan: Plan, store: Store, cases: Sequence[Case] | None = None) -> list[Row]:
    """One row per method over all videos and seeds, or over some videos. Seconds, PFLOPs, bytes, GiB, dB.

    Times are medians over runs with their lowest and highest; `speedup` are medians over runs of the ratio to the
    baseline's run of the same round, or where another process made that one, to this process's own baseline. Quality
    is the mean over videos and seeds. A row without a finished run has `failed`, its message.
    """
    chosen = list(plan.cases if cases is None else cases)
    clock = _Clock(plan, store)
    return [_row(method, plan, store, chosen, clock) for method in plan.methods]


def _row(method: Method, plan: Plan, store: Store, cases: list[Case], clock: _Clock) -> Row:
    cells = [plan.settled(method, case, seed, store) for case in cases for seed in plan.seeds]
    runs = [(cell, record) for cell in cells for record in store.runs(cell, plan.num_repeats)]
    failures = [record["failed"] for cell in cells if (record := store.failure(cell)) is not None]
    shown = cells[0].method
    row: Row = {
        "method": method.name,
        "mode": method.mode,
        "setting": shown.setting(),
        "runs": len(runs),
        "cells": len({str(cell.folder) for cell, _ in runs}),
        "cells_planned": len(cells),
        "steps": sorted({cell.method.num_steps or plan.num_steps for cell in cells}),
    }
    if failures:
        row["failed"] = failures[0]
    if not runs:
        row.setdefault("failed", "not run")
        return row
    row |= _work(runs, plan, store)
    row |= _times(runs, clock)
    if row["speedup"] is not None and row["flops_ratio"] is not None:
        row["realised"] = row["speedup"] / row["flops_ratio"]
    row |= _quality([record for _, record in runs if "quality" in record])
    return row


def _work(runs: list[tuple[Cell, Record]], plan: Plan, store: Store) -> Row:
    records = [record for _, record in runs]
    letters = [record["decisions"]["cond"] or record["decisions"]["uncond"] for record in records]
    steps = [cell.method.num_steps or plan.num_steps for cell, _ in runs]
    uncached = sum(plan.uncached_flops(cell.case, cell.seed, store, record) for cell, record in runs)
    run = sum(record["flops"]["run"] for record in records)
    return {
        "decisions": letters[0],
        **{
            name: statistics.fmean(sum(map(word.count, of)) for word in letters)
            for name, of in (("full", "F"), ("partial", "PB"), ("reuse", "R"))
        },
        "pflops": run / len(records) / 1e15,
        "flops_ratio": uncached / run if run else None,
        "accelerated": any(record["accelerated"] for record in records) or min(steps) < plan.num_steps,
        "cache_bytes": max(record["cache_bytes"] for record in records),
        "peak_memory_gib": max(record["peak_memory_gib"] for record in records),
    }


def _times(runs: list[tuple[Cell, Record]], clock: _Clock) -> Row:
    denoise = [record["timing_s"]["denoise"] for _, record in runs]
    whole = [end_to_end_s(record) for _, record in runs]
    bases = [clock.baseline(cell, record) for cell, record in runs]
    faster = [base[0] / time for base, time in zip(bases, denoise, strict=True) if base]
    sooner = [base[1] / time for base, time in zip(bases, whole, strict=True) if base]
    return {
        **{f"{stage}_s": statistics.median(record["timing_s"][stage] for _, record in runs) for stage in STAGES},
        "denoise_min_s": min(denoise),
        "denoise_max_s": max(denoise),
        "end_to_end_s": statistics.median(whole),
        "end_to_end_min_s": min(whole),
        "end_to_end_max_s": max(whole),
        "speedup": statistics.median(faster) if faster else None,
        "end_to_end_speedup": statistics.median(sooner) if sooner else None,
        "realised": None,
    }


def _quality(records: list[Record]) -> Row:
    """{"quality": {"baseline" or "source": {region: {metric: mean over cells}}}}; what was not measured is absent."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for against in ("baseline", "source"):
        regions = {name for record in records for name in record["quality"].get(against) or {}}
        for region in sorted(regions):
            for metric in metrics():
                values = [
                    float(record["quality"][against][region][metric.name])
                    for record in records
                    if metric.name in record["quality"].get(against, {}).get(region, {})
                ]
                if values:
                    found.setdefault(against, {}).setdefault(region, {})[metric.name] = metric.mean(values)
    return {"quality": found}


def end_to_end_s(record: Record) -> float:
    """What a user waits for, without loading the model and writing files, which are the same for all methods."""
    return float(sum(record["timing_s"][stage] for stage in STAGES))


class _Clock:
    """The baseline's (denoise, end-to-end) seconds that a run is to be divided into."""

    def __init__(self, plan: Plan, store: Store) -> None:
        self._exact: dict[tuple[str, str, int, int], tuple[float, float]] = {}
        self._process: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for case in plan.cases:
            for reference in store.references(case):
                self._process.setdefault((reference["process"], case.name), []).append(_pair(reference))
        for case in plan.cases:
            for seed in plan.seeds:
                cell = plan.cell(Method(BASELINE, BASELINE), case, seed)
                for record in store.runs(cell, plan.num_repeats):
                    process = record["process"]
                    self._exact[(process, case.name, seed, record["repeat"])] = _pair(record)
                    self._process.setdefault((process, case.name), []).append(_pair(record))

    def baseline(self, cell: Cell, record: Record) -> tuple[float, float] | None:
        process, name = record["process"], cell.case.name
        exact = self._exact.get((process, name, cell.seed, record["repeat"]))
        if exact is not None:
            return exact
        known = self._process.get((process, name))
        if not known:
            return None
        return statistics.median(pair[0] for pair in known), statistics.median(pair[1] for pair in known)


def _pair(record: Record) -> tuple[float, float]:
    return float(record["timing_s"]["denoise"]), end_to_end_s(record)
