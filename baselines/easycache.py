"""EasyCache (arXiv 2507.02860): err += k * mean|x_t - x_t-1| / mean|v|; reuse iff err < tau; then v = x_t + (v - x).

x is the raw latent, v the raw model output, k = mean|dv| / mean|dx| between the last two computed steps. Nothing is
calibrated: the rate comes from the run itself, so the plan is not known before it. The branch that runs first, the
conditional one, decides for both. One host synchronisation per step after the first ones, counted in the record.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from hetcache.core.settings import setting
from hetcache.core.store import FeatureStore
from hetcache.core.velocity import SharedDecision, VelocityRate
from hetcache.core.vocabulary import Branch, CacheManager, Compute, Decision, Hidden, Step

OFFSET = ("output", 0, "offset")


@dataclass(frozen=True)
class EasyCacheConfig:
    """Settings of `--mode easycache`; each field is the CLI flag of the same name."""

    easycache_thresh: float = setting(0.05, "tau: reuse iff the accumulated error is below it; higher skips more")
    easycache_first: int = setting(10, "steps from the first that are always computed")

    def __post_init__(self) -> None:
        if self.easycache_thresh < 0:
            raise ValueError(f"--easycache-thresh must not be negative, not {self.easycache_thresh}")
        if self.easycache_first < 1:
            raise ValueError(f"--easycache-first must be at least 1, not {self.easycache_first}")


class EasyCacheRule:
    """The rule's state for one video: the leading branch asks it, the other reads `decisions`."""

    def __init__(self) -> None:
        self.rate = VelocityRate()
        self.decisions = SharedDecision()
        self._error = 0.0

    def next(self, step: Step, config: EasyCacheConfig, latents: torch.Tensor) -> Decision:
        change = self.rate.move(latents)
        if step.index < config.easycache_first or step.is_last or change is None:
            self._error = 0.0
            return Decision(Compute.FULL, "last step" if step.is_last else "first steps")
        self._error += self.rate.read(change)
        if self._error < config.easycache_thresh:
            return Decision(Compute.REUSE, "err < tau", self._error, config.easycache_thresh)
        decision = Decision(Compute.FULL, "err >= tau", self._error, config.easycache_thresh)
        self._error = 0.0
        return decision


class EasyCacheManager(CacheManager):
    """One CFG branch: its own offset v - x, the leading branch's decisions."""

    reuse_level = "velocity"

    def __init__(self, config: EasyCacheConfig, rule: EasyCacheRule, branch: Branch) -> None:
        self._config = config
        self._rule = rule
        self._branch = branch
        self.store = FeatureStore()

    def decide(self, step: Step, hidden: Hidden) -> Decision:
        rule = self._rule
        if rule.decisions.leads(self._branch):
            rule.decisions.set(step.index, rule.next(step, self._config, hidden.latents_BCFHW))
        return rule.decisions.get(step.index)

    def reuse(self, hidden: Hidden) -> torch.Tensor:
        return hidden.latents_BCFHW + self.store.get(*OFFSET)

    def commit(
        self, step: Step, decision: Decision, hidden: Hidden, x_out_BND: torch.Tensor, velocity: torch.Tensor
    ) -> None:
        latents = hidden.latents_BCFHW
        self.store.put(*OFFSET, velocity - latents)
        if self._rule.decisions.leads(self._branch):
            self._rule.rate.observe(latents, velocity)

    def release(self) -> None:
        self.store.clear()
        self._rule.rate.release()

    @property
    def cache_bytes(self) -> int:
        shared = self._rule.rate.nbytes if self._rule.decisions.leads(self._branch) else 0
        return self.store.peak_nbytes + shared

    def notes(self) -> dict[str, Any]:
        if not self._rule.decisions.leads(self._branch):
            return {"decides": "follows the other branch"}
        return {"host_syncs": self._rule.rate.host_syncs}
