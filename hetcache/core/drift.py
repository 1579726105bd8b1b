"""The decision signal: relative L1 change, its rescaling, and the accumulating rules that turn it into decisions.

Everything here is arithmetic on Python floats, so a whole plan exists before the first step when the signal is
static. Sources: TeaCache (arXiv 2411.19108, eq. 4-6) for the accumulated, rescaled relative L1; HetCache
(arXiv 2603.24260) for the three levels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from hetcache.core.vocabulary import Compute, Decision, Schedule

if TYPE_CHECKING:
    import torch


def relative_l1(new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    """mean|new - old| / mean|old|, a scalar tensor on the inputs' device (no synchronisation)."""
    import torch

    return (new - old).abs().mean() / old.abs().mean().clamp_min(torch.finfo(old.dtype).tiny)


class ChangeEstimator(Protocol):
    """Estimates, before the run, how much the model's output changes from each step to the next."""

    def changes(self, schedule: Schedule, signal: str) -> tuple[float, ...]:
        """One relative change per step, never negative; entry 0 is 0.0."""
        ...


@dataclass(frozen=True)
class Rescale:
    """Maps the relative L1 of the signal to an estimate of the change of the model's output, never negative.

    `coefficients` of a polynomial, highest power first, in `space` `linear` (TeaCache's) or `log` (polynomial of
    log signal giving log change). `domain` is the range of the signal that it was fitted on: inputs are clamped
    to it, because a degree-4 fit means nothing outside.
    """

    coefficients: tuple[float, ...]
    space: str = "linear"
    domain: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.space not in ("linear", "log"):
            raise ValueError(f"rescale space must be 'linear' or 'log', not {self.space!r}")
        if not self.coefficients:
            raise ValueError("a rescale needs at least one coefficient")

    def __call__(self, rel_l1: float) -> float:
        if self.domain is not None:
            rel_l1 = min(max(rel_l1, self.domain[0]), self.domain[1])
        if self.space == "linear":
            return max(_horner(self.coefficients, rel_l1), 0.0)
        return math.exp(_horner(self.coefficients, math.log(max(rel_l1, 1e-12))))

    def changes(self, schedule: Schedule, signal: str) -> tuple[float, ...]:
        """Raises ValueError when the schedule was measured without that signal."""
        if signal not in schedule.rel_l1:
            raise ValueError(f"the schedule has no signal {signal!r}: it has {', '.join(schedule.rel_l1) or 'none'}")
        return (0.0, *(self(rel_l1) for rel_l1 in schedule.rel_l1[signal][1:]))


@dataclass(frozen=True)
class ChangeCurve:
    """A calibrated table: the relative change of the stack residual, summed along the run, by timestep.

    The signal of a static schedule carries no more than the timestep, so the change itself can be tabulated by
    timestep, without a polynomial between them. `timesteps` fall, `cumulative` rises from 0; a run with another
    number of steps takes differences of the interpolated sum, so that its whole run adds up to the same change.
    """

    timesteps: tuple[float, ...]
    cumulative: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.timesteps) != len(self.cumulative) or len(self.timesteps) < 2:
            raise ValueError("a change curve needs as many timesteps as values, and at least two")
        if any(b >= a for a, b in zip(self.timesteps, self.timesteps[1:], strict=False)):
            raise ValueError("the timesteps of a change curve must fall")
        if any(b < a for a, b in zip(self.cumulative, self.cumulative[1:], strict=False)):
            raise ValueError("the values of a change curve must not fall")

    def at(self, timestep: float) -> float:
        """The sum up to `timestep`: linear between the table's points, its end slopes continued outside."""
        last = len(self.timesteps) - 2
        i = min(max(sum(t >= timestep for t in self.timesteps) - 1, 0), last)
        fraction = (self.timesteps[i] - timestep) / (self.timesteps[i] - self.timesteps[i + 1])
        return self.cumulative[i] + fraction * (self.cumulative[i + 1] - self.cumulative[i])

    def changes(self, schedule: Schedule, signal: str = "") -> tuple[float, ...]:
        sums = [self.at(timestep) for timestep in schedule.timesteps]
        return (0.0, *(max(b - a, 0.0) for a, b in zip(sums, sums[1:], strict=False)))


IDENTITY = Rescale((1.0, 0.0))
REUSED_BY_COMPOSITION = "reused by the composition"


def _horner(coefficients: Sequence[float], x: float) -> float:
    value = 0.0
    for coefficient in coefficients:
        value = value * x + coefficient
    return value


@dataclass(frozen=True)
class LevelRule:
    """The three-level rule, on the change accumulated since the last computed step (d) and last full step (D).

    reuse iff d < delta. Otherwise, rule `paper`: partial iff d < band * delta, else full; rule `dual`: partial
    iff D < refresh_band * delta, else full; rule `forecast`: partial iff D < refresh, else full. A full step is forced
    first, last, for the first `warm_up` computed steps and after `max_partial_run` partial steps in a row (reuses
    between them do not reset the run). With `reuses` False nothing is reused: another rule has already decided that.
    Without `force_last` the last step is computed too, in full or in part as the others.
    """

    delta: float
    rule: str = "dual"
    band: float = 1.5
    refresh_band: float = 1.5
    max_partial_run: int = 5
    force_last: bool = True
    reuses: bool = True
    warm_up: int = 1
    refresh: float = 0.0


class LevelAccumulator:
    """Applies a `LevelRule` step by step. `next` takes the step's estimated change and returns the decision."""

    def __init__(self, rule: LevelRule, num_steps: int) -> None:
        self.rule = rule
        self.num_steps = num_steps
        self.since_computed = 0.0
        self.since_full = 0.0
        self.partial_run = 0
        self.index = 0
        self._num_computed = 0

    def next(self, change: float, drift: float | None = None) -> Decision:
        """`drift` is what the step adds to D, None: the change as to d."""
        rule, index = self.rule, self.index
        self.index += 1
        if index == 0:
            return self._full("first step", None)
        is_last = index == self.num_steps - 1
        if is_last and rule.force_last:
            return self._full("last step", None)
        self.since_computed += change
        self.since_full += change if drift is None else drift
        d = self.since_computed
        if rule.reuses and d < rule.delta and not is_last:
            return Decision(Compute.REUSE, "d < delta", d, rule.delta)
        if self._num_computed < rule.warm_up:
            return self._full(f"one of the first {rule.warm_up} computed steps", d)
        if self.partial_run >= rule.max_partial_run:
            return self._full(f"{rule.max_partial_run} partial steps since the last full one", d)
        if rule.rule == "paper":
            if d >= rule.band * rule.delta:
                return self._full("d >= band * delta", d, rule.band * rule.delta)
        elif rule.rule == "forecast":
            if self.since_full >= rule.refresh:
                return self._full("D >= refresh", self.since_full, rule.refresh)
        elif self.since_full >= rule.refresh_band * rule.delta:
            return self._full("D >= refresh_band * delta", self.since_full, rule.refresh_band * rule.delta)
        self.since_computed = 0.0
        self.partial_run += 1
        self._num_computed += 1
        return Decision(Compute.PARTIAL, "d >= delta", d, rule.delta)

    def _full(self, reason: str, signal: float | None, threshold: float | None = None) -> Decision:
        self.since_computed = self.since_full = 0.0
        self.partial_run = 0
        self._num_computed += 1
        return Decision(Compute.FULL, reason, signal, threshold)


def plan_levels(
    changes: Sequence[float],
    rule: LevelRule,
    skipped: frozenset[int] = frozenset(),
    drifts: Sequence[float] | None = None,
) -> list[Decision]:
    """Decisions of a whole run from the estimated change of every step (`changes[0]` is ignored), `drifts` where D sums
    something else. At `skipped` steps the rule is not asked: their change counts for the next step."""
    accumulator = LevelAccumulator(rule, len(changes) - len(skipped))
    decisions, pending, pending_drift = [], 0.0, 0.0
    for index, (change, drift) in enumerate(zip(changes, drifts or changes, strict=True)):
        pending += change
        pending_drift += drift
        if index in skipped:
            decisions.append(Decision(Compute.REUSE, REUSED_BY_COMPOSITION))
            continue
        decisions.append(accumulator.next(pending, pending_drift))
        pending = pending_drift = 0.0
    return decisions


def decision_string(decisions: Sequence[Decision]) -> str:
    """One letter a step, e.g. `FRRPRRF`."""
    return "".join(decision.compute.value for decision in decisions)
