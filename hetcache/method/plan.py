"""What decides HetCache's steps: a plan before the run, by the threshold's rule or as it was given, or a lead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hetcache.core.decisions import parse_decisions
from hetcache.core.drift import ChangeEstimator, LevelRule, plan_levels
from hetcache.core.mode import ONE_STEP, NotPlannable, RunContext
from hetcache.core.vocabulary import Branch, Decision, Schedule
from hetcache.method.config import HetCacheConfig
from hetcache.method.output_drift import OutputDrift


def plan(
    schedule: Schedule, config: HetCacheConfig, context: RunContext, branch: Branch, reuses: bool = True
) -> list[Decision]:
    """Raises NotPlannable for `signal` output."""
    if config.signal == "output":
        raise NotPlannable("--signal output decides from the run itself, so there is no plan before it")
    if config.decisions is not None:
        return given_decisions(config.decisions, schedule, reuses)
    rule = replace(config.rule(), reuses=reuses)
    return plan_hetcache(schedule, config, context.calibration().estimator(), rule)


def lead(schedule: Schedule, config: HetCacheConfig, context: RunContext, reuses: bool = True) -> OutputDrift | None:
    if config.signal != "output":
        return None
    rule = config.rule()
    # The scale of `refresh` is that of the calibrated changes.
    return OutputDrift(replace(rule, rule="dual" if rule.rule == "forecast" else rule.rule, reuses=reuses), schedule)


def given_decisions(words: str, schedule: Schedule, reuses: bool = True) -> list[Decision]:
    """Raises ValueError where they are not as many as the run has steps, or another rule has the reuses."""
    decisions = parse_decisions(words)
    if not reuses:
        raise ValueError("--decisions: TeaCache decides the reuses of this mode; use --mode hetcache")
    if schedule is ONE_STEP:
        return decisions[:1]
    if len(decisions) != schedule.num_steps:
        raise ValueError(
            f"--decisions has {len(decisions)} steps and the run {schedule.num_steps}: give --steps {len(decisions)}, "
            "or another plan"
        )
    return decisions


def plan_hetcache(
    schedule: Schedule, config: HetCacheConfig, estimator: ChangeEstimator, rule: LevelRule | None = None
) -> list[Decision]:
    """The decision of every step, before the run: the signal `e0` depends on the schedule alone."""
    changes = estimator.changes(schedule, "e0")
    drifts = None
    if config.decision_rule == "forecast":
        # What a step misses moves the latents by its share of the noise; stale context matters for what is left of it.
        drifts = [change * (t / 1000.0) ** 2 for change, t in zip(changes, schedule.timesteps, strict=True)]
        shares = noise_shares(schedule.timesteps)
        changes = tuple(change * share**config.sigma_weight for change, share in zip(changes, shares, strict=True))
    return plan_levels(changes, rule or config.rule(), schedule.skipped, drifts)


def noise_shares(timesteps: Sequence[float]) -> list[float]:
    """By how much each step moves the latents, N (sigma_t - sigma_t+1): 1 on average of a whole schedule."""
    sigmas = [*(t / 1000.0 for t in timesteps), 0.0]
    return [len(timesteps) * max(a - b, 0.0) for a, b in zip(sigmas, sigmas[1:], strict=False)]
