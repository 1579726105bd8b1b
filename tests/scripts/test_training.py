"""Training tools of the embedded model: the training forward pass, data, masks, captions."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from diffsynth.pipelines.wan_video import model_fn_wan_video
from toys import toy_config

from diffsynth_patches.tiny import TinyConfig, build_tiny_pipeline
from diffsynth_patches.tiny.text import VOCABULARY
from scripts.train import forward as tiny_forward
from scripts.train.arrays import prepare
from scripts.train.captions import caption
from scripts.train.clips import ClipSampler
from scripts.train.denoiser import shifted
from scripts.train.masks import random_mask
from scripts.train.mimetic import mimetic_init
from scripts.train.optim import orthogonalise
from scripts.train.pool import encode_sample

SMALL = toy_config(dim=96, num_layers=3, ffn_dim=64, text_dim=16, freq_dim=32)


@pytest.fixture(scope="module")
def pipe():
    return build_tiny_pipeline(SMALL)


def _inputs(batch=2):
    g = torch.Generator().manual_seed(0)
    shapes = ((16, 2, 6, 8), (16, 16), (96, 2, 6, 8))
    latents, context, vace = (torch.randn(batch, *shape, generator=g) for shape in shapes)
    return dict(latents=latents, timestep=torch.tensor([700.0, 30.0])[:batch], context=context, vace_context=vace)


def test_training_forward_equals_diffsynth(pipe):
    x = _inputs()
    expected = model_fn_wan_video(pipe.dit, vace=pipe.vace, **x)
    got = tiny_forward.forward(pipe.dit, pipe.vace, x["latents"], x["timestep"], x["context"], x["vace_context"])
    assert torch.allclose(got, expected, atol=2e-5)


def test_attention_gradients_equal_sdpa():
    q, k, v = (torch.randn(2, 2, n, 12, requires_grad=True) for n in (5, 7, 7))
    grads = []
    for attend in (tiny_forward.attention, torch.nn.functional.scaled_dot_product_attention):
        grads.append(torch.autograd.grad(attend(q, k, v).square().sum(), (q, k, v)))
    for a, b in zip(*grads, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_local_head_looks_at_its_neighbour():
    pipe = build_tiny_pipeline(TinyConfig())
    mimetic_init(pipe.dit, pipe.vace)
    attn = pipe.dit.blocks[0].self_attn
    cos, sin = tiny_forward.rotary_table(pipe.dit, 1, 5, 7, torch.float32, torch.device("cpu"))
    y = torch.randn(1, 35, 192, generator=torch.Generator().manual_seed(0))
    q, k = (
        tiny_forward._rotate(tiny_forward._heads(tiny_forward._rms(linear(y), norm), 4), cos, sin)
        for linear, norm in ((attn.q, attn.norm_q), (attn.k, attn.norm_k))
    )
    best = (q @ k.transpose(-1, -2))[0, 0, 17].argmax()
    assert int(best) == 16


def test_orthogonalise_flattens_the_spectrum():
    values = torch.linalg.svdvals(orthogonalise(torch.randn(24, 40)).float())
    assert 0.5 < values.min() <= values.max() < 1.4


def test_captions_use_the_vocabulary_and_see_the_colour():
    clip = np.zeros((5, 32, 32, 3), np.uint8)
    clip[..., 1] = 180
    mask = np.ones((5, 32, 32), np.uint8)
    words = caption(clip, mask)
    assert {"green", "smooth", "still", "uniform"} <= set(words)
    assert set(words) <= set(VOCABULARY)
    assert caption(clip, mask * 0) == []


def test_random_masks_keep_their_area():
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = random_mask(rng, 5, 64, 80)
        assert mask.shape == (5, 64, 80)
        assert 0.02 < mask.mean() < 0.5


def test_prepare_and_sample_any_folder(tmp_path: Path):
    rng = np.random.default_rng(0)
    source, data = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    cv2.imwrite(str(source / "photo.png"), cv2.resize(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8), (400, 300)))
    assert prepare([source], data) == 1
    clips = [ClipSampler(data, np.random.default_rng(4)).sample(5, 64, 80) for _ in range(2)]
    assert clips[0].shape == (5, 64, 80, 3)
    assert np.array_equal(*clips)
    with pytest.raises(ValueError, match="prepare"):
        ClipSampler(source, rng)


def test_encoded_condition_equals_the_vace_unit(pipe):
    """What training feeds the network is what the pipeline's VACE unit makes of the prefilled video."""
    from hetcache.media.fill import push_pull_fill

    rng = np.random.default_rng(0)
    clip, mask = rng.integers(0, 255, (5, 32, 48, 3), dtype=np.uint8), np.zeros((5, 32, 48), np.uint8)
    mask[:, 8:24, 16:40] = 1
    video = torch.from_numpy(clip).permute(0, 3, 1, 2).float() / 127.5 - 1
    filled = push_pull_fill(video, torch.from_numpy(mask).unsqueeze(1).float()).transpose(0, 1).unsqueeze(0)
    hole = torch.from_numpy(mask).float()[None, None]
    expected = [pipe.vae.encode(filled * part, "cpu") for part in (1 - hole, hole)]
    encoded = encode_sample(pipe.vae.model, clip[None], mask[None], "cpu")
    assert encoded["vace"].shape == (1, 96, 2, 4, 6)
    got = encoded["vace"][:, :32].float()
    assert (got - torch.cat(expected, 1)).abs().max() < 0.1
    assert encoded["mask"].mean() == 0.25


def test_times_follow_the_schedule():
    assert torch.allclose(shifted(torch.tensor([0.0, 0.5, 1.0])), torch.tensor([0.0, 5 / 6, 1.0]))
