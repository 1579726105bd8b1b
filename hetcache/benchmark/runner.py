"""The order in which cells run, what is skipped, and what happens when one fails. Knows nothing of the model.

Repeats are rounds: every method runs once a round, in order in even rounds and in reverse in odd ones, so that a
machine that slows down slows all of them alike. Ratios need a baseline of the same process: a process that takes up
an interrupted benchmark repeats no cell but first times a few steps of the uncached model.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hetcache.benchmark.cells import Case, Cell, Record, Store
from hetcache.benchmark.methods import BASELINE, Method, match_steps

Frames = NDArray[np.uint8]
REFERENCE_STEPS = 5


class Executor(Protocol):
    """Runs cells on a loaded model."""

    def warm_up(self, case: Case) -> None: ...

    def run(self, cell: Cell, num_steps: int) -> tuple[Record, Frames]:
        """The run's record and its raw output [T, H, W, 3]."""
        ...

    def judge(self, cell: Cell, frames: Frames, baseline: Frames | None) -> Record:
        """Quality against the uncached output (None where it failed) and against the source."""
        ...

    def save_video(self, cell: Cell, frames: Frames) -> None: ...


@dataclass(frozen=True)
class Plan:
    """Everything that is to be run. `setup` is what all cells share, `num_steps` its number of steps."""

    methods: list[Method]
    cases: list[Case]
    seeds: list[int]
    num_repeats: int
    num_steps: int
    setup: Mapping[str, Any]

    def cell(self, method: Method, case: Case, seed: int) -> Cell:
        return Cell(method, case, seed, self.setup)

    def settled(self, method: Method, case: Case, seed: int, store: Store) -> Cell:
        """The method's cell, with its number of steps where that is known."""
        return self.cell(self.resolve(method, case, seed, store) or method, case, seed)

    def resolve(self, method: Method, case: Case, seed: int, store: Store) -> Method | None:
        """The method with its number of steps, None while the method that decides it has no finished run."""
        if method.matches is None:
            return method
        target = next(other for other in self.methods if other.name == method.matches)
        record = store.run(self.cell(target, case, seed), 0)
        if record is None:
            return None
        ratio = self.uncached_flops(case, seed, store, record) / record["flops"]["run"]
        return match_steps(method, self.num_steps, ratio)

    def uncached_flops(self, case: Case, seed: int, store: Store, record: Record) -> float:
        """FLOPs of the baseline's run; if it failed, what the method's `record` counted for one."""
        baseline = store.run(self.cell(Method(BASELINE, BASELINE), case, seed), 0)
        if baseline is not None:
            return float(baseline["flops"]["run"])
        return float(record["flops"]["uncached"]) * self.num_steps / int(record["config"]["num_steps"])

    def groups(self) -> Iterator[tuple[int, Case, int]]:
        """(repeat, video, seed): what runs together, the baseline and all methods."""
        for repeat in range(self.num_repeats):
            for case in self.cases:
                for seed in self.seeds:
                    yield repeat, case, seed


@dataclass(frozen=True)
class Event:
    """What the command shows: `kind` is run, done, skip, fail, warm-up or reference."""

    kind: str
    cell: Cell | None = None
    repeat: int = 0
    record: Mapping[str, Any] | None = None


Observe = Callable[[Event], None]


def run_plan(plan: Plan, store: Store, executor: Executor, process: str, observe: Observe) -> None:
    """Run what the store does not hold yet. `process` names this process in the records."""
    state = _Process(plan, store, executor, process, observe)
    for repeat, case, seed in plan.groups():
        names = plan.methods if repeat % 2 == 0 else plan.methods[::-1]
        for method in names:
            resolved = plan.resolve(method, case, seed, store)
            if resolved is None:
                # In reverse order, and after a failure of the method that decides the steps.
                state.cannot(plan.cell(method, case, seed), repeat)
            else:
                state.visit(plan.cell(resolved, case, seed), repeat)


@dataclass
class _Process:
    """One process at work on the plan."""

    plan: Plan
    store: Store
    executor: Executor
    process: str
    observe: Observe
    warm: bool = False

    def visit(self, cell: Cell, repeat: int) -> None:
        if self.store.run(cell, repeat) is not None:
            self.observe(Event("skip", cell, repeat))
            return
        if repeat and self.store.run(cell, 0) is None:
            # Its first run failed in this process: the others would, too.
            self.observe(Event("fail", cell, repeat, self.store.failure(cell)))
            return
        try:
            self._prepare(cell)
            self.observe(Event("run", cell, repeat))
            record = self._run(cell, repeat)
        except Exception as error:  # a method that fails must not cost the others their figures
            self.fail(cell, repeat, error)
        else:
            self.observe(Event("done", cell, repeat, record))

    def cannot(self, cell: Cell, repeat: int) -> None:
        self.fail(cell, repeat, ValueError(f"{cell.method.matches}, whose FLOPs decide the steps, has no run"))

    def fail(self, cell: Cell, repeat: int, error: Exception) -> None:
        message = " ".join(str(error).split()) or type(error).__name__
        record = {
            "failed": message,
            "type": type(error).__name__,
            "process": self.process,
            "repeat": repeat,
            "traceback": "".join(traceback.format_exception(error)),
        }
        self.store.keep_failure(cell, record)
        self.observe(Event("fail", cell, repeat, record))

    def _prepare(self, cell: Cell) -> None:
        """Warm up once a process; time the baseline where this process will have no run of it in time."""
        if not self.warm:
            self.observe(Event("warm-up"))
            self.executor.warm_up(cell.case)
            self.warm = True
        if cell.method.name == BASELINE or self._has_baseline(cell):
            return
        baseline = self.plan.cell(Method(BASELINE, BASELINE), cell.case, cell.seed)
        self.observe(Event("reference", baseline))
        num_steps = min(REFERENCE_STEPS, self.plan.num_steps)
        record, _ = self.executor.run(baseline, num_steps)
        record["timing_s"]["denoise"] *= self.plan.num_steps / num_steps
        self.store.keep_reference(cell.case, self.process, {**record, "process": self.process})

    def _has_baseline(self, cell: Cell) -> bool:
        """Is there, or will there be in this process, a time of the baseline on this video?"""
        if any(record["process"] == self.process for record in self.store.references(cell.case)):
            return True
        method = Method(BASELINE, BASELINE)
        for seed in self.plan.seeds:
            baseline = self.plan.cell(method, cell.case, seed)
            for repeat in range(self.plan.num_repeats):
                record = self.store.run(baseline, repeat)
                # None: it comes in this process, or it has failed and there is nothing to take ratios against.
                if record is None or record["process"] == self.process:
                    return True
        return False

    def _run(self, cell: Cell, repeat: int) -> Record:
        num_steps = cell.method.num_steps or self.plan.num_steps
        record, frames = self.executor.run(cell, num_steps)
        record |= {"process": self.process, "repeat": repeat, "case": cell.case.name, "method": cell.method.name}
        if repeat == 0:
            is_baseline = cell.method.name == BASELINE
            if is_baseline:
                self.store.keep_frames(cell, frames)
            baseline = None if is_baseline else self._baseline_frames(cell)
            self.executor.save_video(cell, frames)
            record["quality"] = self.executor.judge(cell, frames, baseline)
        self.store.keep_run(cell, repeat, record)
        return record

    def _baseline_frames(self, cell: Cell) -> Frames | None:
        baseline = self.plan.cell(Method(BASELINE, BASELINE), cell.case, cell.seed)
        finished = self.store.run(baseline, 0) is not None
        return self.store.frames(baseline) if finished else None
