"""The error model of a run, on the steps of its schedule: what each kind of step adds to the error of the edit.

Errors are root mean squares over the generative tokens of the guided velocity, measured along the uncached trajectory,
times the width of a step in sigma and what later steps multiply an error by: errors of the final latent. A run is cut
into segments, from each computed step to the one before the next. A segment's error has these parts:

    reused   of the vectors' sum over its reused steps, forecast from the last two computed steps i and j, at the
             better of two orders
    missed   by a partial step j: its error in velocity, by budget and age (the number of steps since the last full
             one), times the width of the segment, j included, because it lasts until the next computed step
    drifted  the context outside a partial step's rows, when the next full step sees it

The run's predicted error is (sum over segments and parts of error^p)^(1/p): p is 1 for errors that point the same way
and 2 for independent ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hetcache.core.vocabulary import Compute

Floats = NDArray[np.float64]

BETTER_BY = 1e-12
"""By how much order 1 must be better than order 0 to be chosen: equal is order 0."""


@dataclass(frozen=True)
class Kind:
    """What a step of a plan is: `budget` indexes the model's budgets in a PARTIAL step, `order` is that of the forecast
    in a REUSE step."""

    compute: Compute
    budget: int = 0
    order: int = 0


FULL = Kind(Compute.FULL)


@dataclass(frozen=True, eq=False)
class ErrorModel:
    """Tables of S steps. `weights[t]` is the width of step t times its sensitivity. `segments[j, b, n - 1]` is the
    error of n reused steps behind the computed step j: of order 0 at b = 0, of order 1 with the earlier anchor j - b
    else; NaN where nothing was measured. `partial[budget, age - 1, t]` is the error of a partial step in velocity;
    `context[f, k]` what lies between the full steps f and k, with k = S the end. `power` is p."""

    weights: Floats
    segments: Floats
    partial: Floats
    context: Floats
    power: float = 2.0

    def __post_init__(self) -> None:
        steps = len(self.weights)
        expected = {
            "segments": (steps, *self.segments.shape[1:]),
            "partial": (*self.partial.shape[:2], steps),
            "context": (steps, steps + 1),
        }
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"the error model's {name} are {getattr(self, name).shape}, not {shape}")
        if self.power <= 0:
            raise ValueError(f"the error model's power must be positive, not {self.power:g}")

    @property
    def num_steps(self) -> int:
        return len(self.weights)

    @property
    def num_budgets(self) -> int:
        return len(self.partial)

    @property
    def reach(self) -> int:
        """The most reused steps in a row."""
        return int(self.segments.shape[2])

    @property
    def max_age(self) -> int:
        """The most steps between a full step and a partial one."""
        return int(self.partial.shape[1])

    @cached_property
    def _sums(self) -> Floats:
        return np.concatenate([[0.0], np.cumsum(self.weights)])

    @cached_property
    def _better(self) -> NDArray[np.bool_]:
        """[j, b, n - 1]: is order 1 better than order 0 there?"""
        with np.errstate(invalid="ignore"):
            return self.segments < self.segments[:, :1] - BETTER_BY

    def _back(self, i: int, j: int) -> int:
        """The index of the anchors i and j; i is -1 before the second computed step. An anchor too far back counts as
        none."""
        return j - i if i >= 0 and j - i < self.segments.shape[1] else 0

    def order(self, i: int, j: int, k: int) -> int:
        """The better order of the forecast between the computed steps j and k, with i the computed step before j."""
        return int(self._better[j, self._back(i, j), k - j - 2]) if k - j > 1 else 0

    def reused(self, i: int, j: int, k: int) -> float:
        """Error of the reused steps between the computed steps j and k, raised to the power."""
        if k - j == 1:
            return 0.0
        return self._raised(self.segments[j, self._back(i, j) * self.order(i, j, k), k - j - 2])

    def missed(self, budget: int, f: int, j: int, k: int) -> float:
        """Error of the partial step j, f the last full one, until the computed step k, raised to the power."""
        weight = self._sums[k] - self._sums[j]
        return self._raised(weight * self.partial[budget, j - f - 1, j])

    def drifted(self, f: int, k: int) -> float:
        """Error by the context's drift between the full steps f and k, raised to the power."""
        return self._raised(self.context[f, k])

    def _raised(self, error: float) -> float:
        """What was not measured is infinite: no plan has it."""
        return math.inf if math.isnan(error) else math.pow(error, self.power)

    def error(self, raised: float) -> float:
        """The error of a run from the sum of its raised parts."""
        return math.pow(raised, 1.0 / self.power)

    def ordered(self, kinds: Sequence[Kind]) -> list[Kind]:
        """The same kinds with the better order of each segment's forecasts."""
        computed = [t for t, kind in enumerate(kinds) if kind.compute is not Compute.REUSE]
        found = list(kinds)
        for i, j, k in zip([-1, *computed], computed, [*computed[1:], self.num_steps], strict=False):
            found[j + 1 : k] = [Kind(Compute.REUSE, order=self.order(i, j, k))] * (k - j - 1)
        return found

    def predict(self, kinds: Sequence[Kind]) -> float:
        """The error of a run of these kinds of steps (orders are chosen here). Raises ValueError for a run that the
        model cannot tell of: one that does not start in full, or goes on too long without computing."""
        if len(kinds) != self.num_steps or kinds[0].compute is not Compute.FULL:
            raise ValueError(f"a plan of {self.num_steps} steps starts with a full one")
        computed = [t for t, kind in enumerate(kinds) if kind.compute is not Compute.REUSE]
        total, i, f = 0.0, -1, 0
        for j, k in zip(computed, [*computed[1:], self.num_steps], strict=True):
            if k - j - 1 > self.reach:
                raise ValueError(f"steps {j + 1} to {k - 1} are reused, and {self.reach} in a row were measured")
            if kinds[j].compute is Compute.FULL:
                f = j
            elif j - f > self.max_age:
                raise ValueError(f"step {j} is partial, {j - f} steps after a full one; {self.max_age} were measured")
            total += self.reused(i, j, k)
            if kinds[j].compute is Compute.PARTIAL:
                total += self.missed(kinds[j].budget, f, j, k)
            if k == self.num_steps or kinds[k].compute is Compute.FULL:
                total += self.drifted(f, k)
            i = j
        return self.error(total)
