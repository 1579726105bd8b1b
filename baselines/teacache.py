"""TeaCache (arXiv 2411.19108): acc += poly(relL1(m_t, m_t-1)); reuse the stack's residual iff acc < delta.

The signal m is the modulated timestep embedding, so the whole plan follows from the schedule: `plan_teacache` makes
it before the first step, without a synchronisation in the loop, and both CFG branches get the same one. Two
published variants for Wan2.1, each with its own coefficients: signal `e0` (the projected modulation), whose first 5
steps are always computed, and `e` (the embedding before the projection), whose first and last step are.
"""

from __future__ import annotations

from dataclasses import dataclass

from hetcache.core.drift import ChangeEstimator
from hetcache.core.mode import Dial, Mode, RunContext
from hetcache.core.settings import check_settings, setting
from hetcache.core.vocabulary import Branch, Compute, Decision, Schedule

FIRST_STEPS = {"e0": 5, "e": 1}
LAST_STEPS = {"e0": 0, "e": 1}


@dataclass(frozen=True)
class TeaCacheConfig:
    """Settings of `--mode teacache`; each field is the CLI flag of the same name."""

    cache_thresh: float = setting(
        0.05,
        "delta: reuse a step iff the change accumulated since the last computed step is below it; higher skips more",
    )
    teacache_signal: str = setting(
        "e",
        "signal and retention: 'e' computes the first and the last step, 'e0' the first 5 steps",
        choices=("e", "e0"),
    )
    vace_on_reuse: bool = setting(
        False,
        "run the VACE blocks on reused steps too and drop their result, as DiffSynth does: same output, a third "
        "of a step's work",
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if self.cache_thresh < 0:
            raise ValueError(f"--cache-thresh must not be negative, not {self.cache_thresh}")


def plan_teacache(schedule: Schedule, config: TeaCacheConfig, estimator: ChangeEstimator) -> list[Decision]:
    """The decision of every step, before the run. A computed step sets the accumulator to zero."""
    first = FIRST_STEPS[config.teacache_signal]
    last = schedule.num_steps - LAST_STEPS[config.teacache_signal]
    decisions, accumulated = [], 0.0
    for index, change in enumerate(estimator.changes(schedule, config.teacache_signal)):
        if index < first or index >= last:
            accumulated = 0.0
            decisions.append(Decision(Compute.FULL, "first steps" if index < first else "last step"))
            continue
        accumulated += change
        if accumulated < config.cache_thresh:
            decisions.append(Decision(Compute.REUSE, "acc < delta", accumulated, config.cache_thresh))
            continue
        decisions.append(Decision(Compute.FULL, "acc >= delta", accumulated, config.cache_thresh))
        accumulated = 0.0
    return decisions


def plan(schedule: Schedule, config: TeaCacheConfig, context: RunContext, branch: Branch) -> list[Decision]:
    return plan_teacache(schedule, config, context.calibration().rescale(config.teacache_signal))


MODE = Mode(
    "teacache",
    "reuse of steps by the timestep embedding's change",
    "arXiv 2411.19108",
    TeaCacheConfig,
    plan,
    dial=Dial("cache_thresh", 64.0),
    vace_on_reuse=lambda config: config.vace_on_reuse,
)
