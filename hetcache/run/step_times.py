"""How long each kind of step takes here, on this clip with this model: a few are run and timed before the loop."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from hetcache.core.decisions import decision_words
from hetcache.core.mode import RunContext
from hetcache.core.session import now_ms
from hetcache.core.trace import StepRecord
from hetcache.core.vocabulary import Branch, CacheManager, Compute, Decision, Schedule, Step
from hetcache.method.config import HetCacheConfig
from hetcache.planner.model import Kind
from hetcache.planner.search import Costs, Plan
from hetcache.run.editor import Editor
from hetcache.run.job import Job

REPEATS = 3
"""Steps of each kind that are timed; the median counts, and the first step of all does not."""


@dataclass(frozen=True)
class StepTimes:
    """Seconds of a step of each kind, both branches together; `around_s` is what the first step takes beyond that, and
    `spent_s` what the timing itself took, with encoding the clip."""

    full_s: float
    reuse_s: float
    partial_s: tuple[float, ...]
    around_s: float
    spent_s: float

    @property
    def costs(self) -> Costs:
        """In microseconds."""
        full, reuse, *partial = (round(1e6 * s) for s in (self.full_s, self.reuse_s, *self.partial_s))
        return Costs(full, reuse, tuple(partial))

    def of(self, plan: Plan) -> float:
        """Seconds of the denoising loop under that plan."""
        costs = self.costs
        return self.around_s + sum(costs.of(kind) for kind in plan.kinds) / 1e6

    def facts(self) -> dict[str, Any]:
        return {
            "full_s": round(self.full_s, 5),
            "reuse_s": round(self.reuse_s, 5),
            "partial_s": [round(each, 5) for each in self.partial_s],
            "around_s": round(self.around_s, 5),
            "spent_s": round(self.spent_s, 3),
        }


class _TimedError(Exception):
    """All steps are timed: the rest of the edit is not wanted."""


class Stopwatch:
    """The observer of the timed steps: stops the edit behind the last one."""

    def __init__(self, count: int) -> None:
        self.step_s: list[float] = []
        self._count = count
        self._last_ms = 0.0
        self._has_begun = False

    def start(self) -> None:
        """Counts once: the second branch asks for its manager in the middle of the first step."""
        if not self._has_begun:
            self._has_begun, self._last_ms = True, now_ms()

    def __call__(self, step: Step, records: list[StepRecord]) -> None:
        now = now_ms()
        self.step_s.append((now - self._last_ms) / 1e3)
        self._last_ms = now
        if len(self.step_s) == self._count:
            raise _TimedError


def timed_kinds(num_budgets: int) -> list[Kind]:
    """Full steps, then rounds of all kinds, so that a slow moment hits them alike."""
    each = [Kind(Compute.FULL), *(Kind(Compute.PARTIAL, b) for b in range(num_budgets)), Kind(Compute.REUSE)]
    return [Kind(Compute.FULL), *each * REPEATS]


def time_steps(
    job: Job, editor: Editor, config: HetCacheConfig, context: RunContext, budgets: Sequence[float]
) -> StepTimes:
    """Run a few steps of each kind on the job's clip, and stop there. Raises OutOfMemoryError as an edit does."""
    kinds = timed_kinds(len(budgets))
    ratio = {kind: budgets[kind.budget] if kind.compute is Compute.PARTIAL else None for kind in kinds}
    words = decision_words([Decision(kind.compute, "", context_ratio=ratio[kind]) for kind in kinds])
    settings = replace(job.settings, num_steps=len(kinds))
    chosen = replace(config, decisions=words)
    start_ms = now_ms()

    def timed() -> list[float]:
        watch, managers = Stopwatch(len(kinds)), job.mode.build(chosen, context)

        def make(branch: Branch, schedule: Schedule) -> CacheManager:
            watch.start()
            return managers(branch, schedule)

        with suppress(_TimedError):
            editor.pipeline.edit(job.clip, make, editor.settled(settings), watch)
        return watch.step_s

    return times_from(kinds, editor.within_memory(timed), (now_ms() - start_ms) / 1e3)


def times_from(kinds: Sequence[Kind], step_s: Sequence[float], spent_s: float) -> StepTimes:
    """From every step's kind and seconds."""
    by_kind: dict[Kind, list[float]] = {}
    for kind, seconds in list(zip(kinds, step_s, strict=True))[1:]:
        by_kind.setdefault(kind, []).append(seconds)
    middle = {kind: statistics.median(each) for kind, each in by_kind.items()}
    full = middle[Kind(Compute.FULL)]
    partial = tuple(middle[kind] for kind in sorted(middle, key=lambda k: k.budget) if kind.compute is Compute.PARTIAL)
    return StepTimes(full, middle[Kind(Compute.REUSE)], partial, max(step_s[0] - full, 0.0), spent_s)
