"""PAB, AdaCache and FastCache on toy blocks: their rules against oracles, what is reused against what is computed."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from replay import ToyOps

from baselines.adacache import CODEBOOKS, AdaCacheConfig, AdaRate, motion
from baselines.fastcache import BlockGate, FastCacheConfig, block_threshold, moving_tokens, saliency
from baselines.pab import Broadcast, PabConfig, plan_pab
from hetcache.core.lead import Planned
from hetcache.core.linear_maps import LinearMap, LinearMaps
from hetcache.core.residual import StackResidual
from hetcache.core.vocabulary import Branch, Compute, Grid, Hidden, Schedule, Step

GRID = Grid(3, 1, 2)


def schedule(num_steps: int, shift: float = 1.0) -> Schedule:
    sigmas = [1 - i / num_steps for i in range(num_steps)]
    return Schedule(tuple(1000 * shift * s / (1 + (shift - 1) * s) for s in sigmas))


def hidden(x: torch.Tensor) -> Hidden:
    empty = torch.zeros(1)
    return Hidden(x, empty, empty, empty, empty, GRID)


def column(*values: float) -> torch.Tensor:
    """Tokens of one channel, [1, N, 1]."""
    return torch.tensor(values, dtype=torch.float64).view(1, -1, 1)


def value(*args: float) -> torch.Tensor:
    return column(*args * (6 // len(args)))


# PAB


def test_pab_raw_window_at_shift_5_holds_21_of_50_steps():
    config = PabConfig(pab_timesteps="100-800", pab_self_range=2, pab_cross_range=5)
    plan = plan_pab(schedule(50, 5.0), config)
    inside = [i for i, d in enumerate(plan) if d.reason != "outside the window"]
    assert len(inside) == 21 and inside[0] == 28 and inside[-1] == 48
    fraction = plan_pab(schedule(50, 5.0), PabConfig())
    assert [i for i, d in enumerate(fraction) if d.reason != "outside the window"] == list(range(8, 43))


@pytest.mark.parametrize("shift, num_inside", [(1.0, 34), (3.0, 27), (5.0, 21), (8.0, 16), (16.0, 9)])
def test_pab_raw_window_moves_with_the_shift(shift, num_inside):
    plan = plan_pab(schedule(50, shift), PabConfig(pab_timesteps="100-800"))
    assert sum(d.reason != "outside the window" for d in plan) in (num_inside, num_inside + 1)


def pab_oracle(step: int, count: int, config: PabConfig, num_steps: int) -> set[str]:
    """A counter per module that advances at every forward."""
    inside = config.pab_window_start * num_steps <= step < config.pab_window_end * num_steps
    reach = {"self_attn": config.pab_self_range, "cross_attn": config.pab_cross_range, "mlp": config.pab_mlp_range}
    return {name for name, r in reach.items() if inside and count % r != 0}


@pytest.mark.parametrize("ranges", [(1, 1, 1), (2, 5, 1), (3, 4, 2), (7, 7, 7)])
def test_pab_broadcasts_as_the_oracle(ranges):
    config = PabConfig(*ranges)
    for i, decision in enumerate(plan_pab(schedule(40), config)):
        assert decision.cached_sublayers == pab_oracle(i, i, config, 40)
        assert decision.compute is (Compute.BLOCKS if decision.cached_sublayers else Compute.FULL)


def broadcast(config):
    return Broadcast(config, Planned(plan_pab(schedule(8), config)), Branch.COND)


def pab_step(manager, step, x, layer=0, stack="dit"):
    ops = ToyOps(stack, layer, 8)
    decision = manager.decide(Step(step, 8, 0.0), hidden(value(x)))
    y = manager.run_block(ops, value(x), decision)
    return y[0, 0, 0].item(), ops.calls


def test_pab_adds_cached_attention_and_computes_the_rest():
    """The toy block gives x(1 + 1)(1 + 10)(1 + 100) = 2222 x. With a cached self-attention output of 1 at x = 3 it
    is (3 + 1) 11 * 101 = 4444, and with a cached cross-attention output of 20 too it is (3 + 1 + 20) 101 = 2424."""
    config = PabConfig(pab_self_range=2, pab_cross_range=3, pab_window_start=0.0, pab_window_end=1.0)
    manager = broadcast(config)
    assert pab_step(manager, 0, 1.0) == (2222.0, ["self_attn", "cross_attn", "mlp"])
    assert pab_step(manager, 1, 3.0) == (2424.0, ["mlp"])
    assert pab_step(manager, 2, 3.0) == ((6 + 20) * 101, ["self_attn", "mlp"])
    assert pab_step(manager, 3, 1.0) == ((1 + 3) * 1111, ["cross_attn", "mlp"])
    assert manager.notes()["broadcasts"] == {"self_attn": 2, "cross_attn": 2, "mlp": 0}


def test_pab_keeps_outputs_per_stack_and_layer_and_only_what_is_used_next():
    manager = broadcast(PabConfig(pab_cross_range=1, pab_window_start=0.0, pab_window_end=1.0))
    assert pab_step(manager, 0, 1.0, 0)[0] == pab_step(manager, 0, 1.0, 0, "vace")[0] == 2222.0
    pab_step(manager, 0, 5.0, 1)
    assert [
        key in manager.store for key in (("dit", 0, "self_attn"), ("vace", 0, "self_attn"), ("dit", 0, "cross_attn"))
    ] == [True, True, False]
    assert pab_step(manager, 1, 3.0, 1)[0] == (3 + 5) * 1111
    assert pab_step(manager, 1, 3.0, 0)[0] == (3 + 1) * 1111


def test_pab_mlp_broadcast_is_for_the_first_dit_blocks():
    config = PabConfig(1, 1, pab_mlp_range=2, pab_mlp_blocks=2, pab_window_start=0.0, pab_window_end=1.0)
    manager = broadcast(config)
    for layer, stack, cached in ((1, "dit", True), (2, "dit", False), (0, "vace", False)):
        pab_step(manager, 0, 1.0, layer, stack)
        expected = 3 * 22 + 2200 if cached else 3 * 2222
        assert pab_step(manager, 1, 3.0, layer, stack)[0] == expected


# AdaCache


def ada_run(metric_values, config, num_steps, branch=Branch.COND, rate=None):
    """Drive one manager whose metric block sees x = metric_values[i] at step i: residual = attention = x."""
    manager = StackResidual(rate or AdaRate(config), branch)
    letters = ""
    for i in range(num_steps):
        x = value(*metric_values[i]) if isinstance(metric_values[i], tuple) else value(metric_values[i])
        h, step = hidden(x), Step(i, num_steps, 0.0)
        decision = manager.decide(step, h)
        letters += decision.compute.value
        if decision.compute is Compute.FULL:
            y = manager.run_block(ToyOps("dit", 0, 1), x, decision)
            torch.testing.assert_close(y, 2222 * x)
            manager.commit(step, decision, h, y, y)
    return letters, manager


def ada_oracle(values, codebook, num_steps):
    letters, cached, due = "", None, 0
    for i in range(num_steps):
        if i and i < due and i < num_steps - 2:
            letters += "R"
            continue
        letters += "F"
        if cached is not None:
            k = i - cached
            c = abs(values[cached] - values[i]) / abs(values[cached]) / k
            due = i + next((rate for key, rate in codebook if c < key), codebook[-1][1])
        cached = i
    return letters


@pytest.mark.parametrize("name", CODEBOOKS)
@pytest.mark.parametrize("growth", [0.0, 0.01, 0.1, 0.2, 0.5, 3.0])
def test_adacache_decides_as_the_oracle(name, growth):
    values = [(1 + growth) ** i + 0.3 * growth * math.sin(3 * i) for i in range(30)]
    letters, manager = ada_run(values, AdaCacheConfig(name), 30)
    assert letters == ada_oracle(values, CODEBOOKS[name].rates, 30)
    assert letters[0] == "F" and letters[-2:] == "FF"
    assert manager.notes()["host_syncs"] <= letters.count("F")


def test_adacache_skips_at_its_defaults():
    letters, _ = ada_run([1.0 + 0.01 * i for i in range(50)], AdaCacheConfig(), 50)
    assert letters.count("R") == 39
    assert letters.startswith("FFRRRRRFRRRRRF")


def test_adacache_other_branch_follows_the_leader():
    rate = AdaRate(AdaCacheConfig())
    lead, follow = (StackResidual(rate, branch) for branch in Branch)
    letters = {lead: "", follow: ""}
    for i in range(20):
        for manager, x in ((lead, value(1.0 + 0.01 * i)), (follow, value((-2.0) ** i))):
            step = Step(i, 20, 0.0)
            decision = manager.decide(step, hidden(x))
            letters[manager] += decision.compute.value
            if decision.compute is Compute.FULL:
                manager.commit(step, decision, hidden(x), manager.run_block(ToyOps(), x, decision), x)
    assert letters[lead] == letters[follow] and "R" in letters[lead]
    assert not torch.equal(lead.store.get("stack", 0, "residual"), follow.store.get("stack", 0, "residual"))


def test_adacache_stack_residual_equals_every_blocks_two_residuals():
    """On a skipped step the original adds each block's attention residual and its (cross + MLP) residual, and the
    cached hints, to the running hidden states; the stack's residual is their sum."""
    torch.manual_seed(0)
    x0, x1 = torch.randn(2, 1, 6, 4, dtype=torch.float64)
    hints = torch.randn(5, 1, 6, 4, dtype=torch.float64)
    weights = torch.randn(5, 4, 4, dtype=torch.float64)
    x, residuals = x0, []
    for weight, hint in zip(weights, hints, strict=True):
        attention = torch.tanh(x @ weight)
        rest = torch.sin((x + attention) @ weight)
        residuals += [attention, rest, hint]
        x = x + attention + rest + hint
    blockwise = x1
    for residual in residuals:
        blockwise = blockwise + residual
    torch.testing.assert_close(x1 + (x - x0), blockwise, rtol=1e-12, atol=1e-12)


def test_moreg_follows_its_formula():
    grid = Grid(3, 1, 2)
    r = column(1.0, 2.0, 3.0, 2.0, 5.0, -2.0)
    difference = abs(3 - 1) + abs(2 - 2) + abs(5 - 3) + abs(-2 - 2)
    norms = (3 + 2 + 5 + 2) + (1 + 2 + 3 + 2)
    assert motion(r, grid).item() == pytest.approx((difference / norms / 0.385) ** 8, rel=1e-5)
    assert motion(value(4.0), grid).item() == 0.0


def test_moreg_computes_more_where_the_video_moves():
    config = AdaCacheConfig("slow", adacache_moreg=True)
    still = [(1.0 + 0.02 * i, 1.0 + 0.02 * i) for i in range(30)]
    counts = []
    for frames in ((1.0, 1.0, 1.0), (1.0, -3.0, 9.0)):
        manager, letters = StackResidual(AdaRate(config), Branch.COND), ""
        for i in range(30):
            x = column(*(s * f for f in frames for s in still[i]))
            step = Step(i, 30, 0.0)
            decision = manager.decide(step, hidden(x))
            letters += decision.compute.value
            if decision.compute is Compute.FULL:
                manager.run_block(ToyOps(), x, decision)
        counts.append(letters.count("F"))
    assert counts[0] < counts[1]


@pytest.mark.parametrize("name, above", [("fast", 1), ("slow", 1), ("100", 3)])
def test_a_metric_at_a_key_takes_the_next_rate_and_above_the_last_the_last(name, above):
    """As the authors compare: `<` against each key but the last, whose rate is what remains."""
    rates = CODEBOOKS[name].rates
    for (key, _), (_, following) in itertools.pairwise(rates):
        assert CODEBOOKS[name].rate(key) == following
    assert CODEBOOKS[name].rate(1.0) == CODEBOOKS[name].rate(7.0) == above


def test_moreg_acts_where_its_window_is_entered_and_left():
    """Motions 0.3 and 0.2 inside, 3 steps apart: |0.3 - 1| and |1 - 0.2| are gradients too. With the authors' resets
    the factor at the first step inside is 2.63."""
    rate = AdaRate(AdaCacheConfig("fast", adacache_moreg=True))
    rate._grid = Grid(2, 1, 1)
    factors = []
    for index, moved in ((1, 0.3), (4, 0.3), (7, 0.2), (27, 0.2), (29, 0.2)):
        # motion() of (1, x) is ((x - 1) / (x + 1) / 0.385)^8.
        share = 0.385 * moved ** (1 / 8)
        rate._step = Step(index, 30, 0.0)
        factors.append(float(rate._moreg(column(1.0, (1 + share) / (1 - share)), 3)))
    expected = [1.0, 0.3 + 10 * 0.7 / 3, 0.2 + 10 * 0.1 / 3, 1 + 10 * 0.8 / 3, 1.0]
    assert factors == pytest.approx(expected, rel=1e-4)
    assert expected[1] == pytest.approx(2.633, abs=1e-3)


def test_adacache_refuses_a_block_that_the_model_lacks():
    manager = StackResidual(AdaRate(AdaCacheConfig(adacache_block=8)), Branch.COND)
    decision = manager.decide(Step(0, 9, 0.0), hidden(value(1.0)))
    with pytest.raises(ValueError, match="--adacache-block 8: the model has DiT blocks 0 to 7"):
        manager.run_block(ToyOps("dit", 0, 8), value(1.0), decision)


# FastCache


@pytest.mark.parametrize(
    "delta, timestep, num_values, expected",
    [
        (0.03, 500.0, 10**7, (0.05, "floor")),
        (0.2, 0.0, 10**7, (0.11, "adaptive")),
        (0.2, 1000.0, 10**7, (0.01 + 0.1 - 0.002 + 0.00005, "adaptive")),
        (0.2, 500.0, 10**7, (0.01 + 0.1 - 0.001 + 0.0000125, "adaptive")),
        (10.0, 0.0, 10**7, (math.sqrt((10**7 + 1.959964 * math.sqrt(2e7)) / 1e7), "chi-square")),
        (10.0, 0.0, 50, (math.sqrt((50 + 1.959964 * 10) / 50), "chi-square")),
    ],
)
def test_fastcache_threshold_is_its_closed_form(delta, timestep, num_values, expected):
    threshold, binds = block_threshold(delta, timestep, num_values, 0.05)
    assert threshold == pytest.approx(expected[0], rel=1e-6) and binds == expected[1]


def test_fastcache_token_gate_is_per_token():
    old = torch.tensor([[[3.0, 4.0], [3.0, 4.0], [0.0, 0.0], [1.0, 0.0]]])
    new = torch.tensor([[[3.0, 5.0], [0.0, 8.0], [0.0, 1.7], [1.0, 1.5]]])
    # squared changes 1, 25, 2.89 and 2.25 against a tenth of 25
    assert moving_tokens(saliency(new, old), 0.1).tolist() == [False, True, True, False]
    assert not moving_tokens(saliency(old, old), 0.1).any()


def fast_step(manager, index, x):
    ops = ToyOps()
    decision = manager.decide(Step(index, 9, 500.0), hidden(x))
    y = manager.run_block(ops, x, decision)
    return y.flatten().tolist(), ops.calls, manager.outcome(decision)


def test_fastcache_hit_is_the_input_plus_the_blocks_last_residual():
    """A block that doubles: 100 gives 200; at 104 (delta 0.04) the hit is 204, computed it would be 208."""
    manager = BlockGate(FastCacheConfig(), None)
    assert fast_step(manager, 0, value(100.0))[0] == [200.0] * 6
    y, calls, outcome = fast_step(manager, 1, value(104.0))
    assert y == [204.0] * 6 and calls == []
    assert outcome.compute is Compute.BLOCKS and outcome.signal == pytest.approx(0.04)
    assert outcome.reason.startswith("1 of 1 blocks skipped") and "floor binds" in outcome.reason
    assert outcome.threshold == 0.05
    y, calls, outcome = fast_step(manager, 2, value(208.0))
    assert y == [416.0] * 6 and calls == ["full"]
    assert outcome.compute is Compute.FULL and "adaptive binds" in outcome.reason
    assert "no maps fitted" in manager.notes()["estimate"]
    assert manager.notes()["host_syncs"] == 2 and manager.notes()["binding"] == {"floor": 1, "adaptive": 1}


def test_fastcache_hit_is_the_linear_map_where_one_is_fitted():
    """h + (h A) B + b with A = 2, B = 0.25, b = 7: 104 gives 104 + 52 + 7."""
    one = torch.ones(1, 1)
    maps = LinearMaps("test", {("dit", 0): LinearMap(2 * one, 0.25 * one, torch.tensor([7.0]))})
    manager = BlockGate(FastCacheConfig(), maps)
    fast_step(manager, 0, value(100.0))
    assert fast_step(manager, 1, value(104.0))[0] == [163.0] * 6
    assert manager.notes()["estimate"] == "linear maps"
    manager = BlockGate(FastCacheConfig(fastcache_estimate="residual"), maps)
    fast_step(manager, 0, value(100.0))
    assert fast_step(manager, 1, value(104.0))[0] == [204.0] * 6


def test_fastcache_refuses_maps_of_another_shape():
    maps = LinearMaps("m", {("dit", 0): LinearMap(torch.ones(3, 1), torch.ones(1, 3), torch.ones(3))})
    manager = BlockGate(FastCacheConfig(), maps)
    fast_step(manager, 0, value(100.0))
    with pytest.raises(ValueError, match="linear maps of 'm' do not fit"):
        fast_step(manager, 1, value(101.0))


def test_fastcache_computes_moving_tokens_only_and_static_ones_skip_the_block():
    """Tokens 1 and 4 move from 100 to 300 and are doubled; the others keep the residual 100 at 101."""
    manager = BlockGate(FastCacheConfig(), None)
    fast_step(manager, 0, value(100.0))
    x = column(101.0, 300.0, 101.0, 101.0, 300.0, 101.0)
    y, calls, outcome = fast_step(manager, 1, x)
    assert y == [201.0, 600.0, 201.0, 201.0, 600.0, 201.0]
    assert calls == ["at [1, 4]", "full"]
    assert "1 on moving tokens only" in outcome.reason
    # the moved tokens' residual is now 300, the others' still 100
    assert fast_step(manager, 2, x + 1)[0] == [202.0, 601.0, 202.0, 202.0, 601.0, 202.0]


def test_fastcache_computes_the_block_when_most_tokens_move():
    manager = BlockGate(FastCacheConfig(), None)
    fast_step(manager, 0, value(100.0))
    assert fast_step(manager, 1, column(300.0, 300.0, 300.0, 300.0, 101.0, 101.0))[1] == ["full"]


@pytest.mark.parametrize("reference, computed", [("previous", 0), ("computed", 1)])
def test_fastcache_reference_bounds_the_drift_of_skips(reference, computed):
    """4 % a step stays under the floor for ever against the previous step, not against the last computed one."""
    manager = BlockGate(FastCacheConfig(fastcache_reference=reference), None)
    fast_step(manager, 0, value(100.0))
    calls = [fast_step(manager, i, value(100.0 * 1.04**i))[1] for i in (1, 2, 3)]
    assert sum(c == ["full"] for c in calls) == computed


@pytest.mark.parametrize(
    "config, bad, message",
    [
        (PabConfig, {"pab_cross_range": 0}, "--pab-cross-range must be at least 1"),
        (PabConfig, {"pab_window_start": 0.9}, "--pab-window-start and --pab-window-end must rise"),
        (PabConfig, {"pab_timesteps": "800"}, "--pab-timesteps must look like 100-800"),
        (PabConfig, {"pab_timesteps": "800-100"}, "--pab-timesteps must look like 100-800"),
        (PabConfig, {"pab_mlp_blocks": -1}, "--pab-mlp-blocks must not be negative"),
        (AdaCacheConfig, {"adacache_codebook": "none"}, "--adacache-codebook must be fast or slow or 100"),
        (AdaCacheConfig, {"adacache_block": -1}, "--adacache-block must not be negative"),
        (FastCacheConfig, {"fastcache_alpha": 0.0}, "--fastcache-alpha must be between 0 and 1"),
        (FastCacheConfig, {"fastcache_motion": -1.0}, "--fastcache-motion must not be negative"),
        (FastCacheConfig, {"fastcache_max_moving": 2.0}, "--fastcache-max-moving must be between 0 and 1"),
        (FastCacheConfig, {"fastcache_estimate": "x"}, "--fastcache-estimate must be auto or linear or residual"),
        (FastCacheConfig, {"fastcache_reference": "x"}, "--fastcache-reference must be previous or computed"),
    ],
)
def test_bad_settings_name_their_flag(config, bad, message):
    with pytest.raises(ValueError, match=message):
        config(**bad)
