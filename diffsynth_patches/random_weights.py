"""A Wan-VACE pipeline of true dimensions with random weights: time and memory can be measured, quality cannot.

The text encoder (umT5-xxl, 5.7 G parameters) is replaced by random embeddings of its shape: it runs once a video,
before the loop, and is the same for every method. So its time and its memory are not in the figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffsynth.models.wan_video_dit import WanModel
from diffsynth.models.wan_video_vace import VaceWanModel
from diffsynth.models.wan_video_vae import WanVideoVAE
from diffsynth.pipelines.wan_video import WanVideoPipeline

from hetcache.models.prompts import PromptBook


@dataclass(frozen=True)
class WanShape:
    """Dimensions of a published Wan2.1-VACE."""

    dim: int
    ffn_dim: int
    num_heads: int
    num_layers: int
    vace_layers: tuple[int, ...]
    text_len: int = 512
    text_dim: int = 4096


SHAPES = {
    "wan2.1-vace-1.3b": WanShape(1536, 8960, 12, 30, tuple(range(0, 30, 2))),
    "wan2.1-vace-14b": WanShape(5120, 13824, 40, 40, tuple(range(0, 40, 5))),
}


def random_pipeline(
    shape: WanShape, device: str, dtype: torch.dtype, prompts: Sequence[str], vae: torch.nn.Module | None = None
) -> WanVideoPipeline:
    """A pipeline of that shape that knows `prompts` alone; `vae` replaces Wan's own (random) autoencoder."""
    common = {
        "dim": shape.dim,
        "num_heads": shape.num_heads,
        "ffn_dim": shape.ffn_dim,
        "eps": 1e-6,
        "patch_size": (1, 2, 2),
        "has_image_input": False,
    }
    pipe = WanVideoPipeline(device=device, torch_dtype=dtype)
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        pipe.dit = _ready(
            WanModel(
                in_dim=16, out_dim=16, text_dim=shape.text_dim, freq_dim=256, num_layers=shape.num_layers, **common
            ),
            device,
            dtype,
        )
        pipe.vace = _ready(VaceWanModel(vace_layers=shape.vace_layers, vace_in_dim=96, **common), device, dtype)
        book = PromptBook(
            {prompt: torch.randn(shape.text_len, shape.text_dim).to(dtype) for prompt in prompts}, shape.text_len
        )
    pipe.text_encoder, pipe.tokenizer = book, book.tokenize
    pipe.vae = _ready(vae if vae is not None else WanVideoVAE(), device, dtype)
    return pipe


def _ready(module: torch.nn.Module, device: str, dtype: torch.dtype) -> torch.nn.Module:
    return module.to(device=device, dtype=dtype).eval().requires_grad_(False)
