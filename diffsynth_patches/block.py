"""Block operations: one upstream `DiTBlock` at one step, whole or sub-layer by sub-layer, on all or some tokens.

The sub-layer path repeats the upstream block's arithmetic through its own submodules, operation by operation, so
that the two agree bit for bit (tests compare them with `torch.equal`). All work is metered from shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from diffsynth.core.vram.layers import AutoWrappedModule
from diffsynth.models.wan_video_dit import DiTBlock, rope_apply

from diffsynth_patches.compiled import EAGER, Regions
from hetcache.core.flops import WorkMeter, cross_attention_flops, mlp_flops, self_attention_flops
from hetcache.core.vocabulary import Attention

KV = tuple[torch.Tensor, torch.Tensor]
Rope = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]


def rope_apply_float32(x_BND: torch.Tensor, freqs_N1E: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Upstream's `rope_apply` in complex64 instead of complex128: half the memory traffic, not bit-exact."""
    pairs = torch.view_as_complex(x_BND.float().unflatten(2, (num_heads, -1, 2)))
    return torch.view_as_real(pairs * freqs_N1E).flatten(2).to(x_BND.dtype)


@dataclass(frozen=True)
class BlockInputs:
    """What all blocks of one denoiser call share. `freqs_A` are the RoPE rows of the tokens that are computed and
    `rows_A` their indices among all tokens, None when all are."""

    context_BLD: torch.Tensor
    t_mod_B6D: torch.Tensor
    freqs_A: torch.Tensor
    meter: WorkMeter = field(default_factory=WorkMeter)
    rows_A: torch.Tensor | None = None
    rope: Rope = rope_apply
    regions: Regions = EAGER

    def at(self, rows_A: torch.Tensor) -> BlockInputs:
        """Restricted to `rows_A` of the current rows."""
        index = rows_A if self.rows_A is None else self.rows_A[rows_A]
        return replace(self, freqs_A=self.freqs_A.index_select(0, rows_A), rows_A=index)


def computable(block: torch.nn.Module) -> torch.nn.Module:
    """The block itself, or under DiffSynth's VRAM management the module that it would compute with at this call
    (its weights may be a copy on the computation device: use it for this call only)."""
    if not isinstance(block, AutoWrappedModule):
        return block
    if block.state == 1 and (block.vram_limit is None or block.check_free_vram()):
        block.preparing()
    return block.computation()


class DiTBlockOps:
    """`hetcache.core.vocabulary.BlockOps` for one `DiTBlock` of stack `dit` or `vace` (see there for the contract)."""

    def __init__(self, block: torch.nn.Module, stack: str, layer: int, num_layers: int, inputs: BlockInputs):
        self.block = block
        self.stack = stack
        self.layer = layer
        self.num_layers = num_layers
        self.num_heads = block.self_attn.num_heads
        self.inputs = inputs
        self._counted = False
        self._chunks: tuple[torch.Tensor, ...] | None = None

    def at(self, rows_A: torch.Tensor) -> DiTBlockOps:
        ops = DiTBlockOps(self.block, self.stack, self.layer, self.num_layers, self.inputs.at(rows_A))
        ops._counted, ops._chunks = self._counted, self._chunks
        return ops

    def full(self, x_BND: torch.Tensor) -> torch.Tensor:
        if self.inputs.rope is not rope_apply or self.inputs.regions is not EAGER:
            x_BND = self.add_self_attn(x_BND, self.self_attn(x_BND).out_BND)
            x_BND = self.add_cross_attn(x_BND, self.cross_attn(x_BND))
            return self.add_mlp(x_BND, self.mlp(x_BND))
        rows, inputs = x_BND.shape[1], self.inputs
        self._meter("self_attn", self_attention_flops(rows, rows, rows, self.block.dim), x_BND)
        self._meter("cross_attn", cross_attention_flops(rows, inputs.context_BLD.shape[1], self.block.dim), x_BND)
        self._meter("mlp", mlp_flops(rows, self.block.dim, self.block.ffn_dim), x_BND)
        return DiTBlock.forward(self.block, x_BND, inputs.context_BLD, inputs.t_mod_B6D, inputs.freqs_A)

    def self_attn(self, x_BND: torch.Tensor, kv: KV | None = None) -> Attention:
        attn, inputs = self.block.self_attn, self.inputs
        shift, scale = self._modulation()[0:2]
        q_BND, k_BND, v_BND = inputs.regions.self_qkv(attn, self.block.norm1, x_BND, shift, scale)
        q_BND = inputs.rope(q_BND, inputs.freqs_A, attn.num_heads)
        k_BND = inputs.rope(k_BND, inputs.freqs_A, attn.num_heads)
        if kv is not None:
            rows_A = inputs.rows_A
            assert rows_A is not None, "cached K and V belong to a step that computes some of the tokens"
            k_BND = kv[0].index_copy_(1, rows_A, k_BND)
            v_BND = kv[1].index_copy_(1, rows_A, v_BND)
        rows = x_BND.shape[1]
        self._meter("self_attn", self_attention_flops(rows, rows, k_BND.shape[1], self.block.dim), x_BND)
        return Attention(attn.o(attn.attn(q_BND, k_BND, v_BND)), q_BND, k_BND, v_BND)

    def add_self_attn(self, x_BND: torch.Tensor, out_BND: torch.Tensor) -> torch.Tensor:
        return self.inputs.regions.add_gated(x_BND, self._modulation()[2], out_BND)

    def cross_attn(self, x_BND: torch.Tensor) -> torch.Tensor:
        attn, context_BLD = self.block.cross_attn, self.inputs.context_BLD
        flops = cross_attention_flops(x_BND.shape[1], context_BLD.shape[1], self.block.dim)
        self._meter("cross_attn", flops, x_BND)
        return attn.o(attn.attn(*self.inputs.regions.cross_qkv(attn, self.block.norm3, x_BND, context_BLD)))

    def add_cross_attn(self, x_BND: torch.Tensor, out_BND: torch.Tensor) -> torch.Tensor:
        return x_BND + out_BND

    def mlp(self, x_BND: torch.Tensor) -> torch.Tensor:
        shift, scale = self._modulation()[3:5]
        self._meter("mlp", mlp_flops(x_BND.shape[1], self.block.dim, self.block.ffn_dim), x_BND)
        return self.inputs.regions.mlp(self.block.ffn, self.block.norm2, x_BND, shift, scale)

    def add_mlp(self, x_BND: torch.Tensor, out_BND: torch.Tensor) -> torch.Tensor:
        return self.inputs.regions.add_gated(x_BND, self._modulation()[5], out_BND)

    def _modulation(self) -> tuple[torch.Tensor, ...]:
        if self._chunks is None:
            t_mod = self.inputs.t_mod_B6D
            self._chunks = (self.block.modulation.to(dtype=t_mod.dtype, device=t_mod.device) + t_mod).chunk(6, dim=1)
        return self._chunks

    def _meter(self, sublayer: str, flops: int, x_BND: torch.Tensor) -> None:
        meter = self.inputs.meter
        meter.flops += flops * x_BND.shape[0]
        meter.sublayers[sublayer] += 1
        if not self._counted:
            meter.blocks[self.stack] += 1
            self._counted = True
