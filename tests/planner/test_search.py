"""The exact plan against all plans there are, one by one."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace

import numpy as np
import pytest

from hetcache.core.vocabulary import Compute
from hetcache.planner.model import FULL, ErrorModel, Kind
from hetcache.planner.search import Costs, Front


def random_model(steps, reach, budgets, age, power, seed, back=3, values=None):
    """`values`: draw from these few, so that there are ties."""
    rng = np.random.default_rng(seed)
    draw = (lambda *shape: rng.random(shape)) if values is None else (lambda *shape: rng.choice(values, shape))
    return ErrorModel(
        draw(steps),
        draw(steps, back + 1, reach),
        draw(budgets, age, steps),
        draw(steps, steps + 1),
        power,
    )


def slow_error(model, kinds):
    """The error model's docstring, word by word."""
    steps = len(kinds)
    computed = [t for t in range(steps) if kinds[t].compute is not Compute.REUSE]
    total = 0.0
    for n, j in enumerate(computed):
        k = computed[n + 1] if n + 1 < len(computed) else steps
        i = computed[n - 1] if n else None
        if k > j + 1:
            errors = [model.segments[j, 0, k - j - 2]]
            if i is not None and j - i < model.segments.shape[1]:
                errors.append(model.segments[j, j - i, k - j - 2])
            total += min(errors) ** model.power
        f = max(t for t in range(j + 1) if kinds[t].compute is Compute.FULL)
        if kinds[j].compute is Compute.PARTIAL:
            lasts = sum(model.weights[j:k])
            total += (lasts * model.partial[kinds[j].budget, j - f - 1, j]) ** model.power
        if k == steps or kinds[k].compute is Compute.FULL:
            total += model.context[f, k] ** model.power
    return total ** (1 / model.power)


def all_plans(model):
    """Every plan that the model can tell of, without the orders of its forecasts."""
    choices = [FULL, Kind(Compute.REUSE), *(Kind(Compute.PARTIAL, b) for b in range(model.num_budgets))]
    for rest in itertools.product(choices, repeat=model.num_steps - 1):
        kinds = (FULL, *rest)
        letters = "".join(kind.compute.value for kind in kinds)
        ages = [len(run) for run in letters.split("F")[1:]]
        reused = max(len(run) for run in letters.replace("P", "F").split("F"))
        partial_age = max((t - letters.rindex("F", 0, t) for t, c in enumerate(letters) if c == "P"), default=0)
        if reused <= model.reach and partial_age <= model.max_age and ages:
            yield kinds


def tie_key(kinds):
    """From the end backwards: the last computed step, the full one before it, the computed one before it, its kind."""
    computed = [t for t, kind in enumerate(kinds) if kind.compute is not Compute.REUSE]
    key = []
    for n in reversed(range(len(computed))):
        j = computed[n]
        f = max(t for t in computed[: n + 1] if kinds[t].compute is Compute.FULL)
        budget = -1 if kinds[j].compute is Compute.FULL else kinds[j].budget
        key.append((j, f, computed[n - 1] if n else -1, budget))
    return key


def without_orders(kinds):
    return tuple(Kind(kind.compute, kind.budget) for kind in kinds)


def total_cost(costs, kinds):
    return sum(costs.of(kind) for kind in kinds)


CASES = [(5, 4, 2, 4, 2.0), (6, 3, 1, 3, 1.0), (6, 5, 2, 5, 1.5), (7, 2, 1, 2, 2.0)]


@pytest.mark.parametrize("steps, reach, budgets, age, power", CASES)
@pytest.mark.parametrize("seed", range(4))
def test_every_point_of_the_front_is_the_best_of_all_plans(steps, reach, budgets, age, power, seed):
    model = random_model(steps, reach, budgets, age, power, seed)
    costs = Costs(100, 1, (37, 23)[:budgets])
    plans = [(total_cost(costs, kinds), slow_error(model, kinds)) for kinds in all_plans(model)]
    front = Front(model, costs)
    for index in range(len(front)):
        plan = front.plan(index)
        assert plan.error == pytest.approx(slow_error(model, plan.kinds), rel=1e-12)
        assert plan.error == pytest.approx(model.predict(plan.kinds), rel=1e-12)
        assert plan.cost == total_cost(costs, plan.kinds)
        assert tuple(model.ordered(without_orders(plan.kinds))) == plan.kinds
    for cost in sorted({cost for cost, _ in plans}):
        best = min(error for each, error in plans if each <= cost)
        reached = [error for each, error in zip(front.costs, front.errors, strict=True) if each <= cost]
        assert min(reached) == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_ties_are_settled_from_the_end_backwards(seed):
    model = random_model(6, 5, 2, 5, 1.0, seed, values=[0.0, 1.0])
    costs = Costs(4, 1, (2, 2))
    plans = list(all_plans(model))
    front = Front(model, costs)
    for index in range(len(front)):
        plan = front.plan(index)
        equals = [
            kinds for kinds in plans if total_cost(costs, kinds) == plan.cost and slow_error(model, kinds) == plan.error
        ]
        assert without_orders(plan.kinds) == min(equals, key=tie_key)


def test_more_never_predicts_worse_and_the_limits_give_the_same_plans():
    model = random_model(20, 8, 2, 10, 2.0, 5)
    costs = Costs(1000, 3, (300, 450))
    front = Front(model, costs)
    assert front.costs == sorted(set(front.costs))
    assert front.errors == sorted(front.errors, reverse=True)
    for index in (2, len(front) // 2, len(front) - 1):
        plan = front.plan(index)
        assert Front(model, costs, cost_limit=plan.cost).best() == plan
        assert Front(model, costs, error_limit=plan.error * (1 + 1e-12)).cheapest() == plan
    assert Front(model, costs, cost_limit=front.costs[0] - 1).best() is None
    assert Front(model, costs, error_limit=-1e-9 if front.errors[-1] == 0 else front.errors[-1] / 2).cheapest() is None


def test_the_better_order_is_chosen_by_segment_and_equals_are_order_0():
    steps = 6
    segments = np.full((steps, 5, 4), 2.0)
    segments[1, 1, 1] = 1.0
    segments[4, 0, 0] = 0.5
    model = ErrorModel(np.ones(steps), segments, np.ones((1, 4, steps)), np.zeros((steps, steps + 1)), 1.0)
    plan = Front(model, Costs(10, 1, (1000,)), cost_limit=3 * 10 + 3).best()
    assert "".join(kind.compute.value for kind in plan.kinds) == "FFRRFR"
    assert [kind.order for kind in plan.kinds] == [0, 0, 1, 1, 0, 0]


def test_what_the_model_cannot_tell_of_is_refused():
    model = random_model(6, 2, 1, 2, 2.0, 0)
    reuse, partial = Kind(Compute.REUSE), Kind(Compute.PARTIAL)
    for kinds, words in (
        ([reuse] * 6, "starts with a full one"),
        ([FULL, reuse, reuse, reuse, FULL, FULL], "steps 1 to 3 are reused, and 2 in a row"),
        ([FULL, reuse, reuse, partial, FULL, FULL], "step 3 is partial, 3 steps after"),
    ):
        with pytest.raises(ValueError, match=words):
            model.predict(kinds)
    with pytest.raises(ValueError, match="2 costs for 1 budgets"):
        Front(model, Costs(2, 1, (1, 1)))
    with pytest.raises(ValueError, match="partial"):
        ErrorModel(np.ones(3), np.ones((3, 2, 2)), np.ones((1, 1, 4)), np.zeros((3, 4)))


def test_fifty_steps_take_a_second_or_two():
    model = random_model(50, 12, 2, 16, 2.0, 1, back=12)
    model = replace(model, segments=model.segments * np.arange(1, 13))
    start = time.process_time()
    front = Front(model, Costs(1000, 1, (310, 520)), cost_limit=50 * 1000 // 3)
    assert len(front) > 10
    assert time.process_time() - start < 30  # on a busy machine; measured in docs/methods.md
