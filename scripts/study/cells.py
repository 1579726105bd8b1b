"""The cells of a study: those of `hetcache.benchmark`, kept across versions of the code.

A benchmark's cell is another one after any change of the code. A study goes on for hours while methods are added, so
every run says which code it was made with instead, and where that differs from today's, `check_code` makes some runs
again and compares every pixel: one of a mode whose own file is the same, a whole curve where that has changed.
"""

from __future__ import annotations

import inspect
import re
import shutil
from collections.abc import Collection
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hetcache.benchmark.cells import Case, Cell, Record, Store
from hetcache.benchmark.executor import Bench
from hetcache.benchmark.methods import BASELINE, Method
from hetcache.benchmark.runner import Plan
from hetcache.core.calibration_files import calibration_file
from hetcache.core.facts import facts_of_code
from hetcache.files import digest, to_json
from hetcache.metrics.regions import regions
from hetcache.metrics.registry import ReadyView, measure
from hetcache.modes import MODES
from hetcache.planner.tables import tables_file

Frames = NDArray[np.uint8]
MODEL = "tiny"
FIGURES = ("psnr", "lpips")
REGIONS = ("in_mask", "seam")


def code_of(mode: str) -> str:
    """A digest of the file that a mode's settings stand in, with its folder if that is the method's own."""
    file = Path(inspect.getfile(MODES[mode].config))
    files = sorted(file.parent.glob("*.py")) if file.parent.name == "method" else [file]
    return digest(*(part for each in files for part in (each.name, each)))[:16]


@cache
def digest_of_tables() -> str:
    """Of the embedded model's error tables, which exact plans are made with."""
    return digest(tables_file(calibration_file(MODEL, MODEL)))[:16]


class StudyCell(Cell):
    """A cell that neither the code nor a setting that nobody has set makes another one; an exact plan's is another
    one with other error tables."""

    @property
    def folder(self) -> Path:
        facts = [self.method.name, self.case.digest, self.seed, dict(self.setup)]
        if self.method.exact is not None:
            facts.append(digest_of_tables())
        name = re.sub(r"[^A-Za-z0-9_.=]+", "-", self.method.name)[:60]
        return Path(self.case.name) / f"{name}-seed{self.seed}-{digest(to_json(facts, indent=None))[:10]}"


class StudyPlan(Plan):
    """A plan of such cells."""

    def cell(self, method: Method, case: Case, seed: int) -> StudyCell:
        return StudyCell(method, case, seed, self.setup)

    def only(self, case: Case, seed: int) -> StudyPlan:
        """One clip and seed of it."""
        return replace(self, cases=[case], seeds=[seed])


class StudyBench(Bench):
    """Executor of a study: PSNR and LPIPS in the mask and its seam against the uncached output, and no videos."""

    figures: ReadyView = {}

    def run(self, cell: Cell, num_steps: int) -> tuple[Record, Frames]:
        record, frames = super().run(cell, num_steps)
        mask = self.clip(cell.case).mask_THW
        facts = {"code": facts_of_code(), "mode_code": code_of(cell.method.mode), "pixels": digest(frames.tobytes())}
        return {**record, **facts, "masked": round(float(mask.mean()), 4)}, frames

    def judge(self, cell: Cell, frames: Frames, baseline: Frames | None) -> Record:
        if baseline is None:
            return {}
        areas = {name: area for name, area in regions(self.clip(cell.case).mask_THW).items() if name in REGIONS}
        return {"baseline": measure(frames, baseline, areas, self.figures)}

    def save_video(self, cell: Cell, frames: Frames) -> None:
        return


def check_code(plan: StudyPlan, store: Store, executor: StudyBench, known: Collection[str] = ()) -> dict[str, bool]:
    """{mode: whether the pixels are the same} of every mode, but the `known` ones, with runs of other code."""
    found: dict[str, bool] = {}
    for mode in dict.fromkeys(method.mode for method in plan.methods):
        runs = [] if mode in known else _of_other_code(plan, store, mode)
        for cell, record in runs:
            again, _ = executor.run(cell, cell.method.num_steps or plan.num_steps)
            found[mode] = found.get(mode, True) and again["pixels"] == record["pixels"]
    return found


def _of_other_code(plan: StudyPlan, store: Store, mode: str) -> list[tuple[Cell, Record]]:
    """Of the first clip and seed: one run, all of them where the mode's own code has changed."""
    code = facts_of_code()
    for case in plan.cases:
        for seed in plan.seeds:
            cells: list[Cell] = [plan.cell(method, case, seed) for method in plan.methods if method.mode == mode]
            runs = [(cell, run) for cell in cells if (run := store.run(cell, 0)) is not None and run["code"] != code]
            if runs:
                same_file = all(run["mode_code"] == code_of(mode) for _, run in runs)
                return runs[:1] if same_file or mode == BASELINE else runs
    return []


def forget(plan: StudyPlan, store: Store, mode: str) -> None:
    """Drop every run of a mode."""
    for method in plan.methods:
        if method.mode == mode:
            for case in plan.cases:
                for seed in plan.seeds:
                    shutil.rmtree(store.root / plan.cell(method, case, seed).folder, ignore_errors=True)
