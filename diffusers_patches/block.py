"""Block operations: one block of diffusers' Wan transformers at one step, whole or sub-layer by sub-layer, on all or
some tokens.

The sub-layer path repeats `WanTransformerBlock.forward` and `WanAttnProcessor` through the block's own submodules,
operation by operation, so that the two agree bit for bit (tests compare them with `torch.equal`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn

from diffusers_patches.hooks import chain
from hetcache.core import block as shared

Rope = tuple[torch.Tensor, torch.Tensor]
QKV = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class BlockInputs(shared.BlockInputs):
    """`freqs_A` are cosines and sines [1, |A|, 1, head_dim], float."""

    def freqs_of(self, rows_A: torch.Tensor) -> Rope:
        cos, sin = self.freqs_A
        return cos.index_select(1, rows_A), sin.index_select(1, rows_A)


def rotate(x_BNHE: torch.Tensor, rope: Rope) -> torch.Tensor:
    """`apply_rotary_emb` of `WanAttnProcessor`, which is a function inside of a function there."""
    x1, x2 = x_BNHE.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = rope[0][..., 0::2], rope[1][..., 1::2]
    out = torch.empty_like(x_BNHE)
    out[..., 0::2] = x1 * cos - x2 * sin
    out[..., 1::2] = x1 * sin + x2 * cos
    return out.type_as(x_BNHE)


class WanBlockOps(shared.MeteredBlock[BlockInputs]):
    """`hetcache.core.vocabulary.BlockOps` for one block; its weights are at hand.

    A VACE block's own forward also projects what comes in and what goes out, so it is always computed by its
    sub-layers.
    """

    def __init__(self, block: Any, stack: str, layer: int, num_layers: int, ffn_dim: int, inputs: BlockInputs) -> None:
        super().__init__(stack, layer, num_layers, inputs)
        self.block = block
        self.dim, self.ffn_dim = block.attn1.inner_dim, ffn_dim
        self.num_heads = block.attn1.heads
        self.is_exact = stack == "dit"
        self._chunks: tuple[torch.Tensor, ...] | None = None

    def whole(self, x_BND: torch.Tensor) -> torch.Tensor:
        # Its hooks were entered; a block without hooks is called, because it may be compiled.
        forward = type(self.block).forward if chain(self.block) else type(self.block).__call__
        inputs = self.inputs
        out_BND: torch.Tensor = forward(self.block, x_BND, inputs.context_BLD, inputs.t_mod_B6D, inputs.freqs_A)
        return out_BND

    def qkv(self, x_BND: torch.Tensor) -> QKV:
        attn, rope = self.block.attn1, self.inputs.freqs_A
        shift, scale = self._modulation()[0:2]
        input_BND = (self.block.norm1(x_BND.float()) * (1 + scale) + shift).type_as(x_BND)
        if attn.fused_projections:
            q, k, v = attn.to_qkv(input_BND).chunk(3, dim=-1)
        else:
            q, k, v = attn.to_q(input_BND), attn.to_k(input_BND), attn.to_v(input_BND)
        q, k = attn.norm_q(q), attn.norm_k(k)
        q, k = (rotate(each.unflatten(2, (attn.heads, -1)), rope).flatten(2) for each in (q, k))
        return q, k, v

    def attend_heads(
        self, q_BND: torch.Tensor, k_BND: torch.Tensor, v_BND: torch.Tensor, num_heads: int
    ) -> torch.Tensor:
        q, k, v = (each.unflatten(2, (num_heads, -1)) for each in (q_BND, k_BND, v_BND))
        out = dispatch_attention_fn(q, k, v, backend=self.block.attn1.processor._attention_backend)
        out_BND: torch.Tensor = out.flatten(2, 3).type_as(q)
        return out_BND

    def project(self, heads_BND: torch.Tensor) -> torch.Tensor:
        to_out = self.block.attn1.to_out
        out_BND: torch.Tensor = to_out[1](to_out[0](heads_BND))
        return out_BND

    def cross(self, x_BND: torch.Tensor) -> torch.Tensor:
        norm_BND = self.block.norm2(x_BND.float()).type_as(x_BND)
        out_BND: torch.Tensor = self.block.attn2(norm_BND, self.inputs.context_BLD, None, None)
        return out_BND

    def feed_forward(self, x_BND: torch.Tensor) -> torch.Tensor:
        shift, scale = self._modulation()[3:5]
        norm_BND = (self.block.norm3(x_BND.float()) * (1 + scale) + shift).type_as(x_BND)
        out_BND: torch.Tensor = self.block.ffn(norm_BND)
        return out_BND

    def add_self_attn(self, x_BND: torch.Tensor, out_BND: torch.Tensor) -> torch.Tensor:
        return (x_BND.float() + out_BND * self._modulation()[2]).type_as(x_BND)

    def add_cross_attn(self, x_BND: torch.Tensor, out_BND: torch.Tensor) -> torch.Tensor:
        return x_BND + out_BND

    def add_mlp(self, x_BND: torch.Tensor, out_BND: torch.Tensor) -> torch.Tensor:
        return (x_BND.float() + out_BND.float() * self._modulation()[5]).type_as(x_BND)

    def _modulation(self) -> tuple[torch.Tensor, ...]:
        if self._chunks is None:
            t_mod = self.inputs.t_mod_B6D
            self._chunks = (self.block.scale_shift_table.to(t_mod.device) + t_mod.float()).chunk(6, dim=1)
        return self._chunks
