"""CacheSession: everything that one video's run keeps, born before the loop and dropped after it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch

from hetcache.core.mode import ManagerFactory
from hetcache.core.ranks import ALONE, Ranks
from hetcache.core.trace import StepRecord, Trace
from hetcache.core.vocabulary import Branch, CacheManager, Compute, Schedule, Step
from hetcache.files import UserError

Observer = Callable[[Step, list[StepRecord]], None]


class CacheBudgetError(UserError):
    """A mode that cannot do with less memory has passed its budget."""


class CacheSession:
    """State of one video under one mode: a manager per CFG branch, the step cursor, the trace, the timings.

    `make_manager(branch, schedule)` is called once per branch that really runs. A pipeline whose loop takes an
    iterator is given `session.steps` (DiffSynth's `progress_bar_cmd`): the loop itself then says which step
    runs. Where a scheduler drives the loop, the adapter calls `begin` once and `advance` before every step and after
    the last. `observer(step, records)` is called after every step. `budget_gib` bounds what the branches keep together.
    `make_stage` makes the managers of each further stage, for pipelines that change their model in mid-loop (two
    experts). `ranks` are the processes that compute this video together. `wait`, if given, is called before the first
    step and after every one and returns when the next may begin; the run's times leave it out. A session serves one
    run; a second one raises RuntimeError.
    """

    def __init__(
        self,
        make_manager: ManagerFactory,
        observer: Observer | None = None,
        budget_gib: float | None = None,
        make_stage: Callable[[], ManagerFactory] | None = None,
        ranks: Ranks = ALONE,
        wait: Callable[[], None] | None = None,
    ) -> None:
        self._make_manager = make_manager
        self._later: list[ManagerFactory] = []
        self._observer = observer
        self._budget_gib = budget_gib
        self._make_stage = make_stage
        self.ranks = ranks
        self._wait = wait
        self._managers: dict[tuple[int, Branch], CacheManager] = {}
        self._stage = 0
        self._start_ms = 0.0
        self._seen = 0
        self.measure_schedule: Callable[[torch.Tensor], Schedule] | None = None
        self.schedules: tuple[Schedule, ...] = ()
        self.step: Step | None = None
        self.trace = Trace()
        self.stage_ms: dict[str, float] = {}
        self.facts: dict[str, Any] = {}
        self.loop_end_ms = 0.0
        self.cache_bytes_elsewhere = 0

    @property
    def schedule(self) -> Schedule | None:
        """Of the stage that runs, or ran last; None before the loop."""
        return self.schedules[min(self._stage, len(self.schedules) - 1)] if self.schedules else None

    @property
    def stage(self) -> int:
        """Which of the `schedules` is running."""
        return self._stage

    @property
    def position(self) -> int:
        """The current step's index in the whole run."""
        assert self.step is not None, "no step is under way"
        return sum(schedule.num_steps for schedule in self.schedules[: self._stage]) + self.step.index

    def manager(self, branch: Branch, reference_frames: int = 0) -> CacheManager:
        """The branch's manager in this stage, made at its first call for the stage's schedule, behind as many latent
        frames of reference images."""
        key = self._stage, branch
        if key not in self._managers:
            assert self.schedules, "a manager is asked for inside the denoising loop only"
            make = self._later[self._stage - 1] if self._stage else self._make_manager
            schedule = replace(self.schedules[self._stage], reference_frames=reference_frames)
            self._managers[key] = make(branch, schedule)
        return self._managers[key]

    def begin(self, *schedules: Schedule) -> None:
        """Start the loop's clock. One schedule per stage: each has managers of its own, for whom the stage's first step
        is the first, so that nothing is reused across models. Raises RuntimeError for a session that has run."""
        if self.schedules:
            raise RuntimeError("this CacheSession has already run a video; make a new one")
        if len(schedules) > 1 and self._make_stage is None:
            raise ValueError("several stages share no managers: give the session make_stage")
        for _ in schedules[1:]:
            assert self._make_stage is not None
            # What branches share, such as sampled tokens, is not shared between stages: a factory each.
            self._later.append(self._make_stage())
        self.schedules = schedules
        self._start_ms = now_ms()

    def measured(self, schedule: Schedule) -> None:
        """The current stage's schedule with its static signals, where they can be measured only now that its model is
        at hand. Comes before the stage's managers are made."""
        assert not any(stage == self._stage for stage, _ in self._managers), "the stage's managers know its schedule"
        assert schedule.timesteps == self.schedules[self._stage].timesteps
        self.schedules = (*self.schedules[: self._stage], schedule, *self.schedules[self._stage + 1 :])

    def advance(self) -> bool:
        """Move the cursor to the next step, after telling the observer of the last; False behind the last step of the
        last stage, where the loop's time is taken."""
        assert self._stage < len(self.schedules), "advance() comes after begin() and before the run's end"
        if self.step is not None and self._observer is not None:
            self._observer(self.step, self.trace.records[self._seen :])
        if self._wait is not None:
            before_ms = now_ms()
            self._wait()
            self._start_ms += now_ms() - before_ms
        self._seen = len(self.trace.records)
        index = 0 if self.step is None else self.step.index + 1
        while self._stage < len(self.schedules) and index == self.schedules[self._stage].num_steps:
            index, self._stage = 0, self._stage + 1
            for manager in self._managers.values():
                manager.release()
        if self._stage == len(self.schedules):
            self.step = None
            self.loop_end_ms = now_ms()
            self.stage_ms["denoise"] = self.loop_end_ms - self._start_ms
            return False
        values = self.schedules[self._stage].timesteps
        self.step = Step(index, len(values), values[index])
        return True

    def steps(self, timesteps: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield the scheduler's timesteps one by one, moving the cursor; the denoising time is measured around
        the whole loop, with one synchronisation at each end on CUDA."""
        if self.measure_schedule is None:
            raise RuntimeError("use the session inside enable_cache(...) or an adapter's patched(pipe, session)")
        start = now_ms()
        self.begin(self.measure_schedule(timesteps))
        self._start_ms = start
        for timestep in timesteps:
            self.advance()
            yield timestep
        self.advance()

    @property
    def cache_bytes(self) -> int:
        """Peak of what the branches' stores held, summed; of several stages the largest; after the loop with what other
        processes kept (`cache_bytes_elsewhere`)."""
        by_stage: Counter[int] = Counter()
        for (stage, _), manager in self._managers.items():
            by_stage[stage] += manager.cache_bytes
        return max(by_stage.values(), default=0) + self.cache_bytes_elsewhere

    def check_budget(self) -> None:
        """Raises CacheBudgetError when the branches keep more than they may."""
        if self._budget_gib is None:
            return
        used_gib = self.cache_bytes / 2**30
        if used_gib > self._budget_gib:
            raise CacheBudgetError(
                f"the cache has grown to {used_gib:.4g} GiB, over --cache-budget-gib {self._budget_gib:g}: give it "
                "more, or use --mode hetcache, which makes do with less"
            )

    def notes(self) -> dict[str, Any]:
        """Facts about the run for its record: the forward's own and, under their name, each branch's."""
        names = {key: key[1].value + (f" {key[0] + 1}" if key[0] else "") for key in self._managers}
        branches = {names[key]: manager.notes() for key, manager in self._managers.items()}
        return {**self.facts, **{name: notes for name, notes in branches.items() if notes}}

    def reused_blocks(self) -> int:
        """Blocks run on REUSE steps: zero, or the mode's record says why."""
        return sum(
            record.dit_blocks + record.vace_blocks for record in self.trace.records if record.compute is Compute.REUSE
        )

    def release(self) -> None:
        """Drop every cached tensor; the trace and the timings stay."""
        self.measure_schedule = None
        for manager in self._managers.values():
            manager.release()


def now_ms() -> float:
    """Wall clock in milliseconds, after everything queued on the GPU has finished."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() * 1e3
