"""Pipelines with hooks, adapters and compiled blocks: equal, bit for bit, to themselves without a cache.

Offloading to disk leaves garbage behind and offloading to `meta` raises, so a hook that is missed shows on a CPU.
"""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from baseline_runs import baseline
from diffusers.hooks import apply_group_offloading
from diffusers_runs import ALL_TOKENS, SublayerManager, build, built, cached, call

from diffusers_patches.hooks import entered
from hetcache.core.vocabulary import Branch, Compute

STEPS = 3
PARTIAL = built("hetcache", **ALL_TOKENS)
REUSE = built("teacache", cache_thresh=100.0)
FULL = (baseline, lambda branch, schedule: SublayerManager(), PARTIAL)


def assert_equal_with_and_without(pipe, **overrides):
    """Full steps by blocks, by sub-layers and on chosen rows; and reused ones, which run no block."""
    expected = call(pipe, steps=STEPS, **overrides)
    for make_manager in FULL:
        latents, session = cached(pipe, make_manager, steps=STEPS, **overrides)
        assert torch.equal(latents, expected)
    assert session.trace.decisions(Branch.COND) == "FPF"
    assert torch.equal(call(pipe, steps=STEPS, **overrides), expected)
    latents, session = cached(pipe, REUSE, steps=5, **overrides)
    assert session.trace.decisions(Branch.COND) == "FRRRF" and torch.isfinite(latents).all()
    return expected


@pytest.mark.parametrize("kind", ["vace", "t2v"])
@pytest.mark.parametrize(
    "level",
    [
        {"offload_type": "block_level", "num_blocks_per_group": 1},
        {"offload_type": "block_level", "num_blocks_per_group": 2},
        {"offload_type": "leaf_level"},
    ],
    ids=["block", "two blocks", "leaf"],
)
def test_group_offload_to_disk(kind, level, tmp_path):
    pipe = build(kind)
    expected = call(pipe, steps=STEPS)
    cpu = torch.device("cpu")
    apply_group_offloading(pipe.transformer, cpu, cpu, offload_to_disk_path=str(tmp_path), **level)
    hooked = assert_equal_with_and_without(pipe)
    # Other memory alignment, which the cache has no part in.
    torch.testing.assert_close(hooked, expected, rtol=1e-4, atol=1e-4)


def test_group_offload_of_two_experts(tmp_path):
    pipe = build(experts=2)
    cpu = torch.device("cpu")
    for name in ("transformer", "transformer_2"):
        folder = str(tmp_path / name)
        apply_group_offloading(getattr(pipe, name), cpu, cpu, "block_level", 1, offload_to_disk_path=folder)
    expected = call(pipe, steps=8)
    latents, session = cached(pipe, PARTIAL, steps=8)
    assert torch.equal(latents, expected) and len(session.schedules) == 2
    assert session.trace.counts(Branch.COND)[Compute.PARTIAL.name.lower()] > 0


@pytest.mark.parametrize("kind", ["vace", "t2v"])
def test_sequential_offload(kind):
    """Weights are on `meta` between calls."""
    from accelerate import cpu_offload

    pipe = build(kind)
    for part in (pipe.vae, pipe.transformer):  # all of them, as the pipeline's own method does on a GPU
        cpu_offload(part, execution_device=torch.device("cpu"))
    assert pipe.transformer.blocks[0].scale_shift_table.device.type == "meta"
    assert_equal_with_and_without(pipe)
    assert pipe.transformer.blocks[0].scale_shift_table.device.type == "meta"


def test_model_offload_sees_every_call():
    from accelerate import cpu_offload_with_hook

    pipe = build()
    _, hook = cpu_offload_with_hook(pipe.transformer, execution_device=torch.device("cpu"))
    calls = []
    before = hook.hook.pre_forward
    hook.hook.pre_forward = lambda *args, **kwargs: calls.append(1) or before(*args, **kwargs)
    assert_equal_with_and_without(pipe)
    calls.clear()
    cached(pipe, REUSE, steps=6)
    assert len(calls) == 12


def test_model_offload_that_the_pipeline_puts_on_anew_after_a_run():
    """As `maybe_free_model_hooks` does at the end of a call."""
    from accelerate import cpu_offload_with_hook
    from accelerate.hooks import remove_hook_from_module

    pipe = build()
    cpu = torch.device("cpu")
    cpu_offload_with_hook(pipe.transformer, execution_device=cpu)

    def free():
        remove_hook_from_module(pipe.transformer, recurse=True)
        cpu_offload_with_hook(pipe.transformer, execution_device=cpu)

    pipe.maybe_free_model_hooks = free
    assert_equal_with_and_without(pipe)


def test_layerwise_casting():
    pipe = build()
    pipe.transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    assert pipe.transformer.blocks[0].attn1.to_q.weight.dtype is torch.float8_e4m3fn
    assert_equal_with_and_without(pipe)


def test_lora():
    from peft import LoraConfig

    pipe = build()
    without = call(pipe, steps=STEPS)
    names = ["attn1.to_q", "attn1.to_out.0", "attn2.to_k", "attn2.to_v", "ffn.net.2", "proj_in"]
    pipe.transformer.add_adapter(LoraConfig(r=4, lora_alpha=8, init_lora_weights=False, target_modules=names))
    full = assert_equal_with_and_without(pipe)
    half = assert_equal_with_and_without(pipe, attention_kwargs={"scale": 0.5})
    assert not torch.equal(full, without) and not torch.equal(half, full)


@pytest.mark.parametrize("kind", ["vace", "i2v"])
def test_fused_projections(kind):
    pipe = build(kind)
    pipe.transformer.fuse_qkv_projections()
    assert pipe.transformer.blocks[0].attn1.fused_projections
    assert_equal_with_and_without(pipe)


def test_another_attention_backend():
    pipe = build()
    pipe.transformer.set_attention_backend("_native_math")
    assert_equal_with_and_without(pipe)


def test_torchao():
    pytest.importorskip("torchao")
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    pipe = build()
    without = call(pipe, steps=STEPS)
    quantize_(pipe.transformer, Int8WeightOnlyConfig())
    assert not torch.equal(assert_equal_with_and_without(pipe), without)


def test_compiled_repeated_blocks():
    pipe = build()
    pipe.transformer.compile_repeated_blocks(backend="eager")
    assert pipe.transformer.blocks[0]._compiled_call_impl is not None
    assert_equal_with_and_without(pipe)


def test_a_block_is_left_after_an_exception(tmp_path):
    pipe = build()
    cpu = torch.device("cpu")
    apply_group_offloading(pipe.transformer, cpu, cpu, "block_level", 1, offload_to_disk_path=str(tmp_path))
    block, left = pipe.transformer.blocks[1], []

    @contextmanager
    def watched():
        with entered(block):
            weights = block.ffn.net[2].weight.clone()
            yield
        left.append(weights)

    expected = call(pipe, steps=STEPS)
    with pytest.raises(ArithmeticError), watched():
        raise ArithmeticError
    assert torch.equal(call(pipe, steps=STEPS), expected)
