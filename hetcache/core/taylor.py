"""Forecasts of cached tensors by a truncated Taylor series over the steps that were computed (TaylorSeer, arXiv
2503.06923): at a computed step dF^0 = F and dF^i = (dF^(i-1) - the last step's dF^(i-1)) / distance; k further on the
forecast is sum_i dF^i k^i / i!.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hetcache.core.lead import Decider
from hetcache.core.residual import StackResidual
from hetcache.core.store import RESIDUAL, FeatureStore, Key
from hetcache.core.vocabulary import Branch, Decision, Hidden, Step

if TYPE_CHECKING:
    import torch

MAX_ORDER = 2


class TaylorSeries:
    """The series of any number of tensors of one CFG branch, kept in `store` at slots `slot`, `slot.d1`, `slot.d2`: up
    to `order` + 1 tensors each. Positions are step indices, or any coordinate that only grows or only falls. Order 0 is
    plain reuse, and a series whose differences are not complete yet is of the order that it has."""

    def __init__(self, store: FeatureStore, order: int) -> None:
        self._store = store
        self._order = order
        self._last: dict[Key, float] = {}

    def put(self, key: Key, position: float, value: torch.Tensor) -> None:
        """What was computed at `position`."""
        distance = position - self._last.get(key, position)
        self._last[key] = position
        for order in range(self._order + 1):
            slot = _slot(key, order)
            old = self._store.get(*slot) if slot in self._store else None
            self._store.put(*slot, value)
            if old is None:
                break
            value = (value - old) / distance

    def at(self, key: Key, position: float) -> torch.Tensor:
        """The forecast at `position`. Raises KeyError for what was never computed."""
        value, distance = self._store.get(*key), position - self._last[key]
        for order in range(1, self._order + 1):
            slot = _slot(key, order)
            if slot not in self._store:
                break
            value = value + self._store.get(*slot) * (distance**order / math.factorial(order))
        return value


class TaylorResidual(StackResidual):
    """One CFG branch of a mode that computes or forecasts whole steps, as its decider says: the residual of the block
    stack and its differences. A forecast step runs no block."""

    def __init__(self, order: int, decider: Decider, branch: Branch) -> None:
        super().__init__(decider, branch)
        self._series = TaylorSeries(self.store, order)

    def reuse(self, step: Step, hidden: Hidden) -> torch.Tensor:
        return hidden.x_BND + self._series.at(RESIDUAL, step.index)

    def commit(
        self, step: Step, decision: Decision, hidden: Hidden, x_out_BND: torch.Tensor, velocity: torch.Tensor
    ) -> None:
        self._series.put(RESIDUAL, step.index, x_out_BND - hidden.x_BND)
        self._decider.observe(self._branch, hidden, velocity)


def _slot(key: Key, order: int) -> Key:
    stack, layer, slot = key
    return (stack, layer, f"{slot}.d{order}") if order else key
