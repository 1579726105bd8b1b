"""MagCache (arXiv 2506.09045): ratio *= gamma_t; err += |1 - ratio|; n += 1; reuse iff err < E and n <= K.

gamma_t is the ratio of the stack residual's norm to that of the step before, measured once per model and branch,
so the plan is static. The first R of the steps are always computed; a computed step resets ratio, err and n.

A run on another schedule than the one measured takes the ratios by timestep: with L(t) the sum of ln gamma up to t,
linear between the steps measured and continued beyond the last, gamma_i = exp(L(t_i) - L(t_i-1)).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from hetcache.core.calibration import Calibration
from hetcache.core.conditions import same_schedule
from hetcache.core.mode import Dial, Mode, RunContext
from hetcache.core.settings import check_settings, setting
from hetcache.core.vocabulary import Branch, Compute, Decision, Schedule


@dataclass(frozen=True)
class MagCacheConfig:
    """Settings of `--mode magcache`; the defaults are those published for the model, else for VACE-1.3B."""

    magcache_thresh: float | None = setting(
        None,
        "E: reuse iff the accumulated magnitude error is below it; higher skips more",
        shown="the authors' for the model: 0.02, for 14B 0.24",
    )
    magcache_max_skips: int | None = setting(
        None, "K: at most so many reused steps in a row", shown="the authors' for the model: 3, for 14B 6"
    )
    magcache_retention: float = setting(0.2, "R: fraction of the steps, from the first, that is always computed")
    magcache_ratios: str = setting(
        "timestep",
        "ratios of a run on another schedule than the one measured: by 'timestep', or of the nearest 'index', as "
        "published",
        choices=("timestep", "index"),
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if self.magcache_thresh is not None and self.magcache_thresh < 0:
            raise ValueError(f"--magcache-thresh must not be negative, not {self.magcache_thresh}")
        if self.magcache_max_skips is not None and self.magcache_max_skips < 0:
            raise ValueError(f"--magcache-max-skips must not be negative, not {self.magcache_max_skips}")
        if not 0.0 <= self.magcache_retention <= 1.0:
            raise ValueError(f"--magcache-retention must be between 0 and 1, not {self.magcache_retention}")


LARGEST = {"E": 0.24, "K": 6}
RETENTION = 0.2
"""Of the settings that the authors publish for Wan 2.1 (E from 0.02, K from 2)."""
PUBLISHED = {"magcache_thresh": 0.02, "magcache_max_skips": 3}
"""The authors' for VACE-1.3B, where the model's calibration names none."""


def settled(config: MagCacheConfig, published: Mapping[str, float] = PUBLISHED) -> MagCacheConfig:
    """The config with the values published for the model where none were given."""
    thresh, max_skips = config.magcache_thresh, config.magcache_max_skips
    return replace(
        config,
        magcache_thresh=published["magcache_thresh"] if thresh is None else thresh,
        magcache_max_skips=int(published["magcache_max_skips"]) if max_skips is None else max_skips,
    )


def interpolate_ratios(ratios: Sequence[float], num_steps: int) -> list[float]:
    """The ratios of a run with another number of steps: the nearest calibrated index, first to first, last to last."""
    if num_steps == 1:
        return [ratios[-1]]
    scale = (len(ratios) - 1) / (num_steps - 1)
    return [ratios[round(index * scale)] for index in range(num_steps)]


def ratios_by_timestep(ratios: Sequence[float], measured: Sequence[float], timesteps: Sequence[float]) -> list[float]:
    """The ratios of a run at `timesteps` (falling), from those measured at other ones; a step that spans several
    measured ones has their product."""
    if same_schedule(measured, timesteps):
        return list(ratios)
    sums = list(accumulate(math.log(ratio) for ratio in ratios))

    def at(timestep: float) -> float:
        right = min(max(sum(t >= timestep for t in measured), 1), len(measured) - 1)
        share = (measured[right - 1] - timestep) / (measured[right - 1] - measured[right])
        return sums[right - 1] + share * (sums[right] - sums[right - 1])

    logs = [at(timestep) for timestep in timesteps]
    return [1.0, *(math.exp(now - before) for before, now in zip(logs, logs[1:], strict=False))]


def run_ratios(schedule: Schedule, config: MagCacheConfig, calibration: Calibration, branch: Branch) -> list[float]:
    """The branch's ratio at each step of the run. A list whose schedule nobody knows is read by index."""
    ratios = calibration.magnitude_ratios(branch)
    conditions = calibration.measured_on.get("magcache")
    measured = conditions.schedule() if conditions is not None else ()
    if config.magcache_ratios == "index" or len(measured) != len(ratios):
        return interpolate_ratios(ratios, schedule.num_steps)
    return ratios_by_timestep(ratios, measured, schedule.timesteps)


def plan_magcache(schedule: Schedule, config: MagCacheConfig, ratios: Sequence[float]) -> list[Decision]:
    """The decision of every step of one branch, before the run. The first step is always computed. Ratios of another
    number of steps are read by index."""
    config = settled(config)
    assert config.magcache_thresh is not None and config.magcache_max_skips is not None
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


def settle(config: MagCacheConfig, context: RunContext) -> MagCacheConfig:
    """Raises CalibrationError where the file's thresholds are incomplete."""
    return context.calibration().settle("magcache", lambda own: settled(config, own), PUBLISHED)


def plan(schedule: Schedule, config: MagCacheConfig, context: RunContext, branch: Branch) -> list[Decision]:
    """Each branch has its own ratios."""
    ratios = run_ratios(schedule, config, context.calibration(), branch)
    return plan_magcache(schedule, settle(config, context), ratios)


def outside(config: MagCacheConfig) -> str:
    found = []
    if config.magcache_max_skips is not None and config.magcache_max_skips > LARGEST["K"]:
        found.append(f"K {config.magcache_max_skips} > {LARGEST['K']}")
    if config.magcache_thresh is not None and config.magcache_thresh > LARGEST["E"]:
        found.append(f"E {config.magcache_thresh:g} > {LARGEST['E']}")
    if config.magcache_retention < RETENTION:
        found.append(f"R {config.magcache_retention:g} < {RETENTION}")
    return ", ".join(found)


MODE = Mode(
    "magcache",
    "reuse of steps by the residual's calibrated magnitude",
    "arXiv 2506.09045",
    MagCacheConfig,
    plan,
    dial=Dial("magcache_thresh", 64.0),
    settle=settle,
    calibrated=lambda config: ("magcache",),
    outside=outside,
)
