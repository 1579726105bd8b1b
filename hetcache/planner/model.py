"""The error model of a run, on the steps of its schedule: what each kind of step adds to the error of the edit.

Errors are root mean squares on the generative tokens of the guided velocity, measured along the uncached trajectory.
A run is cut into segments, from each computed step to the one before the next; a segment's error in the final latent is

    reuse    sum over its reused steps t of w_t e(i, j, t), i and j the last two computed steps, at the better order
    partial  (sum over its steps t, j included, of w_t) e(j, budget, age): what a partial step j missed lasts until the
             next computed step; age is the number of steps since the last full one
    context  what the rows outside a partial step's have drifted by when the next full step sees them

w_t is |sigma_t - sigma_(t+1)| times the measured sensitivity of the final latent. The run's predicted error is
(sum over segments and parts of error^p)^(1/p).
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


@dataclass(frozen=True, order=True)
class Kind:
    """What a step of a plan is: `budget` indexes the model's budgets in a PARTIAL step, `order` is that of the forecast
    in a REUSE step."""

    compute: Compute
    budget: int = 0
    order: int = 0


FULL = Kind(Compute.FULL)


@dataclass(frozen=True, eq=False)
class ErrorModel:
    """Tables of S steps. `weights[t]`; `order0[j, a - 1]` is the error at step j + a of the forecast of order 0 from
    anchor j, `order1[j, b - 1, a - 1]` that of order 1 from anchors j - b and j, both NaN beyond the run;
    `partial[budget, age - 1, t]` the error of a partial step; `context[f, k]` what lies between the full steps f and k,
    with k = S the end. `power` is p."""

    weights: Floats
    order0: Floats
    order1: Floats
    partial: Floats
    context: Floats
    power: float = 2.0

    def __post_init__(self) -> None:
        steps, reach = self.order0.shape
        expected = {
            "weights": (steps,),
            "order1": (steps, self.order1.shape[1], reach),
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
        return int(self.order0.shape[1])

    @property
    def max_age(self) -> int:
        """The most steps between a full step and a partial one."""
        return int(self.partial.shape[1])

    @cached_property
    def _sums(self) -> Floats:
        return np.concatenate([[0.0], np.cumsum(self.weights)])

    @cached_property
    def _reused(self) -> tuple[Floats, NDArray[np.bool_]]:
        """([j, b, n]: the error of n reused steps behind j, b = 0 without an earlier anchor; [j, b, a - 1]: is order 1
        the better one there?)"""
        steps, reach = self.order0.shape
        back = self.order1.shape[1]
        errors = np.full((steps, back + 1, reach), np.nan)
        errors[:, 0], errors[:, 1:] = self.order0, self.order1
        plain = np.broadcast_to(self.order0[:, None], errors.shape)
        with np.errstate(invalid="ignore"):
            linear = errors < plain - BETTER_BY
        best = np.where(linear, errors, plain)
        ahead = np.minimum(np.arange(steps)[:, None] + np.arange(1, reach + 1), steps - 1)
        sums = np.zeros((steps, back + 1, reach + 1))
        np.cumsum(best * self.weights[ahead][:, None], axis=2, out=sums[:, :, 1:])
        return sums, linear

    def _back(self, i: int, j: int) -> int:
        """The index of the anchors i and j; i is -1 before the second computed step. An anchor too far back counts as
        none."""
        return j - i if i >= 0 and j - i <= self.order1.shape[1] else 0

    def reused(self, i: int, j: int, k: int) -> float:
        """Error of the reused steps between the computed steps j and k, raised to the power."""
        return self._raised(self._reused[0][j, self._back(i, j), k - j - 1])

    def order(self, i: int, j: int, t: int) -> int:
        """The better order of the forecast at step t from the anchors i and j."""
        return int(self._reused[1][j, self._back(i, j), t - j - 1])

    def missed(self, budget: int, f: int, j: int, k: int) -> float:
        """Error of the partial step j, f the last full one, until the computed step k, raised to the power."""
        weight = self._sums[k] - self._sums[j]
        return self._raised(weight * self.partial[budget, j - f - 1, j])

    def drifted(self, f: int, k: int) -> float:
        """Error by the context's drift between the full steps f and k, raised to the power."""
        return self._raised(self.context[f, k])

    def _raised(self, error: float) -> float:
        return math.pow(error, self.power)

    def error(self, raised: float) -> float:
        """The error of a run from the sum of its raised parts."""
        return math.pow(raised, 1.0 / self.power)

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
