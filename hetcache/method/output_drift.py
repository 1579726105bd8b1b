"""HetCache's content-aware decision (`--signal output`): the three-level rule on EasyCache's estimate of change."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from hetcache.core.drift import LevelAccumulator, LevelRule
from hetcache.core.velocity import VelocityLead
from hetcache.core.vocabulary import Branch, Decision, Hidden, Schedule, Step


class OutputDrift(VelocityLead):
    """One per video and schedule; one host synchronisation per step, and no plan before the run."""

    def __init__(self, rule: LevelRule, schedule: Schedule) -> None:
        super().__init__()
        self._accumulator = LevelAccumulator(rule, schedule.num_steps - len(schedule.skipped))

    def next(self, step: Step, hidden: Hidden) -> Decision:
        """A step whose change cannot be estimated yet, because fewer than two were computed, is full."""
        change = self.move(hidden.latents_BCFHW)
        if change is not None:
            return self._accumulator.next(self.read(change))
        decision = self._accumulator.next(math.inf)
        reason = decision.reason if decision.signal is None else "no rate yet"
        return replace(decision, reason=reason, signal=None, threshold=None)

    def notes(self, branch: Branch) -> dict[str, Any]:
        """The video's count, in both branches."""
        return {"host_syncs": self.host_syncs}
