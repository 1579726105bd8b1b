"""The finished runs of a study as curves, and every figure of its report as JSON values."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import product
from typing import Any

from hetcache.benchmark.cells import Record
from scripts.study.curves import FIGURES, SPEEDUPS, Block, Curves, Figure, Point, at, duel, mean_at, standing
from scripts.study.study import Study

OURS = ("hetcache", "hetcache_exact", "hetcache_noise", "hetcache_sampled", "hetcache_paper")
"""The first that is there is compared with all that is not in this list."""


class Runs:
    """Runs of one length. `curves` are those that are whole in at least half of the clips and seeds that any run is of
    (`began`), over the blocks in which all of these are whole; `unfinished` says of the others in how many they are."""

    def __init__(self, study: Study, frames: int) -> None:
        plan, store = study.plan(frames), study.store(frames)
        self.frames, self.began = frames, 0
        self.masked: dict[str, float] = {}
        self.codes: set[str] = set()
        whole: dict[str, dict[Block, list[Record]]] = {sweep.name: {} for sweep in study.asked.sweeps}
        baselines: dict[Block, Record] = {}
        for case, seed in product(study.cases, study.asked.seeds):
            baseline = store.run(plan.cell(study.methods[0], case, seed), 0)
            if baseline is None:
                continue
            baselines[case.name, seed] = baseline
            for sweep in study.asked.sweeps:
                records = [store.run(plan.cell(method, case, seed), 0) for method in sweep.methods()]
                if None not in records:
                    whole[sweep.name][case.name, seed] = _known(records)
        self.began = len(baselines)
        chosen = [name for name, blocks in whole.items() if 2 * len(blocks) >= self.began > 0]
        self.unfinished = {name: len(blocks) for name, blocks in whole.items() if name not in chosen}
        self.curves: dict[str, dict[Block, list[Point]]] = {name: {} for name in chosen}
        for block, baseline in baselines.items():
            if chosen and all(block in whole[name] for name in chosen):
                self._add(block, baseline, {name: whole[name][block] for name in chosen})

    def _add(self, block: Block, baseline: Record, found: dict[str, list[Record]]) -> None:
        self.masked[block[0]] = baseline["masked"]
        for name, records in found.items():
            self.codes |= {record["code"] for record in records}
            self.curves[name][block] = sorted(
                (
                    Point(
                        baseline["flops"]["run"] / record["flops"]["run"],
                        {
                            **{f.key: record["quality"]["baseline"]["in_mask"][f.key] for f in FIGURES},
                            **{f"seam_{f.key}": record["quality"]["baseline"]["seam"][f.key] for f in FIGURES},
                            "time": baseline["timing_s"]["denoise"] / record["timing_s"]["denoise"],
                        },
                    )
                    for record in records
                ),
                key=lambda point: point.speedup,
            )

    @property
    def blocks(self) -> list[Block]:
        return list(next(iter(self.curves.values()), {}))


def ours_of(curves: Curves) -> list[str]:
    return [name for name in OURS if name in curves]


def summary(runs: Runs) -> dict[str, Any]:
    """Every figure of one length, as JSON values."""
    curves, ours = runs.curves, ours_of(runs.curves)
    found: dict[str, Any] = {"frames": runs.frames, "blocks": [list(block) for block in runs.blocks]}
    found["masked"] = runs.masked
    found["began"] = runs.began
    found["unfinished"] = runs.unfinished
    found["code"] = sorted(runs.codes)
    found["realised"] = {name: _realised(each.values()) for name, each in curves.items()}
    for figure in FIGURES:
        key = figure.key
        found[key] = {
            "mean": {
                name: {f"{speedup:g}": reach(curves[name], speedup, figure) for speedup in SPEEDUPS} for name in curves
            }
        }
        if not ours:
            continue
        found[key]["against"] = {
            name: {
                f"{speedup:g}": None if (met := duel(curves, ours[0], name, speedup, figure)) is None else asdict(met)
                for speedup in SPEEDUPS
            }
            for name in curves
            if name != ours[0]
        }
        found[key]["standing"] = {
            f"{speedup:g}": None if (stood := standing(curves, ours, speedup, figure)) is None else asdict(stood)
            for speedup in SPEEDUPS
        }
    found["curves"] = [
        {"method": name, "clip": clip, "seed": seed, "points": [asdict(point) for point in points]}
        for name, each in curves.items()
        for (clip, seed), points in each.items()
    ]
    return found


def reach(curve: Mapping[Block, Sequence[Point]], speedup: float, figure: Figure) -> dict[str, Any]:
    """`mean_at` as JSON values, with the clips that end before it with any seed."""
    outside = {clip for (clip, _), points in curve.items() if at(points, speedup, figure) is None}
    return {**asdict(mean_at(curve, speedup, figure)), "outside": sorted(outside)}


def _realised(curves: Iterable[list[Point]]) -> float | None:
    """The median over runs of time speed-up over FLOPs speed-up."""
    values = [point.values["time"] / point.speedup for points in curves for point in points]
    return statistics.median(values) if values else None


def _known(records: list[Record | None]) -> list[Record]:
    return [record for record in records if record is not None]
