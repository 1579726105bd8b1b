"""HetCache's content-aware decision (`--signal output`): the three-level rule on EasyCache's estimate of change."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from hetcache.core.drift import LevelAccumulator, LevelRule
from hetcache.core.velocity import SharedDecision, VelocityRate
from hetcache.core.vocabulary import Branch, Decision, Schedule, Step


class OutputDrift:
    """One per video: the branch that runs first measures and decides, the other follows. One host synchronisation
    per step, counted in `rate.host_syncs`; the plan is not known before the run."""

    def __init__(self, rule: LevelRule) -> None:
        self._rule = rule
        self._accumulator: LevelAccumulator | None = None
        self.rate = VelocityRate()
        self.decisions = SharedDecision()

    def begin(self, schedule: Schedule) -> None:
        if self._accumulator is None:
            self._accumulator = LevelAccumulator(self._rule, schedule.num_steps - len(schedule.skipped))

    def decide(self, branch: Branch, step: Step, latents: torch.Tensor) -> Decision:
        """A step whose change cannot be estimated yet, because fewer than two were computed, is full."""
        assert self._accumulator is not None
        if self.decisions.leads(branch):
            change = self.rate.move(latents)
            if change is None:
                decision = self._accumulator.next(math.inf)
                reason = decision.reason if decision.signal is None else "no rate yet"
                decision = replace(decision, reason=reason, signal=None, threshold=None)
            else:
                decision = self._accumulator.next(self.rate.read(change))
            self.decisions.set(step.index, decision)
        return self.decisions.get(step.index)

    def observe(self, branch: Branch, latents: torch.Tensor, velocity: torch.Tensor) -> None:
        if self.decisions.leads(branch):
            self.rate.observe(latents, velocity)
