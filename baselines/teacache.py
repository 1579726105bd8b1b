"""TeaCache (arXiv 2411.19108): acc += poly(relL1(m_t, m_t-1)); reuse the stack's residual iff acc < delta.

The signal m is the modulated timestep embedding, so the whole plan follows from the schedule: `plan_teacache` makes
it before the first step, without a synchronisation in the loop, and both CFG branches get the same one. Two
published variants for Wan2.1, each with its own coefficients: signal `e0` (the projected modulation), whose first 5
steps are always computed, and `e` (the embedding before the projection), whose first and last step are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from hetcache.core.drift import ChangeEstimator
from hetcache.core.mode import Dial, Mode, RunContext
from hetcache.core.settings import check_settings, setting
from hetcache.core.vocabulary import Branch, Compute, Decision, Schedule

FIRST_STEPS = {"e0": 5, "e": 1}
LAST_STEPS = {"e0": 0, "e": 1}
PUBLISHED: dict[str, Any] = {"signal": "e", "slow": {"e": 0.05, "e0": 0.05}, "fast": {"e": 0.08, "e0": 0.1}}
"""The authors' points for T2V-1.3B, where the model's calibration names none."""


@dataclass(frozen=True)
class TeaCacheConfig:
    """Settings of `--mode teacache`; each field is the CLI flag of the same name."""

    cache_thresh: float | None = setting(
        None,
        "delta: reuse a step iff the change accumulated since the last computed step is below it; higher skips more",
        shown="the authors' for the model: 0.05, for 14B 0.10 on e0 and 0.14 on e",
    )
    teacache_signal: str = setting(
        "auto",
        "signal and retention: 'e' computes the first and the last step, 'e0' the first 5 steps",
        choices=("e", "e0", "auto"),
        shown="the authors' for the model: e, for 14B e0",
    )
    vace_on_reuse: bool = setting(
        False,
        "run the VACE blocks on reused steps too and drop their result, as DiffSynth does: same output, a third "
        "of a step's work",
    )
    teacache_point: str = setting(
        "slow", "which of the model's published thresholds stands in where none is given", choices=("slow", "fast")
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if self.cache_thresh is not None and self.cache_thresh < 0:
            raise ValueError(f"--cache-thresh must not be negative, not {self.cache_thresh}")


Config = TypeVar("Config", bound=TeaCacheConfig)


def settled(config: Config, published: Mapping[str, Any] = PUBLISHED) -> Config:
    """The config with signal and threshold: those published for the model where none were given."""
    signal = published["signal"] if config.teacache_signal == "auto" else config.teacache_signal
    thresh = published[config.teacache_point][signal] if config.cache_thresh is None else config.cache_thresh
    return replace(config, cache_thresh=thresh, teacache_signal=signal)


def plan_teacache(schedule: Schedule, config: TeaCacheConfig, estimator: ChangeEstimator) -> list[Decision]:
    """The decision of every step, before the run. A computed step sets the accumulator to zero."""
    config = settled(config)
    assert config.cache_thresh is not None
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


def settle(config: Config, context: RunContext) -> Config:
    """Raises CalibrationError where the file's thresholds are incomplete."""
    return context.calibration().settle("teacache", lambda own: settled(config, own), PUBLISHED)


def plan(schedule: Schedule, config: TeaCacheConfig, context: RunContext, branch: Branch) -> list[Decision]:
    config = settle(config, context)
    return plan_teacache(schedule, config, context.calibration().rescale(config.teacache_signal))


MODE = Mode(
    "teacache",
    "reuse of steps by the timestep embedding's change",
    "arXiv 2411.19108",
    TeaCacheConfig,
    plan,
    dial=Dial("cache_thresh", 64.0),
    vace_on_reuse=lambda config: config.vace_on_reuse,
    settle=settle,
    calibrated=lambda config: (config.teacache_signal,),
)
