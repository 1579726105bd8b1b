"""Tiny diffusers pipelines with random weights, and runs of them with and without a cache."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

from hetcache.core.vocabulary import CacheManager, Compute, Decision

FRAMES, HEIGHT, WIDTH, TEXT_LEN, TEXT_DIM = 9, 64, 96, 7, 16
SIZE = {"num_attention_heads": 2, "attention_head_dim": 24, "ffn_dim": 96, "text_dim": TEXT_DIM, "freq_dim": 32}

ALL_TOKENS = {
    "cache_thresh": 1e-6,
    "decision_rule": "dual",
    "refresh_band": 1e9,
    "last_full": True,
    "margin_ratio": 1.0,
    "context_ratio": 1.0,
}
"""HetCache settings whose partial steps compute every token."""


class SublayerManager(CacheManager):
    """Computes every block sub-layer by sub-layer."""

    def decide(self, step, hidden):
        return Decision(Compute.FULL, "test")

    def run_block(self, ops, x_BND, decision):
        x_BND = ops.add_self_attn(x_BND, ops.self_attn(x_BND).out_BND)
        x_BND = ops.add_cross_attn(x_BND, ops.cross_attn(x_BND))
        return ops.add_mlp(x_BND, ops.mlp(x_BND))


def vae():
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan(base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1)


def remember(encoder):
    """Encoding the fixture's frames takes longer than a run of the tiny transformer."""
    encode, known = encoder.encode, {}

    def remembered(x, *args, **kwargs):
        key = tuple(x.shape), float(x.double().sum())
        if key not in known:
            known[key] = encode(x, *args, **kwargs)
        return known[key]

    encoder.encode = remembered
    return encoder


def scheduler(kind="euler"):
    from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

    if kind == "euler":
        return FlowMatchEulerDiscreteScheduler(shift=3.0)
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


def transformer(vace=True, num_layers=4, **config):
    """Random networks start near the identity; larger weights make every wrong row visible."""
    from diffusers import WanTransformer3DModel, WanVACETransformer3DModel

    if vace:
        model = WanVACETransformer3DModel(**SIZE, num_layers=num_layers, vace_layers=[0, 2], **config)
    else:
        model = WanTransformer3DModel(**SIZE, num_layers=num_layers, **config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


def build(kind="vace", sampler="euler", experts=1, boundary=0.875, seed=1, **config) -> Any:
    """`kind`: vace, t2v, i2v (Wan2.1: an image's features), i2v22 (without) or v2v."""
    import diffusers

    torch.manual_seed(seed)
    name = {"vace": "WanVACEPipeline", "t2v": "WanPipeline", "v2v": "WanVideoToVideoPipeline"}
    kinds = {"i2v": {"in_channels": 36, "image_dim": 20, "added_kv_proj_dim": 48}, "i2v22": {"in_channels": 36}}
    config = {**kinds.get(kind, {}), **config}
    parts = {
        "tokenizer": None,
        "text_encoder": None,
        "vae": remember(vae()),
        "scheduler": scheduler(sampler),
        "transformer": transformer(kind == "vace", **config),
    }
    if kind.startswith("i2v"):
        parts |= {"image_encoder": None, "image_processor": None}
    if kind != "v2v":
        parts["transformer_2"] = transformer(kind == "vace", **config) if experts == 2 else None
        parts["boundary_ratio"] = boundary if experts == 2 else None
    pipe = getattr(diffusers, name.get(kind, "WanImageToVideoPipeline"))(**parts)
    if kind == "i2v":
        features = torch.randn(1, 5, 20)
        pipe.encode_image = lambda image, device: features
    pipe.set_progress_bar_config(disable=True)
    return pipe


def mask_THW():
    """A box that moves."""
    mask = np.zeros((FRAMES, HEIGHT, WIDTH), dtype=bool)
    for t in range(FRAMES):
        mask[t, 18:40, 20 + 2 * t : 40 + 2 * t] = True
    return mask


def cached(pipe, make_manager, **overrides):
    """(latents, session) of one call under managers."""
    from diffusers_patches.apply import patched
    from hetcache.core.session import CacheSession

    session = CacheSession(make_manager, make_stage=lambda: make_manager)
    with patched(pipe, session):
        return call(pipe, **overrides), session


def built(name, **settings):
    """The managers of a mode, with a calibration that takes the signal for the change."""
    from replay import ToyCalibration

    from hetcache.core.drift import IDENTITY
    from hetcache.core.mode import RunContext
    from hetcache.modes import MODES

    mode = MODES[name]
    config = mode.config(**{**mode.defaults, **settings})
    toy = ToyCalibration("toy", "", {"e": IDENTITY, "e0": IDENTITY}, magcache={"cond": (1.0, *(0.99,) * 11)})
    mask = torch.from_numpy(mask_THW()) if mode.needs_mask else None
    return mode.build(config, RunContext.of(mask, lambda: toy, mode.margin_width(config)))


def call(pipe, steps=6, guidance=3.0, **overrides):
    """The latents of one call."""
    random = torch.Generator().manual_seed(3)
    frames = np.random.default_rng(0).integers(0, 255, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    # Wan 2.1's image features take 512 text tokens for granted.
    text_len = 512 if getattr(pipe.transformer.config, "image_dim", None) else TEXT_LEN
    kind = type(pipe).__name__
    kwargs = {
        "prompt_embeds": torch.randn(1, text_len, TEXT_DIM, generator=random),
        "negative_prompt_embeds": torch.randn(1, text_len, TEXT_DIM, generator=random),
        "height": HEIGHT,
        "width": WIDTH,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "generator": torch.Generator().manual_seed(0),
        "output_type": "latent",
    }
    video = [Image.fromarray(frame) for frame in frames]
    if kind == "WanVACEPipeline":
        masks = [Image.fromarray(mask.astype(np.uint8) * 255).convert("RGB") for mask in mask_THW()]
        kwargs |= {"video": video, "mask": masks}
    if kind == "WanVideoToVideoPipeline":
        kwargs |= {"video": video, "strength": 0.8}
    else:
        kwargs["num_frames"] = FRAMES
    if kind == "WanImageToVideoPipeline":
        kwargs["image"] = video[0]
    return pipe(**{**kwargs, **overrides}).frames
