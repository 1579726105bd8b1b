"""Block operations: one upstream `DiTBlock` at one step, whole or sub-layer by sub-layer, on all or some tokens.

The sub-layer path repeats the upstream block's arithmetic through its own submodules, operation by operation, so
that the two agree bit for bit (tests compare them with `torch.equal`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffsynth.core.vram.layers import AutoWrappedModule
from diffsynth.models.wan_video_dit import DiTBlock, flash_attention, rope_apply

from diffsynth_patches.compiled import EAGER, QKV, Regions
from hetcache.core import block as shared

Rope = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]


def rope_apply_float32(x_BND: torch.Tensor, freqs_N1E: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Upstream's `rope_apply` in complex64 instead of complex128: half the memory traffic, not bit-exact."""
    pairs = torch.view_as_complex(x_BND.float().unflatten(2, (num_heads, -1, 2)))
    return torch.view_as_real(pairs * freqs_N1E).flatten(2).to(x_BND.dtype)


@dataclass(frozen=True)
class BlockInputs(shared.BlockInputs):
    """`freqs_A` [|A|, 1, head_dim / 2], complex; `rope` applies it, `regions` are the parts between the attentions."""

    rope: Rope = rope_apply
    regions: Regions = EAGER


def computable(block: torch.nn.Module) -> Any:
    """The block itself, or under DiffSynth's VRAM management the module that it would compute with at this call
    (its weights may be a copy on the computation device: use it for this call only)."""
    if not isinstance(block, AutoWrappedModule):
        return block
    if block.state == 1 and (block.vram_limit is None or block.check_free_vram()):
        block.preparing()
    return block.computation()


class DiTBlockOps(shared.MeteredBlock[BlockInputs]):
    """`hetcache.core.vocabulary.BlockOps` for one `DiTBlock`; `block` is the module to compute with at this call."""

    def __init__(self, block: Any, stack: str, layer: int, num_layers: int, inputs: BlockInputs) -> None:
        super().__init__(stack, layer, num_layers, inputs)
        self.block = block
        self.dim, self.ffn_dim = block.dim, block.ffn_dim
        self.num_heads = block.self_attn.num_heads
        self.is_exact = inputs.rope is rope_apply and inputs.regions is EAGER
        self._chunks: tuple[torch.Tensor, ...] | None = None

    def whole(self, x_BND: torch.Tensor) -> torch.Tensor:
        inputs = self.inputs
        out_BND: torch.Tensor = DiTBlock.forward(
            self.block, x_BND, inputs.context_BLD, inputs.t_mod_B6D, inputs.freqs_A
        )
        return out_BND

    def qkv(self, x_BND: torch.Tensor) -> QKV:
        attn, inputs = self.block.self_attn, self.inputs
        shift, scale = self._modulation()[0:2]
        q_BND, k_BND, v_BND = inputs.regions.self_qkv(attn, self.block.norm1, x_BND, shift, scale)
        q_BND = inputs.rope(q_BND, inputs.freqs_A, self.num_heads)
        return q_BND, inputs.rope(k_BND, inputs.freqs_A, self.num_heads), v_BND

    def attend_heads(
        self, q_BND: torch.Tensor, k_BND: torch.Tensor, v_BND: torch.Tensor, num_heads: int
    ) -> torch.Tensor:
        out_BND: torch.Tensor = flash_attention(q_BND, k_BND, v_BND, num_heads)
        return out_BND

    def project(self, heads_BND: torch.Tensor) -> torch.Tensor:
        out_BND: torch.Tensor = self.block.self_attn.o(heads_BND)
        return out_BND

    def cross(self, x_BND: torch.Tensor) -> torch.Tensor:
        attn, inputs = self.block.cross_attn, self.inputs
        out_BND: torch.Tensor = attn.o(
            attn.attn(*inputs.regions.cross_qkv(attn, self.block.norm3, x_BND, inputs.context_BLD))
        )
        return out_BND

    def feed_forward(self, x_BND: torch.Tensor) -> torch.Tensor:
        shift, scale = self._modulation()[3:5]
        return self.inputs.regions.mlp(self.block.ffn, self.block.norm2, x_BND, shift, scale)

    def add_self_attn(self, x_BND: torch.Tensor, out_BND: torch.Tensor) -> torch.Tensor:
        return self.inputs.regions.add_gated(x_BND, self._modulation()[2], out_BND)

    def add_cross_attn(self, x_BND: torch.Tensor, out_BND: torch.Tensor) -> torch.Tensor:
        return x_BND + out_BND

    def add_mlp(self, x_BND: torch.Tensor, out_BND: torch.Tensor) -> torch.Tensor:
        return self.inputs.regions.add_gated(x_BND, self._modulation()[5], out_BND)

    def _modulation(self) -> tuple[torch.Tensor, ...]:
        if self._chunks is None:
            t_mod = self.inputs.t_mod_B6D
            self._chunks = (self.block.modulation.to(dtype=t_mod.dtype, device=t_mod.device) + t_mod).chunk(6, dim=1)
        return self._chunks
