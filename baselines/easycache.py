"""EasyCache (arXiv 2507.02860): err += k * mean|x_t - x_t-1| / mean|v|; reuse iff err < tau; then v = x_t + (v - x).

x is the raw latent, v the raw model output, k = mean|dv| / mean|dx| between the last two computed steps. Nothing is
calibrated: the rate comes from the run itself, so the plan is not known before it. The branch that runs first, the
conditional one, decides for both. One host synchronisation per step after the first ones, counted in the record.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from hetcache.core.mode import MakeManager, Mode, RunContext
from hetcache.core.residual import StackResidual
from hetcache.core.settings import check_settings, setting
from hetcache.core.velocity import VelocityLead
from hetcache.core.vocabulary import Compute, Decision, Hidden, Schedule, Step

PUBLISHED_THRESH = (0.05, 0.2)
PUBLISHED_FIRST = 10


@dataclass(frozen=True)
class EasyCacheConfig:
    """Settings of `--mode easycache`; each field is the CLI flag of the same name."""

    easycache_thresh: float = setting(0.05, "tau: reuse iff the accumulated error is below it; higher skips more")
    easycache_first: int = setting(10, "steps from the first that are always computed")

    def __post_init__(self) -> None:
        check_settings(self)
        if self.easycache_thresh < 0:
            raise ValueError(f"--easycache-thresh must not be negative, not {self.easycache_thresh}")
        if self.easycache_first < 1:
            raise ValueError(f"--easycache-first must be at least 1, not {self.easycache_first}")


class EasyCacheRule(VelocityLead):
    """The rule's state for one video."""

    def __init__(self, config: EasyCacheConfig) -> None:
        super().__init__()
        self._config = config
        self._error = 0.0

    def next(self, step: Step, hidden: Hidden) -> Decision:
        config, change = self._config, self.move(hidden.latents_BCFHW)
        if step.index < config.easycache_first or step.is_last or change is None:
            self._error = 0.0
            return Decision(Compute.FULL, "last step" if step.is_last else "first steps")
        self._error += self.read(change)
        if self._error < config.easycache_thresh:
            return Decision(Compute.REUSE, "err < tau", self._error, config.easycache_thresh)
        decision = Decision(Compute.FULL, "err >= tau", self._error, config.easycache_thresh)
        self._error = 0.0
        return decision


def lead(schedule: Schedule, config: EasyCacheConfig, context: RunContext) -> EasyCacheRule:
    return EasyCacheRule(config)


def cache(config: EasyCacheConfig, context: RunContext) -> MakeManager:
    return partial(StackResidual, level="velocity")


def outside(config: EasyCacheConfig) -> str:
    found = []
    if config.easycache_first < PUBLISHED_FIRST:
        found.append(f"first {config.easycache_first} < {PUBLISHED_FIRST}")
    if config.easycache_thresh > PUBLISHED_THRESH[1]:
        found.append(f"tau {config.easycache_thresh:g} > {PUBLISHED_THRESH[1]:g}")
    return ", ".join(found)


MODE = Mode(
    "easycache",
    "reuse of steps by the output's measured rate of change",
    "arXiv 2507.02860",
    EasyCacheConfig,
    lead=lead,
    cache=cache,
    outside=outside,
)
