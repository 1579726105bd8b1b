"""Forecasts of what HetCache does not compute, beside a slow one: token by token, each from its own anchors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hetcache_runs import hetcache_session, run

from diffsynth_patches.apply import patched
from hetcache.core.drift import IDENTITY
from hetcache.core.flops import partial_step_flops
from hetcache.core.lead import Planned
from hetcache.core.session import CacheSession
from hetcache.core.store import FeatureStore
from hetcache.core.time_curve import Powers, TimeCurve, forecast_weights
from hetcache.core.tokens import classify
from hetcache.core.vocabulary import Branch, Compute, Decision, Schedule, Step
from hetcache.method.config import HetCacheConfig
from hetcache.method.forecast import Anchors, History, anchor_bytes
from hetcache.method.hetcache import ANCHORS, CompactTokens
from hetcache.method.plan import noise_shares, plan_hetcache
from hetcache.method.selector import TokenSelector

FORECAST_KV = {"context_kv": "forecast"}
STEPS = 9
TIMESTEPS = [1000 * (1 - i / STEPS) ** 0.5 for i in range(STEPS)]
CURVE = TimeCurve(
    tuple(TIMESTEPS), tuple((math.sin(i / 3), math.cos(i / 4), 0.02 * i * i) for i in range(STEPS)), ridge=1e-6
)


def step(index: int) -> Step:
    return Step(index, STEPS, TIMESTEPS[index])


class Kept:
    """A history with anchors of its own."""

    def __init__(self, order, axis):
        self.store = FeatureStore()
        self.anchors = Anchors(self.store, ANCHORS, order, axis)
        self.history = History(self.store, ("dit", 3, "v"), self.anchors)

    def keep(self, step, value_BND):
        self.history.keep(value_BND)
        self.anchors.push(step, value_BND.shape[1], value_BND.device)

    def keep_rows(self, step, rows_A, value_BAD):
        self.history.keep_rows(rows_A, value_BAD)
        self.anchors.push_rows(step, rows_A)

    def at(self, step, order):
        return self.history.at(step, order)


def slow_forecast(kept, axis, order, index):
    """One token's value at step `index` from its (step, value) pairs, the oldest first."""
    anchors = kept[-order - 1 :][::-1]
    weights = forecast_weights(axis, [TIMESTEPS[i] for i, _ in anchors], TIMESTEPS[index])
    value = anchors[0][1].clone()
    for weight, (_, newer), (_, older) in zip(weights, anchors, anchors[1:], strict=False):
        value += weight * (newer - older)
    return value


@pytest.mark.parametrize("axis", [Powers(), CURVE], ids=["sigma", "calibrated"])
@pytest.mark.parametrize("order", [0, 1, 2])
def test_each_token_is_forecast_from_its_own_anchors(axis, order):
    generator = torch.Generator().manual_seed(order)
    num_tokens, history, kept = 11, Kept(order, axis), None
    for index, rows in enumerate([None, [1, 4, 5], [4, 10], None, [0, 1], [1, 4], None, [4, 9], [2]]):
        if index:
            for lower in range(order + 1):
                found = history.at(step(index), lower)
                expected = torch.stack([slow_forecast(own, axis, lower, index) for own in kept], dim=1)
                torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        every = torch.randn(2, num_tokens, 3, generator=generator, dtype=torch.float64)
        if rows is None:
            history.keep(step(index), every.clone())
            kept = kept or [[] for _ in range(num_tokens)]
        else:
            history.keep_rows(step(index), torch.tensor(rows), every[:, rows])
        for row in range(num_tokens) if rows is None else rows:
            kept[row].append((index, every[:, row]))


@pytest.mark.parametrize("order", [0, 1, 2])
def test_without_a_calibration_a_polynomial_of_its_order_in_sigma_is_forecast_exactly(order):
    factors = torch.randn(order + 1, 1, 5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = [sum(each * (t / 1000) ** power for power, each in enumerate(factors)) for t in TIMESTEPS]
    history = Kept(order, Powers())
    for index in (0, 2, 3)[: order + 1]:
        history.keep(step(index), values[index])
    for index in range(4, STEPS):
        torch.testing.assert_close(history.at(step(index), order), values[index], rtol=1e-6, atol=1e-7)


def test_what_moves_along_the_calibrated_curve_is_forecast_exactly_where_anchors_span_it():
    """Two dimensions of time and three anchors: the straight line in sigma misses, the curve does not."""
    curve = TimeCurve(CURVE.timesteps, tuple(point[:2] for point in CURVE.points), ridge=1e-12)
    coefficients = torch.randn(3, 1, 6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    values = [coefficients[0] + p[0] * coefficients[1] + p[1] * coefficients[2] for p in curve.points]
    errors = {}
    for name, axis in (("curve", curve), ("sigma", Powers())):
        history = Kept(2, axis)
        for index in (0, 2, 4):
            history.keep(step(index), values[index])
        errors[name] = (history.at(step(7), 2) - values[7]).norm() / values[7].norm()
    assert errors["curve"] < 1e-6 < 0.01 < errors["sigma"]


@pytest.mark.parametrize("order", [0, 1, 2])
def test_a_history_keeps_what_it_says(order):
    history, expected = Kept(order, Powers()), (order + 1) * 2 * 7 * 5 * 4 + anchor_bytes(order, 7)
    for index in range(4):
        history.keep(step(index), torch.randn(2, 7, 5))
        assert history.store.nbytes == expected
    history.keep_rows(step(4), torch.tensor([1, 2]), torch.randn(2, 2, 5))
    assert history.store.peak_nbytes == expected


def test_a_time_curve_is_linear_between_its_points_and_constant_outside():
    curve = TimeCurve((900.0, 500.0, 100.0), ((0.0, 1.0), (2.0, 1.0), (3.0, 5.0)))
    assert [curve.at(t, 1) for t in (950, 900, 700, 500, 200, 50)] == [
        (0.0, 1.0),
        (0.0, 1.0),
        (1.0, 1.0),
        (2.0, 1.0),
        (2.75, 4.0),
        (3.0, 5.0),
    ]
    for timesteps, points in (((1.0, 2.0), ((0.0,), (1.0,))), ((2.0, 1.0), ((0.0,), (1.0, 2.0))), ((1.0,), ((0.0,),))):
        with pytest.raises(ValueError, match="time curve"):
            TimeCurve(timesteps, points)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("context_kv", ["cached", "forecast", "sampled"])
def test_partial_steps_of_all_tokens_equal_full_steps_at_any_order(pipe, call_kwargs, mask_THW, order, context_kv):
    everything = {"context_ratio": 1.0, "margin_ratio": 1.0, "context_kv": context_kv, "forecast": order}
    full = run(pipe, call_kwargs, hetcache_session(mask_THW, "FFFFRF", **everything))
    partial = run(pipe, call_kwargs, hetcache_session(mask_THW, "FPPPRF", **everything))
    torch.testing.assert_close(partial, full, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(full, run(pipe, call_kwargs, hetcache_session(mask_THW, "FFFFRF")), rtol=1e-5, atol=1e-5)


def spied(session, seen):
    """The session, whose managers note what they keep and what they return without computing it."""
    make = session._make_manager

    def watching(branch, schedule):
        manager = make(branch, schedule)
        commit, reuse, merge = manager.commit, manager.reuse, manager.merge

        def spied_commit(step, decision, hidden, x_out, velocity):
            if decision.compute is Compute.FULL:
                seen.append((branch, step, slice(None), x_out - hidden.x_BND, None))
            commit(step, decision, hidden, x_out, velocity)

        def spied_merge(step, hidden, x_BAD, decision):
            x = merge(step, hidden, x_BAD, decision)
            if decision.plan is not None:
                rows = decision.plan.rows_A
                seen.append((branch, step, rows, x_BAD - hidden.x_BND[:, rows], x - hidden.x_BND))
            return x

        def spied_reuse(step, hidden):
            x = reuse(step, hidden)
            seen.append((branch, step, [], None, x - hidden.x_BND))
            return x

        manager.commit, manager.merge, manager.reuse = spied_commit, spied_merge, spied_reuse
        return manager

    session._make_manager = watching
    return session


@pytest.mark.parametrize("order", [0, 1, 2])
def test_reused_and_partial_steps_of_a_run_return_each_tokens_forecast(pipe, call_kwargs, mask_THW, order):
    seen = []
    run(pipe, call_kwargs, spied(hetcache_session(mask_THW, "FPFRPR", forecast=order, context_ratio=0.2), seen))
    for branch in Branch:
        kept, checked = [[] for _ in range(72)], 0
        for _, now, rows, value, returned in (each for each in seen if each[0] is branch):
            computed = range(72) if isinstance(rows, slice) else [int(row) for row in rows]
            for row in set(range(72)) - set(computed):
                if not kept[row]:
                    continue
                anchors = kept[row][-order - 1 :][::-1]
                weights = forecast_weights(Powers(), [t for t, _ in anchors], now.timestep)
                expected = anchors[0][1] + sum(
                    w * (new - old) for w, (_, new), (_, old) in zip(weights, anchors, anchors[1:], strict=False)
                )
                torch.testing.assert_close(returned[:, row], expected, rtol=1e-3, atol=2e-4)
                checked += 1
            for position, row in enumerate(computed):
                kept[row].append((now.timestep, value[:, position]))
        assert checked > 72


def planned_session(mask_THW, decisions, **settings):
    config = HetCacheConfig(margin_width=1, **settings)
    selector = TokenSelector(classify(torch.from_numpy(mask_THW), 1, 0), config.selection())
    return CacheSession(lambda branch, schedule: CompactTokens(config, selector, Planned(decisions), branch))


def test_a_plan_chooses_order_and_context_step_by_step(pipe, call_kwargs, mask_THW):
    letters = [Compute(letter) for letter in "FFRPRF"]
    plain = [Decision(compute, "planned") for compute in letters]
    chosen = [Decision(compute, "planned", order=0) for compute in letters]
    first_order = run(pipe, call_kwargs, planned_session(mask_THW, plain, forecast=1))
    repeated = run(pipe, call_kwargs, planned_session(mask_THW, plain, forecast=0))
    assert torch.equal(run(pipe, call_kwargs, planned_session(mask_THW, chosen, forecast=1)), repeated)
    assert not torch.equal(first_order, repeated)

    wide = [Decision(compute, "planned", context_ratio=0.5) for compute in letters]
    session = planned_session(mask_THW, wide, forecast=1)
    with patched(pipe, session) as forward:
        pipe(**{**call_kwargs, "progress_bar_cmd": session.steps})
    config = HetCacheConfig(margin_width=1)
    selector = TokenSelector(classify(torch.from_numpy(mask_THW), 1, 0), config.selection())
    record = session.trace.of(Branch.COND)[3]
    assert record.num_active == selector.count_active(0.5) > selector.num_active
    assert record.flops == partial_step_flops(forward.shape, 72, record.num_active, config.keeps_kv)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(
    "settings",
    [{}, {"context_kv": "cached"}, FORECAST_KV, {**FORECAST_KV, "partial_vace": "hints"}, {"whole_steps_only": True}],
    ids=str,
)
def test_kept_bytes_equal_the_prediction(pipe, call_kwargs, mask_THW, order, settings):
    settings = {"context_kv": "sampled", **settings, "forecast": order}
    letters = "FFRFRF" if "whole_steps_only" in settings else "FPRPRF"
    session = hetcache_session(mask_THW, letters, **settings)
    with patched(pipe, session) as forward:
        pipe(**{**call_kwargs, "progress_bar_cmd": session.steps})
    assert session.cache_bytes == 2 * HetCacheConfig(**settings).cache_bytes(forward.shape, 72, 4)


def test_a_steps_change_counts_by_its_share_of_the_noise():
    schedule = Schedule((1000.0, 900.0, 700.0, 400.0), {"e0": (0.0, 0.1, 0.1, 0.1)})
    assert noise_shares(schedule.timesteps) == pytest.approx([0.4, 0.8, 1.2, 1.6])
    changes = []
    for weight in (0.0, 0.5, 1.0):
        config = HetCacheConfig(
            cache_thresh=9.0, decision_rule="forecast", last_full=False, refresh=9.0, sigma_weight=weight
        )
        changes.append([decision.signal for decision in plan_hetcache(schedule, config, IDENTITY)[1:]])
    assert changes[0] == pytest.approx([0.1, 0.2, 0.3])
    assert changes[1] == pytest.approx(list(np.cumsum([0.1 * share**0.5 for share in (0.8, 1.2, 1.6)])))
    assert changes[2] == pytest.approx([0.08, 0.2, 0.36])


def test_a_forecast_output_of_whole_steps_lies_on_the_line_of_the_last_two(pipe, call_kwargs, mask_THW):
    session, outputs, timesteps = hetcache_session(mask_THW, "FFRRRF", whole_steps_only=True, forecast=1), [], []
    with patched(pipe, session) as forward:
        original = forward.__call__

        def spy(**kwargs):
            velocity = original(**kwargs)
            if kwargs["positive"]:
                outputs.append(velocity)
                timesteps.append(float(kwargs["timestep"]))
            return velocity

        pipe.model_fn = spy
        pipe(**{**call_kwargs, "progress_bar_cmd": session.steps})
    for index in (2, 3, 4):
        slope = (outputs[1] - outputs[0]) / (timesteps[1] - timesteps[0])
        expected = outputs[1] + slope * (timesteps[index] - timesteps[1])
        torch.testing.assert_close(outputs[index], expected, rtol=1e-4, atol=1e-4)
