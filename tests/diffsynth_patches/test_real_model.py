"""The published models without a hub: their architecture against DiffSynth's fingerprints, and the real loader."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from diffsynth.configs import MODEL_CONFIGS
from diffsynth.core.loader.file import convert_keys_dict_to_single_str, hash_model_file
from diffsynth.models.wan_video_dit import WanModel
from diffsynth.models.wan_video_vace import VaceWanModel
from diffsynth.models.wan_video_vae import WanVideoVAE
from pipeline_calls import pipe_kwargs
from safetensors.torch import save_file

from diffsynth_patches import loader
from diffsynth_patches.denoiser import model_shape
from hetcache.core.flops import cache_bytes, full_step_flops
from hetcache.models.prompts import PromptStore

# DiffSynth recognises a published file by the MD5 of its sorted "name:shape" list, so an equal fingerprint means
# that every name and every shape is the published one.
PUBLISHED = {
    "wan2.1-vace-1.3b": ("a61453409b67cd3246cf0c3bebad47ba", 2_153_972_032),
    "wan2.1-vace-14b": ("7a513e1f257a861512b1afd387a8ecd9", 17_337_592_896),
}
COMMON = {"dim": 1536, "num_heads": 12, "ffn_dim": 8960, "eps": 1e-6, "patch_size": (1, 2, 2), "has_image_input": False}
VAE_HASH = "ccc42284ea13e1ad04693284c7a09be6"


def meta_models(fingerprint):
    classes = {"wan_video_dit": WanModel, "wan_video_vace": VaceWanModel}
    with torch.device("meta"):
        return {
            entry["model_name"]: classes[entry["model_name"]](**entry.get("extra_kwargs", {}))
            for entry in MODEL_CONFIGS
            if entry["model_hash"] == fingerprint
        }


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_shapes_and_parameter_count_of_the_published_file(name):
    fingerprint, num_parameters = PUBLISHED[name]
    shapes = {
        key: list(value.shape)
        for model in meta_models(fingerprint).values()
        for key, value in model.state_dict().items()
    }
    assert hashlib.md5(convert_keys_dict_to_single_str(shapes, True).encode()).hexdigest() == fingerprint
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == num_parameters


def test_flops_and_cache_memory_at_true_dimensions():
    models = meta_models(PUBLISHED["wan2.1-vace-1.3b"][0])
    shape = model_shape(models["wan_video_dit"], models["wan_video_vace"], 512)
    assert (shape.dim, shape.num_layers, shape.num_vace_layers) == (1536, 30, 15)
    tokens = {33: 9 * 30 * 52, 81: 21 * 30 * 52}
    assert full_step_flops(shape, tokens[33]) == pytest.approx(110.46e12, rel=1e-3)
    assert full_step_flops(shape, tokens[81]) == pytest.approx(427.00e12, rel=1e-3)
    both_branches_gb = {frames: 2 * cache_bytes(shape, n, True, True, 2) / 1e9 for frames, n in tokens.items()}
    assert both_branches_gb == {33: pytest.approx(7.85, abs=0.01), 81: pytest.approx(18.32, abs=0.01)}


@pytest.fixture(scope="module")
def two_layer_folder(tmp_path_factory):
    """A folder with the published file names, keys and dimensions, of a model with 2 DiT layers and 1 VACE layer."""
    folder = tmp_path_factory.mktemp("wan")
    torch.manual_seed(0)
    dit = WanModel(in_dim=16, out_dim=16, text_dim=4096, freq_dim=256, num_layers=2, **COMMON)
    vace = VaceWanModel(vace_layers=(0,), vace_in_dim=96, **COMMON)
    weights = {**dit.state_dict(), **vace.state_dict()}
    save_file({key: value.bfloat16() for key, value in weights.items()}, folder / "diffusion_pytorch_model.safetensors")
    vae = {key.removeprefix("model."): value.bfloat16() for key, value in WanVideoVAE().state_dict().items()}
    save_file(vae, folder / "Wan2.1_VAE.safetensors")
    (folder / "models_t5_umt5-xxl-enc-bf16.safetensors").write_bytes(b"never read: the prompts are known")
    (folder / "google" / "umt5-xxl").mkdir(parents=True)
    return folder


@pytest.mark.slow
def test_a_folder_goes_through_the_real_loader_and_edits_without_its_text_encoder(
    two_layer_folder, monkeypatch, tmp_path
):
    from hetcache_runs import hetcache_session, run

    assert hash_model_file(str(two_layer_folder / "Wan2.1_VAE.safetensors")) == VAE_HASH
    fingerprint = hash_model_file(str(two_layer_folder / "diffusion_pytorch_model.safetensors"))
    sizes = {
        "wan_video_dit": {"in_dim": 16, "out_dim": 16, "text_dim": 4096, "freq_dim": 256, "num_layers": 2, **COMMON},
        "wan_video_vace": {"vace_layers": (0,), "vace_in_dim": 96, **COMMON},
    }
    for entry in [e for e in MODEL_CONFIGS if e["model_hash"] == PUBLISHED["wan2.1-vace-1.3b"][0]]:
        ours = {**entry, "model_hash": fingerprint, "extra_kwargs": sizes[entry["model_name"]]}
        monkeypatch.setattr("diffsynth.models.model_loader.MODEL_CONFIGS", [*_configs(), ours])
    monkeypatch.setenv("HETCACHE_CACHE", str(tmp_path))
    encoder = two_layer_folder / "models_t5_umt5-xxl-enc-bf16.safetensors"
    store = PromptStore(f"{encoder.name} {encoder.stat().st_size} torch.float32")
    for prompt in ("a lawn", "blurry"):
        store.put(prompt, torch.randn(7, 4096))
    pipe, info = loader.load_pipeline(str(two_layer_folder), "cpu", torch.float32, ("a lawn", "blurry"))
    assert info.model_id == "wan2.1-vace-1.3b"
    mask = np.zeros((5, 32, 48), dtype=bool)
    mask[:, :16, :16] = True
    frames = np.random.default_rng(0).integers(0, 255, (*mask.shape, 3), dtype=np.uint8)
    kwargs = pipe_kwargs(frames, mask, prompt="a lawn", negative_prompt="blurry", num_inference_steps=3)
    expected = pipe(**kwargs)
    assert torch.equal(run(pipe, kwargs, hetcache_session(mask, "FFF")), expected)
    assert run(pipe, kwargs, hetcache_session(mask, "FPF")).shape == expected.shape


def _configs():
    import diffsynth.models.model_loader as model_loader

    return model_loader.MODEL_CONFIGS


@pytest.mark.parametrize("missing", ["diffusion_pytorch_model", "umt5", "VAE"])
def test_a_folder_that_lacks_a_file_says_which(tmp_path, missing):
    names = ("diffusion_pytorch_model.safetensors", "models_t5_umt5-xxl-enc-bf16.pth", "Wan2.1_VAE.pth")
    for name in names:
        if missing not in name:
            (tmp_path / name).write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=missing):
        loader.folder_configs(tmp_path)
