"""The caching forward against unpatched diffusers pipelines: bit for bit where nothing is skipped."""

from __future__ import annotations

import pytest
import torch
from baseline_runs import baseline
from diffusers_runs import ALL_TOKENS, FRAMES, HEIGHT, WIDTH, SublayerManager, build, built, cached, call, mask_THW
from PIL import Image

from diffusers_patches.block import BlockInputs, WanBlockOps
from hetcache.core.flops import full_step_flops, text_flops, vace_embedding_flops
from hetcache.core.mode import RunContext
from hetcache.core.vocabulary import Branch

MANAGERS = {"baseline": baseline, "sub-layers": lambda branch, schedule: SublayerManager()}


@pytest.fixture(scope="module")
def pipe():
    return build()


@pytest.mark.parametrize("make_manager", MANAGERS.values(), ids=MANAGERS)
@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("sampler", ["euler", "unipc"])
def test_baseline_equals_the_unpatched_pipeline(sampler, guidance, make_manager):
    pipe = build(sampler=sampler)
    expected = call(pipe, steps=4, guidance=guidance)
    actual, session = cached(pipe, make_manager, steps=4, guidance=guidance)
    assert torch.equal(actual, expected)
    assert session.trace.decisions(Branch.COND) == "FFFF"
    assert session.trace.decisions(Branch.UNCOND) == ("FFFF" if guidance != 1 else "")


@pytest.mark.parametrize("make_manager", MANAGERS.values(), ids=MANAGERS)
@pytest.mark.parametrize("kind", ["t2v", "i2v", "i2v22", "v2v"])
def test_pipelines_without_vace_equal_theirs(kind, make_manager):
    """Video to video opens no cache_context: its branches are told by their embeddings."""
    pipe = build(kind, "unipc")
    expected = call(pipe, steps=5)
    actual, session = cached(pipe, make_manager, steps=5)
    assert torch.equal(actual, expected)
    run = 4 if kind == "v2v" else 5
    assert session.trace.decisions(Branch.COND) == session.trace.decisions(Branch.UNCOND) == "F" * run


@pytest.mark.parametrize("convert", [True, False], ids=["norms in float32", "all in bfloat16"])
def test_bfloat16(convert, tmp_path):
    from diffusers import WanVACETransformer3DModel

    pipe = build()
    if convert:
        pipe.transformer.save_pretrained(tmp_path)
        pipe.transformer = WanVACETransformer3DModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
        assert pipe.transformer.blocks[0].scale_shift_table.dtype is torch.float32
    else:
        pipe.transformer.to(torch.bfloat16)
    expected = call(pipe, steps=3)
    for make_manager in MANAGERS.values():
        assert torch.equal(cached(pipe, make_manager, steps=3)[0], expected)


def test_one_scale_per_layer(pipe):
    expected = call(pipe, steps=3, conditioning_scale=[0.3, 1.7])
    assert not torch.equal(expected, call(pipe, steps=3))
    for make_manager in MANAGERS.values():
        assert torch.equal(cached(pipe, make_manager, steps=3, conditioning_scale=[0.3, 1.7])[0], expected)


def test_hetcache_of_full_steps_equals_the_unpatched_pipeline(pipe):
    make = built("hetcache", cache_thresh=0.0, max_partial_run=0)
    actual, session = cached(pipe, make)
    assert session.trace.decisions(Branch.COND) == "FFFFFF"
    assert torch.equal(actual, call(pipe))


IMAGES = [Image.new("RGB", (WIDTH, HEIGHT), color) for color in ((200, 30, 60), (20, 230, 60))]


@pytest.mark.parametrize("images", [None, IMAGES[:1], IMAGES])
@pytest.mark.parametrize("context_kv", ["cached", "sampled"])
def test_partial_steps_of_all_tokens_equal_full_ones(pipe, context_kv, images):
    """Behind reference images, too."""
    make = built("hetcache", **ALL_TOKENS, context_kv=context_kv)
    actual, session = cached(pipe, make, reference_images=images)
    assert session.trace.decisions(Branch.COND) == "FPPPPF"
    assert session.trace.num_tokens == (3 + len(images or ())) * 24
    # The rest of a token outside of the plan is x_in + R: there is none here, so no rounding either.
    assert (actual - call(pipe, reference_images=images)).abs().max() == 0.0


def test_rows_equal_full_rows_when_inputs_are_frozen_and_kv_cached(pipe):
    torch.manual_seed(0)
    block, num_tokens, dim = pipe.transformer.blocks[1], 40, 48
    x = torch.randn(1, num_tokens, dim)
    rope = (torch.randn(1, num_tokens, 1, 24), torch.randn(1, num_tokens, 1, 24))
    full = WanBlockOps(block, "dit", 0, 4, 96, BlockInputs(torch.randn(1, 7, dim), torch.randn(1, 6, dim), rope))
    with torch.no_grad():
        attention, expected = full.self_attn(x), full.full(x)
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


def test_flops_equal_the_closed_form(pipe):
    from diffusers_patches.apply import patched
    from hetcache.core.session import CacheSession

    session = CacheSession(baseline)
    with patched(pipe, session) as (expert,):
        call(pipe)
    tokens = RunContext.of(torch.from_numpy(mask_THW()), "none").num_tokens
    assert tokens == 3 * (HEIGHT // 16) * (WIDTH // 16) and FRAMES == 9
    embedded_once = 11 * vace_embedding_flops(expert.shape, tokens) + 10 * text_flops(expert.shape)
    assert session.trace.work.flops == full_step_flops(expert.shape, tokens) * 12 - embedded_once
    assert session.trace.flops_uncached == full_step_flops(expert.shape, tokens) * 12
    assert session.trace.work.blocks == {"dit": 12 * 4, "vace": 12 * 2}
