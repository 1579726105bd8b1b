"""No acceleration: every step of both branches is computed in full, bit for bit as unpatched DiffSynth does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hetcache.core.lead import Decider
from hetcache.core.mode import Mode, RunContext
from hetcache.core.vocabulary import Branch, CacheManager, Compute, Decision, Hidden, Schedule, Step


@dataclass(frozen=True)
class BaselineConfig:
    """`--mode baseline` has no settings; fewer `--steps` is the plain way to make it faster."""


def plan(schedule: Schedule, config: BaselineConfig, context: RunContext, branch: Branch) -> list[Decision]:
    return [Decision(Compute.FULL, "no cache")] * schedule.num_steps


class Uncached(CacheManager):
    """Keeps nothing, so its decider must never reuse a step."""

    def __init__(self, decider: Decider, branch: Branch) -> None:
        self._decider = decider
        self._branch = branch

    def decide(self, step: Step, hidden: Hidden) -> Decision:
        return self._decider.decide(self._branch, step, hidden)


def cache(config: Any, context: RunContext) -> type[Uncached]:
    return Uncached


MODE = Mode("baseline", "no acceleration", "", BaselineConfig, plan, cache=cache)
