"""The embedded model: tokenizer, loading, prefill."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toys import toy_config

from diffsynth_patches.tiny import (
    EMBEDDED_WEIGHTS,
    PARTS,
    TinyConfig,
    build_tiny_pipeline,
    load_tiny_pipeline,
    read_config,
    save_tiny_weights,
)
from diffsynth_patches.tiny.text import MAX_TOKENS, START, VOCABULARY, TinyTextEncoder, TinyTokenizer
from hetcache.files import UserError
from hetcache.media.fill import push_pull_fill

SMALL = toy_config(num_layers=2, ffn_dim=64, vace_layers=(0,), text_dim=16, freq_dim=32)
trained = pytest.mark.skipif(not (EMBEDDED_WEIGHTS / "config.json").is_file(), reason="no weights in data/tiny")


def test_tokenizer_knows_attributes_and_skips_the_rest():
    ids, mask = TinyTokenizer()("A DARK-green, textured zebra; grey gray", return_mask=True, add_special_tokens=True)
    assert ids.shape == mask.shape == (1, MAX_TOKENS)
    words = ids[0, : int(mask.sum())].tolist()
    assert words == [START, VOCABULARY["dark"], VOCABULARY["green"], VOCABULARY["textured"], VOCABULARY["grey"]]


def test_tokenizer_empty_and_overlong_prompts():
    ids, mask = TinyTokenizer()(["", " ".join(VOCABULARY)], return_mask=True)
    assert int(mask[0].sum()) == 1
    assert int(mask[1].sum()) == MAX_TOKENS
    assert TinyTokenizer()("dark", add_special_tokens=False)[0, 0] == VOCABULARY["dark"]


def test_text_encoder_ignores_padding():
    encoder = TinyTextEncoder(8)
    ids, mask = TinyTokenizer()("dark", return_mask=True)
    embedding = encoder(ids, mask)
    assert embedding.shape == (1, MAX_TOKENS, 8)
    assert not embedding[0, 2:].any()


@pytest.mark.parametrize(
    "bad", [{"dim": 80, "num_heads": 2}, {"dim": 100, "num_heads": 3}, {"vace_layers": (1,)}, {"vace_layers": (0, 8)}]
)
def test_config_refuses_impossible_shapes(bad):
    with pytest.raises(ValueError):
        TinyConfig(**bad)


def test_pipeline_runs_and_is_reproducible():
    frames = [Image.fromarray(np.full((32, 48, 3), 40 * t, np.uint8)) for t in range(5)]
    hole = np.zeros((32, 48, 3), np.uint8)
    hole[8:24, 16:32] = 255
    call = dict(
        prompt="dark",
        vace_video=frames,
        vace_video_mask=[Image.fromarray(hole)] * 5,
        num_frames=5,
        height=32,
        width=48,
        tiled=False,
        seed=0,
        num_inference_steps=2,
        cfg_scale=2.0,
        progress_bar_cmd=lambda x: x,
    )
    first, second = (build_tiny_pipeline(SMALL, seed=3)(**call) for _ in range(2))
    assert len(first) == 5
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_build_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    build_tiny_pipeline(SMALL, seed=1)
    assert torch.equal(torch.rand(1), expected)


def test_save_and_load_round_trip(tmp_path: Path):
    pipe = build_tiny_pipeline(SMALL, seed=1)
    save_tiny_weights(pipe, SMALL, tmp_path, {"commit": "test"})
    assert read_config(tmp_path) == SMALL
    loaded = load_tiny_pipeline(weights_dir=tmp_path)
    for part in PARTS:
        for key, value in getattr(pipe, part).state_dict().items():
            assert torch.equal(getattr(loaded, part).state_dict()[key], value.half().float()), f"{part}.{key}"


def test_weights_of_another_version_are_refused(tmp_path: Path):
    pipe = build_tiny_pipeline(SMALL, seed=1)
    save_tiny_weights(pipe, SMALL, tmp_path, {"commit": "test"})
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace("vae_features", "vae_channels"))
    with pytest.raises(UserError, match="another version's embedded model .*vae_channels, vae_features"):
        load_tiny_pipeline(weights_dir=tmp_path)


def test_load_names_what_is_missing(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="vae.safetensors"):
        load_tiny_pipeline(weights_dir=tmp_path)


@trained
def test_committed_weights_load_and_stay_small():
    files = list(EMBEDDED_WEIGHTS.glob("*.safetensors"))
    assert sum(f.stat().st_size for f in files) <= 25_000_000
    pipe = load_tiny_pipeline()
    latents = pipe.vae.encode(torch.linspace(-0.8, 0.8, 64).expand(1, 3, 5, 64, 64), "cpu")
    assert torch.isfinite(latents).all()
    gradient = torch.linspace(-0.8, 0.8, 64).expand(1, 3, 5, 64, 64)
    assert (pipe.vae.decode(latents, "cpu") - gradient).square().mean() < 4 * 10**-2.7


def _naive_constant(video, mask):
    """Where everything known has one value, any weighted mean of known pixels is that value."""
    return video[(mask < 0.5).expand_as(video)].mean()


@pytest.mark.parametrize("size", [(1, 1, 2), (1, 7, 9), (5, 16, 16), (3, 13, 21)])
def test_prefill_of_a_constant_is_that_constant(size):
    t, h, w = size
    mask = torch.zeros(t, 1, h, w)
    mask.view(-1)[: t * h * w // 2] = 1
    video = torch.full((t, 3, h, w), 0.3)
    dirty = torch.where(mask > 0, torch.tensor(float("nan")), video)
    filled = push_pull_fill(dirty, mask)
    assert torch.allclose(filled, _naive_constant(dirty, mask).expand_as(filled), atol=1e-5)


def test_prefill_keeps_known_pixels_and_stays_within_their_range():
    torch.manual_seed(0)
    video, mask = torch.rand(4, 3, 11, 14), (torch.rand(4, 1, 11, 14) > 0.4).float()
    filled = push_pull_fill(video, mask)
    known = (mask < 0.5).expand_as(video)
    assert torch.equal(filled[known], video[known])
    assert filled.min() >= video[known].min() - 1e-5
    assert filled.max() <= video[known].max() + 1e-5


def test_prefill_sees_through_time():
    """A still scene behind a moving mask: the fill is closer to the scene than the spatial surroundings are."""
    scene = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)).expand(9, -1, -1, -1)
    scene = torch.nn.functional.interpolate(scene, scale_factor=2, mode="nearest")
    moving, still = torch.zeros(9, 1, 32, 32), torch.zeros(9, 1, 32, 32)
    for t in range(9):
        moving[t, :, 8:20, 3 * t : 3 * t + 6] = 1
    still[:, :, 8:20, 12:18] = 1
    errors = [float(((push_pull_fill(scene, m) - scene) * m).square().sum() / m.sum()) for m in (moving, still)]
    assert errors[0] < errors[1]


def test_prefill_edge_masks_and_errors():
    video = torch.rand(2, 3, 8, 8)
    assert torch.equal(push_pull_fill(video, torch.zeros(2, 1, 8, 8)), video)
    assert not push_pull_fill(video, torch.ones(2, 1, 8, 8)).any()
    with pytest.raises(ValueError, match="mask has shape"):
        push_pull_fill(video, torch.zeros(2, 1, 8, 9))
    with pytest.raises(ValueError, match="floating point"):
        push_pull_fill(video.mul(255).byte(), torch.zeros(2, 1, 8, 8))
