"""CacheSession: everything that one video's run keeps, born before the loop and dropped after it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from hetcache.core.trace import StepRecord, Trace
from hetcache.core.vocabulary import Branch, CacheManager, Compute, Schedule, Step
from hetcache.files import UserError

Observer = Callable[[Step, list[StepRecord]], None]


class CacheBudgetError(UserError):
    """A mode that cannot do with less memory has passed its budget."""


class CacheSession:
    """State of one video under one mode: a manager per CFG branch, the step cursor, the trace, the timings.

    `make_manager(branch, schedule)` is called once per branch that really runs. Pass `session.steps` to the pipeline as
    `progress_bar_cmd`: the loop itself then says which step runs. `observer(step, records)` is called after
    every step. `budget_gib` bounds what the branches keep together. A session serves one run; a second one raises
    RuntimeError.
    """

    def __init__(
        self,
        make_manager: Callable[[Branch, Schedule], CacheManager],
        observer: Observer | None = None,
        budget_gib: float | None = None,
    ) -> None:
        self._make_manager = make_manager
        self._observer = observer
        self._budget_gib = budget_gib
        self._managers: dict[Branch, CacheManager] = {}
        self.measure_schedule: Callable[[torch.Tensor], Schedule] | None = None
        self.schedule: Schedule | None = None
        self.step: Step | None = None
        self.trace = Trace()
        self.stage_ms: dict[str, float] = {}
        self.facts: dict[str, Any] = {}
        self.loop_end_ms = 0.0

    def manager(self, branch: Branch) -> CacheManager:
        """The branch's manager, made at its first call for this run's schedule."""
        if branch not in self._managers:
            assert self.schedule is not None, "a manager is asked for inside the denoising loop only"
            self._managers[branch] = self._make_manager(branch, self.schedule)
        return self._managers[branch]

    def steps(self, timesteps: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield the scheduler's timesteps one by one, moving the cursor; the denoising time is measured around
        the whole loop, with one synchronisation at each end on CUDA."""
        if self.schedule is not None:
            raise RuntimeError("this CacheSession has already run a video; make a new one")
        if self.measure_schedule is None:
            raise RuntimeError("use the session inside diffsynth_patches.patched(pipe, session)")
        start = now_ms()
        self.schedule = self.measure_schedule(timesteps)
        values = self.schedule.timesteps
        for index, timestep in enumerate(timesteps):
            self.step = Step(index, len(values), values[index])
            before = len(self.trace.records)
            yield timestep
            if self._observer is not None:
                self._observer(self.step, self.trace.records[before:])
        self.step = None
        self.loop_end_ms = now_ms()
        self.stage_ms["denoise"] = self.loop_end_ms - start

    @property
    def cache_bytes(self) -> int:
        """Peak of what the branches' stores held, summed."""
        return sum(manager.cache_bytes for manager in self._managers.values())

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
        branches = {branch.value: manager.notes() for branch, manager in self._managers.items()}
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
