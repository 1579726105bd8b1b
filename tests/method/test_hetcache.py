"""HetCache on a really built pipeline: what a partial and a reused step compute, and what they return."""

from __future__ import annotations

import pytest
import torch
from hetcache_runs import hetcache_session, run

from diffsynth_patches.apply import patched
from hetcache.core.vocabulary import Branch


@pytest.mark.parametrize("context_kv", ["cached", "sampled"])
def test_partial_steps_of_all_tokens_equal_full_steps(pipe, call_kwargs, mask_THW, context_kv):
    everything = {"context_ratio": 1.0, "margin_ratio": 1.0, "context_kv": context_kv}
    full = run(pipe, call_kwargs, hetcache_session(mask_THW, "FFFFFF"))
    session = hetcache_session(mask_THW, "FPPPPF", **everything)
    partial = run(pipe, call_kwargs, session)
    assert session.trace.decisions(Branch.UNCOND) == "FPPPPF"
    torch.testing.assert_close(partial, full, rtol=1e-5, atol=1e-5)


def test_all_full_steps_equal_the_unpatched_pipeline_bit_for_bit(pipe, call_kwargs, mask_THW):
    assert torch.equal(run(pipe, call_kwargs, hetcache_session(mask_THW, "FFFFFF")), pipe(**call_kwargs))


def test_reused_steps_call_no_block_and_partial_steps_call_each_on_the_active_rows(pipe, call_kwargs, mask_THW):
    calls = []
    hooks = [
        linear.register_forward_pre_hook(lambda module, args, name=name: calls.append((name, args[0].shape[1])))
        for name, blocks in (("dit", pipe.dit.blocks), ("vace", pipe.vace.vace_blocks))
        for block in blocks
        for linear in (block.self_attn.q, block.ffn[0])
    ]
    try:
        session = hetcache_session(mask_THW, "FRPRPF")
        per_step = []
        session._observer = lambda step, records: (per_step.append(list(calls)), calls.clear())
        run(pipe, call_kwargs, session)
    finally:
        for hook in hooks:
            hook.remove()
    num_tokens = 3 * 4 * 6
    active = session.trace.of(Branch.COND)[2].num_active
    assert 0 < active < num_tokens
    for letter, called in zip("FRPRPF", per_step, strict=True):
        if letter == "R":
            assert called == []
        else:
            assert {rows for _, rows in called} == {num_tokens if letter == "F" else active}
            assert len(called) == 2 * 2 * (4 + 2)
    assert session.reused_blocks() == 0


def test_a_reused_step_is_input_plus_the_last_residual(pipe, call_kwargs, mask_THW):
    """Oracle: hold the residual of the last computed step by hand and rebuild the reused hidden states."""
    session, seen = hetcache_session(mask_THW, "FRRRRF"), []
    make = session._make_manager

    def spy(branch, schedule):
        manager = make(branch, schedule)
        commit, reuse = manager.commit, manager.reuse

        def spied_commit(step, decision, hidden, x_out, velocity):
            seen.append(("residual", branch, x_out - hidden.x_BND))
            commit(step, decision, hidden, x_out, velocity)

        def spied_reuse(step, hidden):
            x = reuse(step, hidden)
            seen.append(("reused", branch, x - hidden.x_BND))
            return x

        manager.commit, manager.reuse = spied_commit, spied_reuse
        return manager

    session._make_manager = spy
    run(pipe, call_kwargs, session)
    residual = {}
    for kind, branch, value in seen:
        if kind == "residual":
            residual[branch] = value
        else:
            torch.testing.assert_close(value, residual[branch], rtol=1e-4, atol=1e-5)


def test_branches_keep_their_own_state(pipe, call_kwargs, mask_THW):
    """The conditional branch gives the same hidden states whether the unconditional one runs between or not."""

    def cond_outputs(with_uncond):
        outputs, session = [], hetcache_session(mask_THW, "FPRPRF")
        with patched(pipe, session) as forward:
            original = forward.__call__

            def spy(**kwargs):
                velocity = original(**kwargs)
                if not kwargs["positive"]:
                    return velocity
                outputs.append(velocity)
                return velocity

            def step_through(**kwargs):
                positive = spy(**{**kwargs, "positive": True})
                if with_uncond:
                    spy(**{**kwargs, "positive": False, "context": kwargs["context"] * -1})
                return positive

            pipe.model_fn = step_through
            pipe(**{**call_kwargs, "cfg_scale": 1.0, "progress_bar_cmd": session.steps})
        return outputs

    for alone, interleaved in zip(cond_outputs(False), cond_outputs(True), strict=True):
        assert torch.equal(alone, interleaved)


def test_a_second_run_equals_the_first(pipe, call_kwargs, mask_THW):
    first = run(pipe, call_kwargs, hetcache_session(mask_THW, "FPRPPF"))
    assert torch.equal(first, run(pipe, call_kwargs, hetcache_session(mask_THW, "FPRPPF")))


@pytest.mark.parametrize("partial_vace", ["rows", "hints"])
@pytest.mark.parametrize("context_kv", ["cached", "sampled"])
def test_cache_bytes_equal_the_formula(pipe, call_kwargs, mask_THW, partial_vace, context_kv):
    from hetcache.core.flops import cache_bytes

    session = hetcache_session(mask_THW, "FPRPRF", partial_vace=partial_vace, context_kv=context_kv)
    with patched(pipe, session) as forward:
        pipe(**{**call_kwargs, "progress_bar_cmd": session.steps})
    expected = cache_bytes(forward.shape, 72, context_kv == "cached", partial_vace == "rows", 4)
    assert session.cache_bytes == 2 * expected


def test_partial_flops_equal_the_closed_form(pipe, call_kwargs, mask_THW):
    from hetcache.core.flops import outside_flops, partial_step_flops

    session = hetcache_session(mask_THW, "FPRPRF")
    with patched(pipe, session) as forward:
        pipe(**{**call_kwargs, "progress_bar_cmd": session.steps})
    records = session.trace.of(Branch.COND)
    active = records[1].num_active
    assert records[1].flops == partial_step_flops(forward.shape, 72, active)
    assert records[2].flops == outside_flops(forward.shape, 72)
