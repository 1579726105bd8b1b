"""The cells of a study: those of `hetcache.benchmark`, kept across versions of the code.

A benchmark's cell is another one after any change of the code. A study goes on for hours while methods are added, so
its cells depend on the code of their own method alone, every run says which code it was made with, and where that
differs from today's, `check_code` makes one run of each mode again and compares every pixel.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hetcache.benchmark.cells import Case, Cell, Record, Store
from hetcache.benchmark.executor import Bench
from hetcache.benchmark.methods import Method
from hetcache.benchmark.runner import Plan
from hetcache.core.facts import facts_of_code
from hetcache.files import digest
from hetcache.metrics.regions import regions
from hetcache.metrics.registry import ReadyView, measure
from hetcache.modes import MODES

Frames = NDArray[np.uint8]
FIGURES = ("psnr", "lpips")
REGIONS = ("in_mask", "seam")


def code_of(mode: str) -> str:
    """A digest of the file that a mode's settings stand in, with its folder if that is the method's own."""
    file = Path(inspect.getfile(MODES[mode].config))
    files = sorted(file.parent.glob("*.py")) if file.parent.name == "method" else [file]
    return digest(*(part for each in files for part in (each.name, each)))[:16]


@dataclass(frozen=True)
class StudyPlan(Plan):
    """A plan whose cells know the code of their own mode instead of all code."""

    def cell(self, method: Method, case: Case, seed: int) -> Cell:
        return Cell(method, case, seed, {**self.setup, "code": code_of(method.mode)})

    def only(self, case: Case, seed: int) -> StudyPlan:
        """One clip and seed of it."""
        return replace(self, cases=[case], seeds=[seed])


class StudyBench(Bench):
    """Executor of a study: PSNR and LPIPS in the mask and its seam against the uncached output, and no videos."""

    figures: ReadyView = {}

    def run(self, cell: Cell, num_steps: int) -> tuple[Record, Frames]:
        record, frames = super().run(cell, num_steps)
        mask = self.clip(cell.case).mask_THW
        facts = {"code": facts_of_code(), "pixels": digest(frames.tobytes()), "masked": round(float(mask.mean()), 4)}
        return {**record, **facts}, frames

    def judge(self, cell: Cell, frames: Frames, baseline: Frames | None) -> Record:
        if baseline is None:
            return {}
        areas = {name: area for name, area in regions(self.clip(cell.case).mask_THW).items() if name in REGIONS}
        return {"baseline": measure(frames, baseline, areas, self.figures)}

    def save_video(self, cell: Cell, frames: Frames) -> None:
        return


def check_code(plan: StudyPlan, store: Store, executor: StudyBench) -> list[str]:
    """Run one finished cell of every mode that was made with other code than today's again. Returns the modes that were
    looked at. Raises ValueError where a pixel differs."""
    code, looked_at = facts_of_code(), []
    for mode, (cell, record) in _oldest(plan, store, code).items():
        again, _ = executor.run(cell, cell.method.num_steps or plan.num_steps)
        if again["pixels"] != record["pixels"]:
            raise ValueError(
                f"{cell.method.name} on {cell.case.name} gives other pixels than with the code of {record['code']}: "
                "use another --output"
            )
        looked_at.append(mode)
    return looked_at


def _oldest(plan: StudyPlan, store: Store, code: str) -> Mapping[str, tuple[Cell, dict[str, Any]]]:
    found: dict[str, tuple[Cell, dict[str, Any]]] = {}
    for case in plan.cases:
        for seed in plan.seeds:
            for method in plan.methods:
                cell = plan.cell(method, case, seed)
                record = store.run(cell, 0)
                if record is not None and record["code"] != code and method.mode not in found:
                    found[method.mode] = cell, record
    return found
