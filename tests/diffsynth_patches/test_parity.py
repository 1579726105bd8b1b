"""The caching forward against unpatched DiffSynth: bit for bit where nothing is skipped."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from baseline_runs import baseline, run
from diffsynth.models.wan_video_dit import DiTBlock
from pipeline_calls import SHAPE, pipe_kwargs

import diffsynth_patches.denoiser as forward_module
from diffsynth_patches.apply import patched
from diffsynth_patches.block import BlockInputs, DiTBlockOps, rope_apply_float32
from hetcache.core.session import CacheSession
from hetcache.core.tokens import classify
from hetcache.core.vocabulary import Branch, CacheManager, Compute, Decision


class SublayerManager(CacheManager):
    """Computes every block sub-layer by sub-layer."""

    def decide(self, step, hidden):
        return Decision(Compute.FULL, "test")

    def run_block(self, ops, x_BND, decision):
        x_BND = ops.add_self_attn(x_BND, ops.self_attn(x_BND).out_BND)
        x_BND = ops.add_cross_attn(x_BND, ops.cross_attn(x_BND))
        return ops.add_mlp(x_BND, ops.mlp(x_BND))


@pytest.mark.parametrize("make_manager", [baseline, lambda branch, schedule: SublayerManager()])
@pytest.mark.parametrize("cfg_scale", [1.0, 3.0])
@pytest.mark.parametrize("shape", [(9, 64, 96), (5, 48, 80)])
def test_baseline_equals_unpatched_pipeline(pipe, shape, cfg_scale, make_manager):
    rng = np.random.default_rng(3)
    mask = np.zeros(shape, dtype=bool)
    mask[:, 8:30, 10:50] = True
    kwargs = pipe_kwargs(rng.integers(0, 255, (*shape, 3), dtype=np.uint8), mask, cfg_scale=cfg_scale)
    expected = pipe(**kwargs)
    actual, session = run(pipe, kwargs, make_manager)
    assert torch.equal(actual, expected)
    assert session.trace.decisions(Branch.COND) == "F" * 6
    assert session.trace.decisions(Branch.UNCOND) == ("F" * 6 if cfg_scale != 1 else "")


def test_everything_is_restored_after_a_run_and_after_an_exception(pipe, call_kwargs):
    before = (pipe.model_fn, pipe.unit_runner, DiTBlock.forward, dict(vars(type(pipe))))

    class Failing(CacheManager):
        def decide(self, step, hidden):
            if step.index == 2:
                raise ArithmeticError("in mid-loop")
            return Decision(Compute.FULL, "test")

    run(pipe, call_kwargs, baseline)
    with pytest.raises(ArithmeticError):
        run(pipe, call_kwargs, lambda branch, schedule: Failing())
    assert before == (pipe.model_fn, pipe.unit_runner, DiTBlock.forward, dict(vars(type(pipe))))
    assert not [m for m in pipe.modules() if m._forward_hooks or m._forward_pre_hooks]


def test_rows_equal_full_rows_when_inputs_are_frozen_and_kv_cached(pipe):
    torch.manual_seed(0)
    block, num_tokens, dim = pipe.dit.blocks[1], 40, pipe.dit.dim
    x = torch.randn(1, num_tokens, dim)
    freqs = torch.polar(torch.ones(num_tokens, 1, 12), torch.randn(num_tokens, 1, 12)).to(torch.complex128)
    inputs = BlockInputs(torch.randn(1, 7, dim), torch.randn(1, 6, dim), freqs)
    full = DiTBlockOps(block, "dit", 0, 4, inputs)
    attention = full.self_attn(x)
    expected = full.full(x)
    rows = torch.tensor([0, 3, 4, 17, 39])
    ops = full.at(rows)
    k, v = attention.k_BND.clone(), attention.v_BND.clone()
    k[:, rows], v[:, rows] = float("nan"), float("nan")  # a row that is not written fails
    y = x[:, rows]
    y = ops.add_self_attn(y, ops.self_attn(y, (k, v)).out_BND)
    y = ops.add_cross_attn(y, ops.cross_attn(y))
    y = ops.add_mlp(y, ops.mlp(y))
    torch.testing.assert_close(y, expected[:, rows], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(k, attention.k_BND)


@pytest.mark.parametrize("argument, value", [("cfg_merge", True), ("sliding_window_size", 2)])
def test_unsupported_arguments_are_refused_by_name(pipe, call_kwargs, argument, value):
    extra = {"sliding_window_stride": 1} if argument == "sliding_window_size" else {}
    with pytest.raises(ValueError, match=argument):
        run(pipe, {**call_kwargs, argument: value, **extra}, baseline)


def test_unsupported_versions_are_refused():
    from diffsynth_patches.compat import check_version

    with pytest.raises(RuntimeError, match="diffsynth 1.1.9 is not supported"):
        check_version("1.1.9")
    check_version()


def test_a_session_serves_one_video(pipe, call_kwargs):
    _, session = run(pipe, call_kwargs, baseline)
    with pytest.raises(RuntimeError, match="already run"), patched(pipe, session):
        pipe(**{**call_kwargs, "progress_bar_cmd": session.steps})


def test_flops_equal_the_closed_form_and_count_every_block(pipe, call_kwargs, mask_THW):
    from hetcache.core.flops import full_step_flops, text_flops, vace_embedding_flops

    session = CacheSession(baseline)
    with patched(pipe, session) as forward:
        pipe(**{**call_kwargs, "progress_bar_cmd": session.steps})
    tokens = classify(torch.from_numpy(mask_THW)).num_tokens
    assert tokens == 3 * (SHAPE["height"] // 16) * (SHAPE["width"] // 16)
    embedded_once = 11 * vace_embedding_flops(forward.shape, tokens) + 10 * text_flops(forward.shape)
    assert session.trace.work.flops == full_step_flops(forward.shape, tokens) * 12 - embedded_once
    assert session.trace.work.blocks == {"dit": 12 * 4, "vace": 12 * 2}


def test_fast_rope_differs_by_rounding_only_and_says_by_how_much(pipe, call_kwargs, monkeypatch):
    rotations = []

    def counted(*args):
        rotations.append(args[0].shape)
        return rope_apply_float32(*args)

    monkeypatch.setattr(forward_module, "rope_apply_float32", counted)
    session = CacheSession(baseline)
    with patched(pipe, session, fast_rope=True):
        fast = pipe(**{**call_kwargs, "progress_bar_cmd": session.steps})
    torch.testing.assert_close(fast, pipe(**call_kwargs), rtol=1e-4, atol=1e-4)
    assert 0 < session.notes()["fast_rope_relative_error"] < 1e-6
    # Queries and keys of every block at every step and branch, and once to measure the difference.
    assert len(rotations) == 2 * (4 + 2) * 6 * 2 + 1
