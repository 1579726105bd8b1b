"""The generic forward on a toy denoiser: what is asked of an adapter, in which order, and what it costs."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from hetcache.core.block import BlockInputs, MeteredBlock
from hetcache.core.denoiser import Call
from hetcache.core.flops import ModelShape
from hetcache.core.session import CacheSession
from hetcache.core.step import CachedForward, static_schedule
from hetcache.core.vocabulary import Branch, CacheManager, Compute, Decision, Grid, Hidden, TokenPlan

GRID = Grid(1, 2, 3)
CONTEXT = torch.ones(1, 2, 1)
SHAPE = ModelShape(1, 1, 2, 1, 2, 1, 1, 1, 1, 1)


class Doubling(MeteredBlock[BlockInputs]):
    """Doubles its tokens: self-attention adds them, the other parts add nothing."""

    dim = ffn_dim = num_heads = 1

    def whole(self, x_BND):
        return 2 * x_BND

    def qkv(self, x_BND):
        return x_BND, x_BND, x_BND

    def attend(self, q_BND, k_BND, v_BND):
        return q_BND

    def cross(self, x_BND):
        return torch.zeros_like(x_BND)

    feed_forward = cross

    def add_self_attn(self, x_BND, out_BND):
        return x_BND + out_BND

    add_cross_attn = add_mlp = add_self_attn


class ToyDenoiser:
    """Two DiT blocks and a VACE block, whose hint is added behind the first; tokens are the latents' values."""

    num_layers, num_hints, hint_after = 2, 1, {0: 0}

    def __init__(self, exact=True):
        self.exact = exact
        self.calls = []

    def shape(self, call):
        return SHAPE

    def signals(self, timesteps):
        return {"e0": timesteps[:, None]}

    def embed_text(self, call):
        self.calls.append("text")
        return call.context

    def embed(self, call, context_BLD):
        x_BND = call.latents_BCFHW.flatten(1)[..., None]
        return Hidden(x_BND, call.timestep, call.timestep, context_BLD, call.latents_BCFHW, GRID)

    def embed_condition(self, call, hidden):
        self.calls.append("condition")
        return call.condition

    def rope(self, hidden):
        self.calls.append("rope")
        return torch.arange(GRID.num_tokens)

    def inputs(self, hidden, rope, meter):
        return BlockInputs(hidden.context_BLD, hidden.t_mod_B6D, rope, meter)

    def deviations(self, hidden, inputs):
        self.calls.append("deviations")
        return {} if self.exact else {"toy_relative_error": 0.5}

    @contextmanager
    def block(self, stack, layer, inputs):
        self.calls.append(f"{stack} {layer} in")
        ops = Doubling(stack, layer, 2, inputs)
        ops.is_exact = self.exact
        yield ops
        self.calls.append(f"{stack} {layer} out")

    def before_vace(self, ops, c_BND, x_BND):
        return c_BND + x_BND

    def after_vace(self, ops, c_BND):
        return c_BND

    def head(self, hidden, x_BND):
        return x_BND.reshape(hidden.latents_BCFHW.shape)


class Planned(CacheManager):
    """Full, then the plan's rows, then the whole again from what was kept."""

    def __init__(self, num_tokens=6):
        self.plan = TokenPlan(torch.tensor([1, 4]), num_tokens)
        self.kept = torch.empty(0)

    def decide(self, step, hidden):
        if step.index == 0:
            return Decision(Compute.FULL, "toy")
        return Decision(Compute.PARTIAL, "toy", plan=self.plan) if step.index == 1 else Decision(Compute.REUSE, "toy")

    def merge(self, step, hidden, x_BAD, decision):
        if decision.plan is not None:
            x_BAD = self.kept.index_copy(1, decision.plan.rows_A, x_BAD)
        self.kept = x_BAD
        return x_BAD

    def reuse(self, step, hidden):
        return self.kept


def run(denoiser, make_manager, scale=1.0, condition=True, num_steps=3):
    session = CacheSession(make_manager)
    timesteps = torch.tensor([900.0, 500.0, 100.0][:num_steps])
    session.begin(static_schedule(denoiser, timesteps))
    forward, outputs = CachedForward(denoiser, session), []
    while session.advance():
        latents = torch.full((1, 1, 1, 2, 3), float(10**session.step.index))
        vace = torch.ones(1, 6, 1) if condition else None
        call = Call(Branch.COND, latents, torch.tensor([session.step.timestep]), CONTEXT, vace, (scale,))
        outputs.append(forward(call).flatten().tolist())
    return outputs, session


# A token x: VACE gives 2 (1 + x), the first block 2 x, the second doubles the sum.
def computed(x, scale=1.0):
    return 2 * (2 * x + scale * 2 * (1 + x))


@pytest.mark.parametrize("exact", [True, False])
def test_full_partial_and_reused_steps(exact):
    denoiser = ToyDenoiser(exact)
    outputs, session = run(denoiser, lambda branch, schedule: Planned())
    first, some = computed(1), computed(10)
    assert outputs == [[first] * 6, [first, some, first, first, some, first], [first, some, first, first, some, first]]
    assert session.trace.decisions(Branch.COND) == "FPR"
    assert [record.num_active for record in session.trace.records] == [6, 2, 0]
    assert session.notes() == ({} if exact else {"toy_relative_error": 0.5})


def test_what_is_the_same_at_every_step_is_asked_for_once_and_blocks_are_entered_one_at_a_time():
    denoiser = ToyDenoiser()
    run(denoiser, lambda branch, schedule: Planned())
    once = ["text", "rope", "deviations"]
    blocks = ["vace 0 in", "vace 0 out", "dit 0 in", "dit 0 out", "dit 1 in", "dit 1 out"]
    assert denoiser.calls == [*once, "condition", *blocks, *blocks]


def test_work_is_the_same_whole_and_by_sublayers():
    works = [run(ToyDenoiser(exact), lambda branch, schedule: Planned())[1].trace.work for exact in (True, False)]
    assert works[0] == works[1]
    assert works[0].blocks == {"dit": 4, "vace": 2}


def test_hints_are_scaled_and_without_a_condition_there_are_none():
    assert run(ToyDenoiser(), lambda branch, schedule: Planned(), scale=0.5, num_steps=1)[0] == [[computed(1, 0.5)] * 6]
    denoiser = ToyDenoiser()
    assert run(denoiser, lambda branch, schedule: Planned(), condition=False, num_steps=1)[0] == [[4.0] * 6]
    assert not [call for call in denoiser.calls if "vace" in call or call == "condition"]


def test_a_plan_of_another_grid_is_refused():
    with pytest.raises(ValueError, match="the mask has 5 tokens and the denoiser 6 .*vace_reference_image"):
        run(ToyDenoiser(), lambda branch, schedule: Planned(5))


def test_the_static_signals_change_relative_to_the_step_before():
    schedule = static_schedule(ToyDenoiser(), torch.tensor([4.0, 2.0, 1.0]))
    assert schedule.timesteps == (4.0, 2.0, 1.0)
    assert schedule.rel_l1 == {"e0": (0.0, 0.5, 0.5)}


class Walks(CacheManager):
    """Every step by `drive`, a function of its walk."""

    def __init__(self, drive):
        self.drive = drive

    def decide(self, step, hidden):
        return Decision(Compute.BLOCKS, "toy")

    def run_stack(self, walk, step, hidden, decision):
        return self.drive(walk)


def walked(drive, condition=True):
    denoiser = ToyDenoiser()
    outputs, session = run(denoiser, lambda branch, schedule: Walks(drive), condition=condition, num_steps=1)
    return outputs[0], [call for call in denoiser.calls if call.endswith(" in")], session.trace.records[0]


def test_a_walk_in_pieces_is_the_walk_in_one():
    def in_pieces(walk):
        assert torch.equal(walk.vace_to(0), torch.ones(1, 6, 1))
        walk.vace_to(1)
        walk.vace_to(1)
        between = walk.dit_to(1)
        assert walk.layer == 1 and walk.num_layers == 2 and walk.num_vace_layers == 1
        assert torch.equal(between, torch.full((1, 6, 1), 2.0 + 4.0)), "the first block and its hint, once"
        return walk.finish()

    whole, in_one, one = walked(lambda walk: walk.finish())
    pieces, in_many, many = walked(in_pieces)
    assert whole == pieces == [computed(1.0)] * 6
    assert sorted(in_one) == sorted(in_many) == ["dit 0 in", "dit 1 in", "vace 0 in"]
    assert in_one[0] == "vace 0 in", "VACE first, as upstream"
    assert (one.flops, one.dit_blocks, one.vace_blocks) == (many.flops, many.dit_blocks, many.vace_blocks)


def test_a_walk_runs_only_what_is_asked_for():
    outputs, calls, record = walked(lambda walk: walk.vace_to(1))
    assert calls == ["vace 0 in"] and outputs == [4.0] * 6
    assert (record.compute, record.dit_blocks, record.vace_blocks) == (Compute.BLOCKS, 0, 1)

    def skip_the_first(walk):
        walk.jump(1, walk.x_BAD + 100)
        return walk.finish()

    outputs, calls, record = walked(skip_the_first)
    assert calls == ["dit 1 in"] and outputs == [202.0] * 6, "no hint behind the second block, so no VACE"
    outputs, calls, _ = walked(lambda walk: walk.finish(), condition=False)
    assert calls == ["dit 0 in", "dit 1 in"] and outputs == [4.0] * 6
