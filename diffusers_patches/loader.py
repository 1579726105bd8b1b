"""Build a `WanVACEPipeline` from a folder or a hub's repository of diffusers' layout."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKLWan, DiffusionPipeline

from hetcache.files import UserError
from hetcache.models import ModelInfo
from hetcache.models.backend import LoadOptions

SHIFTS = ("flow_shift", "shift")
"""What schedulers call the shift of their noise schedule: UniPC's and DPM's name, and flow matching Euler's."""
KINDS = {"WanVACEPipeline": "vace", "WanImageToVideoPipeline": "i2v"}
SIZES = {1536: "1.3b", 5120: "14b"}


def load_pipeline(model: str, info: ModelInfo, options: LoadOptions) -> Any:
    """The pipeline on its device; the autoencoder in float32, as its authors ask. `vram.limit_gib` keeps each component
    on the CPU while it does not run, `vram.fp8_storage` the transformer's weights in eight bits.

    Raises UserError for another pipeline or sampler than the model's files promised, OSError for files that lack.
    """
    autoencoder = AutoencoderKLWan.from_pretrained(
        model, subfolder="vae", revision=options.revision, torch_dtype=torch.float32
    )
    pipe = DiffusionPipeline.from_pretrained(
        model, revision=options.revision, torch_dtype=options.dtype, vae=autoencoder
    )
    name = type(pipe).__name__
    if name != "WanVACEPipeline":
        raise UserError(f"--model {model} is a {name}: an edit with a mask needs a WanVACEPipeline")
    if has_two_experts(pipe):
        raise UserError(f"--model {model} has two experts: run it in a program of your own, under enable_cache")
    sampler = type(pipe.scheduler).__name__
    if sampler != info.sampler:
        raise UserError(
            f"--model {model} samples with {sampler}, not with {info.sampler}: fetch the repository and give its folder"
        )
    if options.vram.fp8_storage:
        pipe.transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=options.dtype)
    if options.vram.limit_gib is not None:
        pipe.enable_model_cpu_offload(device=options.device)
    else:
        pipe.to(options.device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def shifted(scheduler: Any, shift: float) -> Any:
    """A scheduler of the same kind and settings with that shift. Raises UserError for one that has none."""
    name = next((name for name in SHIFTS if name in scheduler.config), None)
    if name is None:
        raise UserError(f"--sigma-shift: a {type(scheduler).__name__} has no shift; use UniPC or flow matching Euler")
    return type(scheduler).from_config(scheduler.config, **{name: shift})


def has_two_experts(pipe: Any) -> bool:
    return getattr(pipe, "transformer_2", None) is not None


def model_id(pipe: Any) -> str:
    """What calibrations call the model that a pipeline is: its family, its size and its library."""
    transformer = pipe.transformer if pipe.transformer is not None else pipe.transformer_2
    config = transformer.config
    dim = config.num_attention_heads * config.attention_head_dim
    names = [kind.__name__ for kind in type(pipe).__mro__]
    kind = next((KINDS[name] for name in names if name in KINDS), "t2v")
    family = "wan2.2" if has_two_experts(pipe) else "wan2.1"
    return f"{family}-{kind}-{SIZES.get(dim, dim)}-diffusers"
