"""Every mode on diffusers' pipelines: what a run does, with one expert and with two."""

from __future__ import annotations

import pytest
import torch
from baseline_runs import baseline
from diffusers_runs import ALL_TOKENS, build, built, cached, call
from replay import SKIPPING

from hetcache.core.vocabulary import Branch, Compute
from hetcache.modes import MODES

NUM_STEPS = 8
MASKLESS = [name for name, mode in MODES.items() if not mode.needs_mask]
SETTINGS = {**SKIPPING, "fastcache_teacache": {"cache_thresh": 0.9}, "magcache": {"magcache_thresh": 0.5}}


@pytest.fixture(scope="module")
def pipes():
    return {sampler: build(sampler=sampler) for sampler in ("euler", "unipc")}


@pytest.mark.parametrize("sampler", ["euler", "unipc"])
@pytest.mark.parametrize("name", MODES)
def test_a_run_is_finite_and_a_reused_step_runs_no_block(pipes, name, sampler):
    pipe = pipes[sampler]
    calls = []
    blocks = [*pipe.transformer.blocks, *pipe.transformer.vace_blocks]
    handles = [b.attn1.to_q.register_forward_hook(lambda *_: calls.append(1)) for b in blocks]
    latents, session = cached(pipe, built(name, **SETTINGS.get(name, {})), steps=NUM_STEPS)
    for handle in handles:
        handle.remove()
    assert torch.isfinite(latents).all()
    for branch in Branch:
        records = session.trace.of(branch)
        assert [r.step_index for r in records] == list(range(NUM_STEPS))
        assert records[0].compute is Compute.FULL
    assert session.reused_blocks() == 0
    if name == "baseline":
        assert torch.equal(latents, call(pipe, steps=NUM_STEPS))
    else:
        assert session.trace.accelerated
    if name in ("teacache", "magcache", "easycache", "hetcache"):
        computed = sum(r.compute is not Compute.REUSE for r in session.trace.records)
        assert len(calls) == computed * len(blocks) < 2 * NUM_STEPS * len(blocks)


@pytest.mark.parametrize("kind", ["t2v", "i2v", "i2v22", "v2v"])
def test_modes_that_need_no_mask_on_pipelines_without_vace(kind):
    pipe = build(kind)
    for name in MASKLESS:
        latents, session = cached(pipe, built(name, **SETTINGS.get(name, {})), steps=NUM_STEPS)
        assert torch.isfinite(latents).all(), name
        assert session.reused_blocks() == 0
        # FastCache decides from the content, and random weights need not leave it anything.
        assert session.trace.accelerated or name in ("baseline", "fastcache", "fastcache_computed"), name
    make = built("hetcache", whole_steps_only=True, cache_thresh=0.6)
    assert "R" in cached(pipe, make, steps=NUM_STEPS)[1].trace.decisions(Branch.COND)


@pytest.mark.parametrize("kind", ["vace", "t2v", "i2v22"])
def test_two_experts_are_two_stages(kind):
    """The first step of the second expert is its first: nothing is reused across the models."""
    pipe = build(kind, experts=2)
    expected = call(pipe, steps=NUM_STEPS, guidance_scale_2=2.0)
    same, session = cached(pipe, baseline, steps=NUM_STEPS, guidance_scale_2=2.0)
    assert torch.equal(same, expected)
    high, low = (schedule.num_steps for schedule in session.schedules)
    assert high > 1 and low > 1 and high + low == NUM_STEPS
    latents, session = cached(pipe, built("teacache", cache_thresh=100.0), steps=NUM_STEPS)
    assert session.trace.decisions(Branch.COND) == "F" + "R" * (high - 2) + "F" + "F" + "R" * (low - 2) + "F"
    assert [r.step_index for r in session.trace.of(Branch.UNCOND)] == list(range(NUM_STEPS))
    assert torch.isfinite(latents).all()
    if kind == "vace":
        latents, session = cached(pipe, built("hetcache", **ALL_TOKENS), steps=NUM_STEPS)
        decisions = session.trace.decisions(Branch.COND)
        assert decisions == "F" + "P" * (high - 2) + "FF" + "P" * (low - 2) + "F"
        assert torch.equal(latents, call(pipe, steps=NUM_STEPS))


def test_a_boundary_that_no_step_passes_is_one_stage():
    pipe = build("t2v", experts=2, boundary=0.0)
    same, session = cached(pipe, baseline, steps=3)
    assert torch.equal(same, call(pipe, steps=3)) and len(session.schedules) == 1
