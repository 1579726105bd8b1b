"""What of diffusers is supported; everything else is refused by name instead of being silently wrong."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import torch

from diffusers_patches.hooks import replacing

TESTED_VERSIONS = ((0, 38), (0, 43))
PIPELINES = ("WanVACEPipeline", "WanPipeline", "WanImageToVideoPipeline", "WanVideoToVideoPipeline")


def check_version(installed: str | None = None) -> None:
    """Raise RuntimeError unless diffusers' version is in the tested range (first included, last excluded)."""
    installed = installed or version("diffusers")
    parts = tuple(int(part) for part in installed.split(".")[:2] if part.isdigit())
    low, high = (".".join(map(str, bound)) for bound in TESTED_VERSIONS)
    if not TESTED_VERSIONS[0] <= parts < TESTED_VERSIONS[1]:
        raise RuntimeError(
            f"diffusers {installed} is not supported (tested: >= {low}, < {high}): "
            f"pip install 'diffusers>={low},<{high}'"
        )


def check_pipeline(pipe: Any) -> None:
    """Raise ValueError, by name, for what the caching forward would pass by or compute otherwise."""
    if not any(kind.__name__ in PIPELINES for kind in type(pipe).__mro__):
        raise ValueError(f"a {type(pipe).__name__} cannot be cached: supported are {', '.join(PIPELINES)}")
    if getattr(pipe.config, "expand_timesteps", False):
        raise ValueError("per-token timesteps (expand_timesteps, Wan2.2 TI2V-5B) are not supported with caching")
    for name in ("transformer", "transformer_2"):
        transformer = getattr(pipe, name, None)
        if transformer is not None:
            check_transformer(transformer, name)


def check_transformer(transformer: Any, name: str) -> None:
    """Raise ValueError for a transformer that does not run as its class says."""
    if isinstance(transformer, torch._dynamo.OptimizedModule) or transformer._compiled_call_impl is not None:
        raise ValueError(
            f"pipe.{name} is compiled as a whole, which leaves no place for a cache: "
            f"use pipe.{name}.compile_repeated_blocks() instead"
        )
    if transformer.is_cache_enabled:
        kind = type(transformer._cache_config).__name__.removesuffix("Config")
        raise ValueError(f"pipe.{name} has diffusers' {kind} enabled: call pipe.{name}.disable_cache() first")
    if getattr(transformer, "_parallel_config", None) is not None:
        raise ValueError(f"pipe.{name} uses diffusers' context parallelism, which is not supported with caching")
    blocks = [*transformer.blocks, *getattr(transformer, "vace_blocks", ())]
    for module in (transformer, *blocks, *(block.attn1 for block in blocks)):
        for other in replacing(module):
            raise ValueError(
                f"the forward of pipe.{name}'s {type(module).__name__} is replaced by {other}: "
                "undo that first (another cache, or a session that was not disabled)"
            )
    for processor in transformer.attn_processors.values():
        if type(processor).__name__ != "WanAttnProcessor":
            raise ValueError(
                f"pipe.{name} computes attention with a {type(processor).__name__}: caching knows WanAttnProcessor "
                "alone (for another kernel use set_attention_backend)"
            )
