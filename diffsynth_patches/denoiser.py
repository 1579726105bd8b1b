"""DiffSynth's Wan DiT with its VACE branch as a `hetcache.core.denoiser.Denoiser`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from diffsynth.core.vram.layers import AutoWrappedLinear
from diffsynth.models.wan_video_dit import rope_apply, sinusoidal_embedding_1d
from einops import rearrange

from diffsynth_patches.block import BlockInputs, DiTBlockOps, computable, rope_apply_float32
from diffsynth_patches.compiled import EAGER, Regions
from hetcache.core import step
from hetcache.core.denoiser import Call
from hetcache.core.flops import ModelShape, WorkMeter
from hetcache.core.vocabulary import Grid, Hidden, Schedule


class WanDenoiser:
    """A plain class on purpose: the pipeline is an `nn.Module` and would register a module as its child.

    `fast_rope` rotates in float32, `regions` are the compiled parts of a block: faster, and no longer bit for bit
    upstream's (see `deviations`)."""

    def __init__(self, pipe: Any, fast_rope: bool = False, regions: Regions = EAGER) -> None:
        self._dit, self._vace = pipe.dit, pipe.vace
        self._device = pipe.device
        self._fast_rope = fast_rope
        self._regions = regions
        self.num_layers = len(self._dit.blocks)
        self.num_hints = len(self._vace.vace_blocks) if self._vace is not None else 0
        self.hint_after: Mapping[int, int] = dict(self._vace.vace_layers_mapping) if self._vace is not None else {}

    def shape(self, call: Call) -> ModelShape:
        vace = self._vace if call.condition is not None else None
        return model_shape(self._dit, vace, call.context.shape[1])

    def signals(self, timesteps: torch.Tensor) -> dict[str, torch.Tensor]:
        """`e` is the timestep embedding [T, D], `e0` the projected modulation [T, 6 D], in float32 as TeaCache's
        authors compute them, whatever the pipeline's dtype: bfloat16 knows no timestep between 992 and 996."""
        exact = timesteps.to(dtype=torch.float32, device=self._device)
        e_TD = in_float32(self._dit.time_embedding, sinusoidal_embedding_1d(self._dit.freq_dim, exact))
        return {"e": e_TD, "e0": in_float32(self._dit.time_projection, e_TD)}

    def embed_text(self, call: Call) -> torch.Tensor:
        context_BLD: torch.Tensor = self._dit.text_embedding(call.context)
        return context_BLD

    def embed(self, call: Call, context_BLD: torch.Tensor) -> Hidden:
        dit = self._dit
        t_BD = dit.time_embedding(sinusoidal_embedding_1d(dit.freq_dim, call.timestep))
        t_mod_B6D = dit.time_projection(t_BD).unflatten(1, (6, dit.dim))
        x = dit.patchify(call.latents_BCFHW, None)
        x_BND = rearrange(x, "b c f h w -> b (f h w) c").contiguous()
        return Hidden(x_BND, t_BD, t_mod_B6D, context_BLD, call.latents_BCFHW, Grid(*x.shape[2:]))

    def embed_condition(self, call: Call, hidden: Hidden) -> torch.Tensor:
        num_tokens = hidden.x_BND.shape[1]
        embedding = self._vace.vace_patch_embedding
        tokens = [embedding(u.unsqueeze(0)).flatten(2).transpose(1, 2) for u in call.condition]
        padded = [torch.cat([u, u.new_zeros(1, num_tokens - u.size(1), u.size(2))], dim=1) for u in tokens]
        return torch.cat(padded)

    def rope(self, hidden: Hidden) -> torch.Tensor:
        """[N, 1, head_dim / 2], complex128 (complex64 if fast)."""
        freqs = self._freqs(hidden)
        return freqs.to(torch.complex64) if self._fast_rope else freqs

    def inputs(self, hidden: Hidden, rope: torch.Tensor, meter: WorkMeter) -> BlockInputs:
        apply = rope_apply_float32 if self._fast_rope else rope_apply
        return BlockInputs(hidden.context_BLD, hidden.t_mod_B6D, rope, meter, rope=apply, regions=self._regions)

    def deviations(self, hidden: Hidden, inputs: BlockInputs) -> dict[str, float]:
        """`fast_rope_relative_error` of the rotation and `compile_relative_error` of the first block's change of this
        video's tokens."""
        found: dict[str, float] = {}
        if self._fast_rope:
            num_heads = computable(self._dit.blocks[0]).self_attn.num_heads
            exact = rope_apply(hidden.x_BND, self._freqs(hidden), num_heads)
            fast = rope_apply_float32(hidden.x_BND, inputs.freqs_A, num_heads)
            found["fast_rope_relative_error"] = float((fast - exact).float().norm() / exact.float().norm())
        if self._regions is not EAGER:
            exact = self._first_change(hidden, replace(inputs, regions=EAGER))
            compiled = self._first_change(hidden, inputs)
            found["compile_relative_error"] = float((compiled - exact).norm() / exact.norm())
        return found

    def block(self, stack: str, layer: int, inputs: BlockInputs) -> AbstractContextManager[DiTBlockOps]:
        blocks = self._dit.blocks if stack == "dit" else self._vace.vace_blocks
        return nullcontext(DiTBlockOps(computable(blocks[layer]), stack, layer, len(blocks), inputs))

    def before_vace(self, ops: DiTBlockOps, c_BND: torch.Tensor, x_BND: torch.Tensor) -> torch.Tensor:
        out_BND: torch.Tensor = ops.block.before_proj(c_BND) + x_BND
        return out_BND

    def after_vace(self, ops: DiTBlockOps, c_BND: torch.Tensor) -> torch.Tensor:
        hint_BND: torch.Tensor = ops.block.after_proj(c_BND)
        return hint_BND

    def head(self, hidden: Hidden, x_BND: torch.Tensor) -> torch.Tensor:
        grid = hidden.grid
        out_BCFHW: torch.Tensor = self._dit.unpatchify(
            self._dit.head(x_BND, hidden.t_BD), (grid.frames, grid.height, grid.width)
        )
        return out_BCFHW

    def _freqs(self, hidden: Hidden) -> torch.Tensor:
        f, h, w = hidden.grid.frames, hidden.grid.height, hidden.grid.width
        freqs = self._dit.freqs
        parts = [
            freqs[0][:f].view(f, 1, 1, -1).expand(f, h, w, -1),
            freqs[1][:h].view(1, h, 1, -1).expand(f, h, w, -1),
            freqs[2][:w].view(1, 1, w, -1).expand(f, h, w, -1),
        ]
        return torch.cat(parts, dim=-1).reshape(f * h * w, 1, -1).to(hidden.x_BND.device)

    def _first_change(self, hidden: Hidden, inputs: BlockInputs) -> torch.Tensor:
        """What the first block adds to the tokens; not metered."""
        ops = DiTBlockOps(computable(self._dit.blocks[0]), "dit", 0, 1, replace(inputs, meter=WorkMeter()))
        return ops.full(hidden.x_BND).float() - hidden.x_BND.float()


def in_float32(layers: torch.nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    """`layers(x)` in float32, without a change of the layers. A quantised layer computes as it does, in its dtype."""
    layer: Any
    for layer in layers:
        if type(layer) is AutoWrappedLinear and not layer.lora_A_weights:
            weight, bias = layer.computation()
        elif type(layer) is torch.nn.Linear:
            weight, bias = layer.weight, layer.bias
        else:
            own = next(layer.parameters(), x).dtype
            x = layer(x.to(own) if own.is_floating_point else x).float()
            continue
        x = F.linear(x, weight.float(), None if bias is None else bias.float())
    return x


def static_schedule(pipe: Any, timesteps: torch.Tensor) -> Schedule:
    """The pipeline's timesteps with their static signals."""
    return step.static_schedule(WanDenoiser(pipe), timesteps)


def model_shape(dit: Any, vace: Any, text_len: int) -> ModelShape:
    """The dimensions of a DiT with its VACE branch (None: without one)."""
    return ModelShape(
        dim=dit.dim,
        ffn_dim=computable(dit.blocks[0]).ffn_dim,
        num_layers=len(dit.blocks),
        num_vace_layers=len(vace.vace_blocks) if vace is not None else 0,
        text_len=text_len,
        text_dim=dit.text_embedding[0].in_features,
        in_channels=dit.in_dim,
        out_channels=dit.head.head.out_features // math.prod(dit.patch_size),
        vace_in_channels=vace.vace_in_dim if vace is not None else 0,
        patch_volume=math.prod(dit.patch_size),
    )
