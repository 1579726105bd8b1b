"""A study as it was asked for: its clips, its plan for each length, and the loop over clips and seeds."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from hetcache.benchmark.cases import find_cases, one_case
from hetcache.benchmark.cells import Case, Cell, Store
from hetcache.benchmark.executor import BenchSettings, LazyPipeline
from hetcache.benchmark.methods import BASELINE, Method
from hetcache.benchmark.runner import Event, run_plan
from hetcache.core.facts import facts_of_code, facts_of_weights, hardware, package_versions
from hetcache.core.options import EditSettings
from hetcache.files import DATA, write_json
from hetcache.metrics.metric import Choices
from hetcache.metrics.registry import load
from hetcache.models import model_info
from hetcache.models.backend import LoadOptions, Pipeline, backend
from scripts.study.cells import FIGURES, MODEL, StudyBench, StudyPlan, check_code, forget
from scripts.study.clips import SCENES, write_clips
from scripts.study.pace import Pace
from scripts.study.sweeps import Sweep

SET_BY_HAND = ("prompt", "negative_prompt", "num_steps", "cfg_scale", "sigma_shift")
"""What makes a study another one; all other settings of an edit are the defaults."""


@dataclass(frozen=True)
class Asked:
    """`folders` are (videos, masks) of one's own; `clips` names those that are studied, all if it is empty."""

    output: Path
    sweeps: tuple[Sweep, ...]
    folders: tuple[Path, Path] | None = None
    clips: tuple[str, ...] = ()
    lengths: tuple[int, ...] = (33, 9, 17)
    seeds: tuple[int, ...] = (0, 1)
    size: tuple[int, int] = (112, 192)
    num_steps: int = 50


@dataclass
class Study:
    """`plan` and `store` are those of one length. Raises ValueError for clips that are not there."""

    asked: Asked
    pace: Pace = field(init=False)

    def __post_init__(self) -> None:
        self.pace = Pace(self.asked.num_steps)

    @cached_property
    def cases(self) -> list[Case]:
        """The generated clips, the example, then one's own."""
        folder = self.asked.output / "clips"
        write_clips(folder)
        found = [*find_cases(folder, folder), one_case(DATA / "real.mp4", DATA / "masks.mp4")]
        if self.asked.folders is not None:
            found += find_cases(*self.asked.folders)
        names = [case.name for case in found]
        for name in self.asked.clips:
            if name not in names:
                raise ValueError(f"--clips {name}: not found, choose from {', '.join(names)}")
        return [case for case in found if not self.asked.clips or case.name in self.asked.clips]

    def origin(self, case: Case) -> str:
        return "generated" if case.name in SCENES else "example" if case.video.parent == DATA else "own"

    @cached_property
    def edit(self) -> EditSettings:
        return model_info(MODEL).complete(EditSettings(num_steps=self.asked.num_steps))

    @cached_property
    def methods(self) -> list[Method]:
        """The uncached model, then every curve's points."""
        return [Method(BASELINE, BASELINE), *(method for sweep in self.asked.sweeps for method in sweep.methods())]

    def plan(self, frames: int) -> StudyPlan:
        setup = {
            "model": facts_of_weights(MODEL),
            "device": "cpu",
            "frames": frames,
            "size": list(self.asked.size),
            **{name: getattr(self.edit, name) for name in SET_BY_HAND},
            "versions": {name: package_versions()[name] for name in ("torch", "diffsynth")},
        }
        return StudyPlan(self.methods, self.cases, list(self.asked.seeds), 1, self.asked.num_steps, setup)

    def store(self, frames: int) -> Store:
        return Store(self.asked.output / f"{frames}-frames")

    @cached_property
    def _pipeline(self) -> LazyPipeline:
        def load_it() -> Pipeline:
            return backend(model_info(MODEL).backend).load(MODEL, LoadOptions("cpu", torch.float32, self.edit.prompts))

        return LazyPipeline(load_it)

    def executor(self, frames: int) -> StudyBench:
        """Raises ValueError where LPIPS has no weights: half of what is asked would be missing."""
        settings = BenchSettings(self.edit, frames, self.asked.size, None, MODEL)
        bench = StudyBench(self._pipeline, model_info(MODEL), settings, self.store(frames), quiet)
        bench.figures, missing = load(FIGURES, Choices("cpu"))
        if missing:
            raise ValueError("; ".join(missing.values()))
        return bench

    def blocks(self) -> Iterator[tuple[int, int, Case]]:
        """(frames, seed, clip) in the order in which they run: whole sets of clips, one after the other."""
        for frames in self.asked.lengths:
            for seed in self.asked.seeds:
                for case in self.cases:
                    yield frames, seed, case

    def missing(self) -> list[tuple[Cell, int]]:
        """The cells without a run. What has run tells the pace."""
        found: list[tuple[Cell, int]] = []
        for frames, seed, case in self.blocks():
            plan, store = self.plan(frames), self.store(frames)
            for method in self.methods:
                cell = plan.cell(method, case, seed)
                record = store.run(cell, 0)
                if record is None:
                    found.append((cell, frames))
                else:
                    self.pace.saw(cell, frames, record["timing_s"]["total"])
        return found

    def run(self, minutes: float) -> int:
        """Run what is missing, and begin no block of a clip and seed after `minutes`. Returns how many runs failed."""
        self._check_code()
        left, stop, process, failed = self.missing(), time.monotonic() + 60 * minutes, uuid.uuid4().hex[:8], 0
        if left and not self.pace.expected(left):
            self._first_look(*left[0])
        say(f"{len(left)} runs are missing; {self._time(left)}")
        for frames, seed, case in self.blocks():
            plan, store = self.plan(frames), self.store(frames)
            mine = [each for each in left if each[1] == frames and (each[0].case, each[0].seed) == (case, seed)]
            if not mine or time.monotonic() > stop:
                continue
            executor = self.executor(frames)

            def observe(event: Event, frames: int = frames) -> None:
                nonlocal failed
                failed += event.kind == "fail"
                if event.kind == "done" and event.cell is not None and event.record is not None:
                    self.pace.saw(event.cell, frames, event.record["timing_s"]["total"])
                if event.kind == "fail" and event.cell is not None and event.record is not None:
                    say(f"FAILED {event.cell.method.name} on {event.cell.case.name}: {event.record['failed']}")

            run_plan(plan.only(case, seed), store, executor, process, observe)
            left = [each for each in left if each not in mine]
            say(f"{frames} frames, seed {seed}, {case.name}: {len(mine)} runs; {len(left)} left, {self._time(left)}")
        return failed

    def _check_code(self) -> None:
        """Raises ValueError where the uncached model gives other pixels than before."""
        marker = self.asked.output / "checked" / f"{facts_of_code()}.json"
        if marker.is_file():
            return
        same: dict[str, bool] = {}
        for frames in sorted(self.asked.lengths):
            same |= check_code(self.plan(frames), self.store(frames), self.executor(frames), same)
        if not same.get(BASELINE, True):
            raise ValueError(f"--output {self.asked.output}: the uncached model gives other pixels now; use another")
        for mode in [mode for mode, is_same in same.items() if not is_same]:
            for frames in self.asked.lengths:
                forget(self.plan(frames), self.store(frames), mode)
        if same:
            told = ", ".join(
                f"{mode} {'the same' if is_same else 'others: run again'}" for mode, is_same in same.items()
            )
            say(f"the code has changed; pixels: {told}")
        marker.parent.mkdir(parents=True, exist_ok=True)
        write_json(marker, same)

    def _first_look(self, cell: Cell, frames: int) -> None:
        """A few steps of the uncached model, so that the first estimate is one."""
        baseline, steps = self.plan(frames).cell(self.methods[0], cell.case, cell.seed), 3
        record, _ = self.executor(frames).run(baseline, steps)
        self.pace.saw(baseline, frames, record["timing_s"]["total"] * self.asked.num_steps / steps)

    def _time(self, left: list[tuple[Cell, int]]) -> str:
        seconds = self.pace.expected(left)
        return f"about {seconds / 60:.0f} minutes at the pace so far" if seconds else "no run has told the pace yet"

    def facts(self) -> dict[str, Any]:
        """What a reader has to know of all runs."""
        return {
            "model": model_info(MODEL).model_id,
            "size": list(self.asked.size),
            "steps": self.asked.num_steps,
            "settings": asdict(self.edit),
            "hardware": hardware("cpu"),
            "versions": package_versions(),
        }


def quiet(num_steps: int, label: str) -> AbstractContextManager[None]:
    """No progress bar: a study's log has a line for each clip."""
    return nullcontext()


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)
