"""MagCache (arXiv 2506.09045): ratio *= gamma_t; err += |1 - ratio|; n += 1; reuse iff err < E and n <= K.

gamma_t is the ratio of the stack residual's norm to that of the step before, measured once per model and branch,
so the plan is static. The first R of the steps are always computed; a computed step resets ratio, err and n.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hetcache.core.mode import Dial, Mode, RunContext
from hetcache.core.settings import check_settings, setting
from hetcache.core.vocabulary import Branch, Compute, Decision, Schedule


@dataclass(frozen=True)
class MagCacheConfig:
    """Settings of `--mode magcache`; the defaults are those published for VACE-1.3B."""

    magcache_thresh: float = setting(
        0.02, "E: reuse iff the accumulated magnitude error is below it; higher skips more"
    )
    magcache_max_skips: int = setting(3, "K: at most so many reused steps in a row")
    magcache_retention: float = setting(0.2, "R: fraction of the steps, from the first, that is always computed")

    def __post_init__(self) -> None:
        check_settings(self)
        if self.magcache_thresh < 0:
            raise ValueError(f"--magcache-thresh must not be negative, not {self.magcache_thresh}")
        if self.magcache_max_skips < 0:
            raise ValueError(f"--magcache-max-skips must not be negative, not {self.magcache_max_skips}")
        if not 0.0 <= self.magcache_retention <= 1.0:
            raise ValueError(f"--magcache-retention must be between 0 and 1, not {self.magcache_retention}")


def interpolate_ratios(ratios: Sequence[float], num_steps: int) -> list[float]:
    """The ratios of a run with another number of steps: the nearest calibrated index, first to first, last to last."""
    if num_steps == 1:
        return [ratios[-1]]
    scale = (len(ratios) - 1) / (num_steps - 1)
    return [ratios[round(index * scale)] for index in range(num_steps)]


def plan_magcache(schedule: Schedule, config: MagCacheConfig, ratios: Sequence[float]) -> list[Decision]:
    """The decision of every step of one branch, before the run. The first step is always computed."""
    retained = max(math.ceil(schedule.num_steps * config.magcache_retention), 1)
    decisions: list[Decision] = []
    ratio, error, num_skips = 1.0, 0.0, 0
    for index, gamma in enumerate(interpolate_ratios(ratios, schedule.num_steps)):
        if index < retained:
            decisions.append(Decision(Compute.FULL, "first steps"))
            continue
        ratio *= gamma
        error += abs(1.0 - ratio)
        num_skips += 1
        if error < config.magcache_thresh and num_skips <= config.magcache_max_skips:
            decisions.append(Decision(Compute.REUSE, "err < E", error, config.magcache_thresh))
            continue
        reason = "err >= E" if error >= config.magcache_thresh else f"{config.magcache_max_skips} skips in a row"
        decisions.append(Decision(Compute.FULL, reason, error, config.magcache_thresh))
        ratio, error, num_skips = 1.0, 0.0, 0
    return decisions


def plan(schedule: Schedule, config: MagCacheConfig, context: RunContext, branch: Branch) -> list[Decision]:
    """Each branch has its own ratios."""
    return plan_magcache(schedule, config, context.calibration().magnitude_ratios(branch))


MODE = Mode(
    "magcache",
    "reuse of steps by the residual's calibrated magnitude",
    "arXiv 2506.09045",
    MagCacheConfig,
    plan,
    dial=Dial("magcache_thresh", 64.0),
)
