"""The decision signal: relative L1 change, its rescaling, and the accumulating rules that turn it into decisions.

Everything here is arithmetic on Python floats, so a whole plan exists before the first step when the signal is
static. Sources: TeaCache (arXiv 2411.19108, eq. 4-6) for the accumulated, rescaled relative L1; HetCache
(arXiv 2603.24260) for the three levels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hetcache.api import Compute, Decision


def relative_l1(new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    """mean|new - old| / mean|old|, a scalar tensor on the inputs' device (no synchronisation)."""
    return (new - old).abs().mean() / old.abs().mean().clamp_min(torch.finfo(old.dtype).tiny)


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


IDENTITY = Rescale((1.0, 0.0))


def _horner(coefficients: Sequence[float], x: float) -> float:
    value = 0.0
    for coefficient in coefficients:
        value = value * x + coefficient
    return value


@dataclass(frozen=True)
class LevelRule:
    """The three-level rule, on the change accumulated since the last computed step (d) and last full step (D).

    reuse iff d < delta. Otherwise, rule `paper`: partial iff d < band * delta, else full; rule `dual`: partial
    iff D < refresh_band * delta, else full. A full step is forced first, last, and after `max_partial_run`
    partial steps in a row (reuses between them do not reset the run).
    """

    delta: float
    rule: str = "dual"
    band: float = 1.5
    refresh_band: float = 1.5
    max_partial_run: int = 5
    force_last: bool = True


class LevelAccumulator:
    """Applies a `LevelRule` step by step. `next` takes the step's estimated change and returns the decision."""

    def __init__(self, rule: LevelRule, num_steps: int) -> None:
        self.rule = rule
        self.num_steps = num_steps
        self.since_computed = 0.0
        self.since_full = 0.0
        self.partial_run = 0
        self.index = 0

    def next(self, change: float) -> Decision:
        rule, index = self.rule, self.index
        self.index += 1
        if index == 0:
            return self._full("first step", None)
        if index == self.num_steps - 1 and rule.force_last:
            return self._full("last step", None)
        self.since_computed += change
        self.since_full += change
        d = self.since_computed
        if d < rule.delta:
            return Decision(Compute.REUSE, "d < delta", d, rule.delta)
        if self.partial_run >= rule.max_partial_run:
            return self._full(f"{rule.max_partial_run} partial steps since the last full one", d)
        if rule.rule == "paper":
            if d >= rule.band * rule.delta:
                return self._full("d >= band * delta", d, rule.band * rule.delta)
        elif self.since_full >= rule.refresh_band * rule.delta:
            return self._full("D >= refresh_band * delta", self.since_full, rule.refresh_band * rule.delta)
        self.since_computed = 0.0
        self.partial_run += 1
        return Decision(Compute.PARTIAL, "d >= delta", d, rule.delta)

    def _full(self, reason: str, signal: float | None, threshold: float | None = None) -> Decision:
        self.since_computed = self.since_full = 0.0
        self.partial_run = 0
        return Decision(Compute.FULL, reason, signal, threshold)


def plan_levels(changes: Sequence[float], rule: LevelRule) -> list[Decision]:
    """Decisions of a whole run from the estimated change of every step (`changes[0]` is ignored)."""
    accumulator = LevelAccumulator(rule, len(changes))
    return [accumulator.next(change) for change in changes]


def decision_string(decisions: Sequence[Decision]) -> str:
    """One letter a step, e.g. `FRRPRRF`."""
    return "".join(decision.compute.value for decision in decisions)
