"""The best plan under an error model: label setting over the last full, the last two computed and the current step.

Exact for the model. A label is (cost, error) of all plans that arrive in a state; of those with no better in both, one
is kept. Costs are integers, so that sums are exact. Ties, for equal cost and error, are settled from the end of the run
backwards: the earlier last computed step wins, the fuller of two kinds, then the earlier full step before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hetcache.core.vocabulary import Compute
from hetcache.planner.model import FULL, ErrorModel, Kind


@dataclass(frozen=True)
class Costs:
    """What a step costs, in whole units (FLOPs, microseconds): both branches of guidance together. `partial` has one
    entry per budget of the error model."""

    full: int
    reuse: int
    partial: tuple[int, ...]

    def of(self, kind: Kind) -> int:
        if kind.compute is Compute.PARTIAL:
            return self.partial[kind.budget]
        return self.full if kind.compute is Compute.FULL else self.reuse


@dataclass(frozen=True)
class Plan:
    """One point of the front: every step's kind, the predicted error and the cost."""

    kinds: tuple[Kind, ...]
    error: float
    cost: int


class State(NamedTuple):
    """The last full step, the computed step before the last (-1: none) and the last computed step with its kind
    (-1: full, else the budget)."""

    f: int
    i: int
    j: int
    kind: int


class Labels(NamedTuple):
    """Rising `cost`, falling `raised` error; each with the state and the label that it comes from."""

    cost: NDArray[np.int64]
    raised: NDArray[np.float64]
    state: NDArray[np.int32]
    label: NDArray[np.int32]


class Front:
    """All plans of a run that are best for their cost, cheapest first. `cost_limit` and `error_limit` leave out what
    costs or errs more: the search is the faster for it."""

    def __init__(
        self, model: ErrorModel, costs: Costs, cost_limit: int | None = None, error_limit: float | None = None
    ) -> None:
        if len(costs.partial) != model.num_budgets:
            raise ValueError(f"{len(costs.partial)} costs for {model.num_budgets} budgets of a partial step")
        self._model = model
        self._costs = costs
        # A reused step is the least that every step costs: what a computed one costs beyond it is what counts.
        self._floor = costs.reuse * model.num_steps
        self._cost_limit = np.iinfo(np.int64).max if cost_limit is None else cost_limit - self._floor
        self._raised_limit = np.inf if error_limit is None else error_limit**model.power
        self._states: list[State] = []
        self._labels: list[Labels] = []
        self._at: list[list[int]] = [[] for _ in range(model.num_steps)]
        self.ends = self._search()

    def __len__(self) -> int:
        return len(self.ends.cost)

    @property
    def costs(self) -> list[int]:
        return [int(cost) + self._floor for cost in self.ends.cost]

    @property
    def errors(self) -> list[float]:
        return [self._model.error(float(raised)) for raised in self.ends.raised]

    def plan(self, index: int) -> Plan:
        """The plan at that point of the front."""
        kinds: list[Kind] = [Kind(Compute.REUSE)] * self._model.num_steps
        labels, at, end = self.ends, index, self._model.num_steps
        while labels.state[at] >= 0:
            number, at = int(labels.state[at]), int(labels.label[at])
            labels, state = self._labels[number], self._states[number]
            kinds[state.j] = FULL if state.kind < 0 else Kind(Compute.PARTIAL, state.kind)
            order = self._model.order(state.i, state.j, end)
            kinds[state.j + 1 : end] = [Kind(Compute.REUSE, order=order)] * (end - state.j - 1)
            end = state.j
        return Plan(tuple(kinds), self.errors[index], self.costs[index])

    def best(self) -> Plan | None:
        """The plan with the least error within the limits."""
        return self.plan(len(self) - 1) if len(self) else None

    def cheapest(self) -> Plan | None:
        """The plan with the least cost within the limits."""
        return self.plan(0) if len(self) else None

    def _search(self) -> Labels:
        start = Labels(
            np.array([self._costs.full - self._costs.reuse]),
            np.zeros(1),
            np.full(1, -1, np.int32),
            np.zeros(1, np.int32),
        )
        self._add(State(0, -1, 0, -1), self._pruned([start]))
        ends: list[Labels] = []
        for j in range(self._model.num_steps):
            for k in range(j + 1, min(j + self._model.reach + 1, self._model.num_steps) + 1):
                self._extend(j, k, ends)
        return self._pruned(ends)

    def _extend(self, j: int, k: int, ends: list[Labels]) -> None:
        """From every state at the computed step j to the next computed step k, or to the end."""
        model, full = self._model, []
        is_end = k == model.num_steps
        by_full: dict[int, list[Labels]] = {}
        for number in sorted(self._at[j], key=self._states.__getitem__):
            state, labels = self._states[number], self._labels[number]
            if not len(labels.cost):
                continue
            added = model.reused(state.i, j, k)
            if state.kind >= 0:
                added += model.missed(state.kind, state.f, j, k)
            step = Labels(
                labels.cost,
                labels.raised + added,
                np.full(len(labels.cost), number, np.int32),
                np.arange(len(labels.cost), dtype=np.int32),
            )
            by_full.setdefault(state.f, []).append(step)
            full.append(step._replace(raised=step.raised + model.drifted(state.f, k)))
        if is_end:
            ends += full
            return
        self._add(State(k, j, k, -1), self._pruned(full, self._costs.full - self._costs.reuse))
        for f, labels_of in by_full.items():
            if k - f > model.max_age:
                continue
            merged = self._pruned(labels_of)
            for budget, cost in enumerate(self._costs.partial):
                self._add(State(f, j, k, budget), self._pruned([merged], cost - self._costs.reuse))

    def _add(self, state: State, labels: Labels) -> None:
        if len(labels.cost):
            self._at[state.j].append(len(self._states))
            self._states.append(state)
            self._labels.append(labels)

    def _pruned(self, parts: Sequence[Labels], cost: int = 0) -> Labels:
        """What is best for its cost among the parts, with `cost` added; the first of equals."""
        if not parts:
            empty = np.zeros(0, np.int32)
            return Labels(np.zeros(0, np.int64), np.zeros(0), empty, empty)
        costs = np.concatenate([part.cost for part in parts]) + cost
        raised = np.concatenate([part.raised for part in parts])
        order = np.lexsort((np.arange(len(costs)), raised, costs))
        order = order[(costs[order] <= self._cost_limit) & (raised[order] <= self._raised_limit)]
        order = order[np.isfinite(raised[order])]
        least = np.minimum.accumulate(raised[order]) if len(order) else raised[order]
        first = np.ones(len(order), bool)
        first[1:] = raised[order][1:] < least[:-1]
        order = order[first]
        origin = np.concatenate([part.state for part in parts])
        label = np.concatenate([part.label for part in parts])
        return Labels(costs[order], raised[order], origin[order], label[order])
