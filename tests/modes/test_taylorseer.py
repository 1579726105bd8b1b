"""TaylorSeer: the series against an oracle from values, the plan against a counter, the forecast on toy blocks."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace

import pytest
import torch
from replay import ToyOps, build, context, record, replay

from baselines import taylorseer
from baselines.taylorseer import MODULES, ModuleForecast, TaylorSeerConfig, plan_taylorseer
from hetcache.core.drift import ChangeCurve, decision_string
from hetcache.core.flops import ModelShape
from hetcache.core.lead import Planned
from hetcache.core.mode import RunContext
from hetcache.core.store import FeatureStore
from hetcache.core.taylor import TaylorSeries
from hetcache.core.vocabulary import Branch, Compute, Grid, Hidden, Schedule, Step
from hetcache.modes.planning import find_setting, plan_run

KEY = ("stack", 0, "residual")


def schedule(num_steps: int) -> Schedule:
    return Schedule(tuple(1000.0 * (num_steps - i) / num_steps for i in range(num_steps)))


def hidden(x: float) -> Hidden:
    empty = torch.zeros(1)
    return Hidden(torch.full((1, 1, 1), x, dtype=torch.float64), empty, empty, empty, empty, Grid(1, 1, 1))


def difference(order: int, computed: list[tuple[int, float]]) -> float | None:
    """dF^order at the last of the computed (step, value), from its definition; None before there are enough."""
    if order == 0:
        return computed[-1][1] if computed else None
    new, old = difference(order - 1, computed), difference(order - 1, computed[:-1])
    return None if new is None or old is None else (new - old) / (computed[-1][0] - computed[-2][0])


def oracle(order: int, computed: list[tuple[int, float]], step: int) -> float:
    """The published sum, every difference anew."""
    differences = itertools.takewhile(lambda d: d is not None, (difference(i, computed) for i in range(order + 1)))
    return sum(d * (step - computed[-1][0]) ** i / math.factorial(i) for i, d in enumerate(differences))


@pytest.mark.parametrize("order", [0, 1, 2])
def test_the_series_forecasts_as_the_oracle(order):
    values = random.Random(order)
    store = FeatureStore()
    series, computed = TaylorSeries(store, order), []
    for step in range(30):
        if step in (0, 1, 5, 6, 9, 17, 22):
            computed.append((step, values.uniform(-1, 1)))
            series.put(KEY, step, torch.tensor([computed[-1][1]], dtype=torch.float64))
        assert series.at(KEY, step).item() == pytest.approx(oracle(order, computed, step), abs=1e-12)
    assert store.peak_nbytes == (order + 1) * 8


def test_order_1_is_exact_on_a_line_and_order_2_keeps_the_published_divisor():
    """On i^2, computed at 0, 2, 4: d1 = 6, d2 = (6 - 2) / 2 = 2, so at 6 it is 16 + 12 + 4 = 32 and not 36."""
    store = FeatureStore()
    line, square = TaylorSeries(store, 1), TaylorSeries(store, 2)
    for i in (0, 2, 4):
        line.put(("a", 0, "x"), i, torch.tensor(3.0 * i + 1))
        square.put(("b", 0, "x"), i, torch.tensor(float(i * i)))
    assert line.at(("a", 0, "x"), 9).item() == 28.0
    assert square.at(("b", 0, "x"), 6).item() == 32.0
    with pytest.raises(KeyError):
        line.at(("a", 1, "x"), 9)


def counter_oracle(num_steps: int, interval: int, first: int, with_last: bool) -> str:
    """The release's counter: it is set to zero at a computed step, and at interval - 1 the next one is computed."""
    letters, counter = "", 0
    for i in range(num_steps):
        if i < first or counter == interval - 1 or (with_last and i == num_steps - 1):
            letters, counter = letters + "F", 0
        else:
            letters, counter = letters + "R", counter + 1
    return letters


@pytest.mark.parametrize("num_steps", [1, 2, 7, 50])
@pytest.mark.parametrize("interval", [1, 2, 5, 60])
@pytest.mark.parametrize("first, with_last", [(1, False), (3, True)])
def test_the_interval_plan_counts_as_the_oracle(num_steps, interval, first, with_last):
    config = TaylorSeerConfig(taylorseer_interval=interval, taylorseer_first=first, taylorseer_last=with_last)
    plan = plan_taylorseer(schedule(num_steps), config, None)
    assert decision_string(plan) == counter_oracle(num_steps, interval, first, with_last)


@pytest.mark.parametrize("thresh", [0.0, 0.1, 0.35, 100.0])
def test_the_drift_plan_adds_up_the_calibrated_change(thresh):
    values = random.Random(3)
    changes = [0.0, *(values.uniform(0.0, 0.1) for _ in range(29))]
    run = schedule(30)
    curve = ChangeCurve(run.timesteps, tuple(itertools.accumulate(changes)))
    letters, change = "", 0.0
    for i in range(30):
        change += changes[i]
        computed = i in (0, 29) or change >= thresh
        letters, change = (letters + "F", 0.0) if computed else (letters + "R", change)
    config = TaylorSeerConfig(taylorseer_plan="drift", taylorseer_thresh=thresh)
    assert decision_string(plan_taylorseer(run, config, curve)) == letters


def test_a_reused_step_adds_the_forecast_of_the_residual():
    """The stack adds 10 + 3 i; computed at 0, 2 and 4, the forecast at 3 and at 5 is what it would add."""
    config = TaylorSeerConfig(taylorseer_interval=2, taylorseer_last=False)
    make = taylorseer.MODE.build(config, RunContext.of(None, "none"))
    manager, letters = make(Branch.COND, schedule(6)), ""
    for index in range(6):
        step, h = Step(index, 6, 0.0), hidden(100.0 * index)
        decision = manager.decide(step, h)
        letters += decision.compute.value
        if decision.compute is Compute.FULL:
            manager.commit(step, decision, h, h.x_BND + 10 + 3 * index, h.x_BND)
        else:
            expected = 10 + 3 * index if index > 1 else 10
            assert manager.reuse(step, h).item() == 100.0 * index + expected
    assert letters == "FRFRFR"
    assert manager.cache_bytes == 2 * 8
    manager.release()
    assert manager.store.nbytes == 0 and manager.cache_bytes == 2 * 8


def test_module_by_module_the_outputs_are_forecast_and_no_module_runs():
    """The toy block gives x(1 + 1)(1 + 10)(1 + 100). Computed at x = 1 and x = 2, its modules' outputs two steps on are
    those of x = 4, added to whatever comes in."""
    config = TaylorSeerConfig(taylorseer_level="module", taylorseer_interval=2, taylorseer_first=3)
    plan = plan_taylorseer(schedule(9), config, None)
    manager = ModuleForecast(config, Planned(plan), Branch.COND)

    def at(index: int, x: float, stack: str = "dit", layer: int = 0):
        ops = ToyOps(stack, layer, 8)
        decision = manager.decide(Step(index, 9, 0.0), hidden(x))
        y = manager.run_block(ops, hidden(x).x_BND, decision)
        return y.item(), ops.calls

    for layer, factor in ((0, 1.0), (1, 5.0)):
        assert at(1, factor, "vace", layer) == (2222.0 * factor, list(MODULES))
        at(2, 2 * factor, "vace", layer)
    for layer, factor in ((0, 1.0), (1, 5.0)):
        y, calls = at(3, 7.0, "vace", layer)
        assert y == 7.0 + 3 * factor * (1 + 20 + 2200) and calls == []
    assert manager.cache_bytes == 2 * 2 * 3 * 8


@pytest.fixture(scope="module")
def recording(pipe, call_kwargs, mask_THW):
    return record(pipe, call_kwargs, mask_THW, 9)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_module_level_on_a_pipeline(recording, order):
    settings = {"taylorseer_level": "module", "taylorseer_order": order, "taylorseer_interval": 3}
    mode, (_, session) = taylorseer.MODE, replay(recording, build("taylorseer", recording, **settings))
    assert session.trace.decisions(Branch.COND) == session.trace.decisions(Branch.UNCOND) == "FBBFBBFBF"
    forecasts = [r for r in session.trace.records if r.compute is Compute.BLOCKS]
    assert all(r.dit_blocks == r.vace_blocks == 0 for r in forecasts)
    shape = shape_of(recording)
    plan = plan_run(mode, mode.config(**settings), context(recording), session.schedule, shape)
    assert plan.flops_run == session.trace.work.flops
    bytes_per_value = recording.calls[Branch.COND, 0]["latents"].element_size()
    expected = mode.cache_bytes(mode.config(**settings), shape, recording.classes.num_tokens, bytes_per_value)
    assert session.cache_bytes == 2 * expected
    assert expected == (order + 1) * 3 * 6 * recording.classes.num_tokens * shape.dim * bytes_per_value


def test_a_forecast_of_order_0_is_plain_reuse_and_of_order_1_another(recording):
    runs = {
        (level, order): replay(
            recording, build("taylorseer", recording, taylorseer_level=level, taylorseer_order=order)
        )
        for level in ("stack", "module")
        for order in (0, 1)
    }
    steps = [(branch, index) for branch in Branch for index in range(9)]
    outputs = {key: torch.stack([run[0][step] for step in steps]) for key, run in runs.items()}
    stack, again = outputs["stack", 0], outputs["module", 0]
    assert not torch.equal(stack, again), "fresh gates"
    assert not torch.equal(stack, outputs["stack", 1])
    # 5 steps in turn of the first are computed in full, whatever is forecast between them.
    computed = [i for i, (_, index) in enumerate(steps) if index in (0, 5, 8)]
    assert all(torch.equal(stack[computed], each[computed]) for each in outputs.values())


def shape_of(recording) -> ModelShape:
    from diffsynth_patches.apply import patched
    from hetcache.core.session import CacheSession

    session = CacheSession(build("baseline", recording))
    with torch.no_grad(), patched(recording.pipe, session) as forward:
        next(session.steps(recording.timesteps))
        forward(**recording.calls[Branch.COND, 0])
    return forward.shape


def test_a_target_speedup_turns_the_dial_of_the_chosen_plan(recording):
    run = schedule(50)
    curve = ChangeCurve(run.timesteps, tuple(0.01 * i for i in range(50)))
    toy = replace(context(recording), calibration=lambda: type("Toy", (), {"estimator": lambda self: curve})())
    shape = shape_of(recording)
    interval, _ = find_setting(taylorseer.MODE, TaylorSeerConfig(), 4.0, toy, run, shape)
    assert (interval.taylorseer_interval, interval.taylorseer_thresh) == (5, TaylorSeerConfig().taylorseer_thresh)
    by_drift = TaylorSeerConfig(taylorseer_plan="drift")
    drift, plan = find_setting(taylorseer.MODE, by_drift, 4.0, toy, run, shape)
    assert drift.taylorseer_interval == by_drift.taylorseer_interval
    assert drift.taylorseer_thresh != by_drift.taylorseer_thresh and 4.0 <= plan.speedup < 4.75


def test_what_is_given_up_for_a_budget_is_the_modules():
    mode, shape = taylorseer.MODE, ModelShape(8, 16, 4, 2, 5)
    config = TaylorSeerConfig(taylorseer_level="module")
    (_, smaller), *rest = mode.lighter(config)
    assert not rest and smaller == TaylorSeerConfig()
    assert mode.cache_bytes(config, shape, 10, 2) == 18 * mode.cache_bytes(smaller, shape, 10, 2) == 18 * 2 * 10 * 8 * 2


@pytest.mark.parametrize(
    "bad, message",
    [
        ({"taylorseer_order": 3}, "--taylorseer-order must be 0 or 1 or 2"),
        ({"taylorseer_level": "layer"}, "--taylorseer-level must be stack or module"),
        ({"taylorseer_plan": "none"}, "--taylorseer-plan must be interval or drift"),
        ({"taylorseer_interval": 0}, "--taylorseer-interval must be at least 1"),
        ({"taylorseer_first": 0}, "--taylorseer-first must be at least 1"),
        ({"taylorseer_thresh": -0.1}, "--taylorseer-thresh must not be negative"),
    ],
)
def test_bad_settings_name_their_flag(bad, message):
    with pytest.raises(ValueError, match=message):
        TaylorSeerConfig(**bad)
