"""What the block operations of every library share: rows, metering, and the order of the sub-layers.

An adapter's block is a `MeteredBlock` with the library's arithmetic in `whole`, `qkv`, `attend_heads`, `project`,
`cross`, `feed_forward` and the three `add_*`; all work is metered here, from shapes.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import torch

from hetcache.core.flops import WorkMeter, cross_attention_flops, mlp_flops, self_attention_flops
from hetcache.core.ranks import Share, check_heads
from hetcache.core.vocabulary import Attention

KV = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class BlockInputs:
    """What all blocks of one denoiser call share. `freqs_A` is the rotary table of the tokens that are computed and
    `rows_A` their indices among all tokens, None when all are. With a `share` they are this rank's part of the step's
    rows."""

    context_BLD: torch.Tensor
    t_mod_B6D: torch.Tensor
    freqs_A: Any
    meter: WorkMeter = field(default_factory=WorkMeter)
    rows_A: torch.Tensor | None = None
    share: Share | None = None

    def at(self: Inputs, rows_A: torch.Tensor) -> Inputs:
        """Restricted to `rows_A` of the current rows."""
        index = rows_A if self.rows_A is None else self.rows_A[rows_A]
        return replace(self, freqs_A=self.freqs_of(rows_A), rows_A=index)

    def select(self, x_BND: torch.Tensor) -> torch.Tensor:
        """The rows that are computed here, of all tokens."""
        return x_BND if self.rows_A is None else x_BND.index_select(1, self.rows_A)

    def freqs_of(self, rows_A: torch.Tensor) -> Any:
        """The rotary table of some of its rows, here of a tensor [N, ...]."""
        return self.freqs_A.index_select(0, rows_A)


Inputs = TypeVar("Inputs", bound=BlockInputs)


class MeteredBlock(Generic[Inputs]):
    """`hetcache.core.vocabulary.BlockOps` (see there for the contract) of one block of stack `dit` or `vace`.

    `is_exact` says that `whole`, the library's own forward, may be called: options that change the arithmetic need the
    sub-layers.
    """

    dim: int
    ffn_dim: int
    num_heads: int
    is_exact = True

    def __init__(self, stack: str, layer: int, num_layers: int, inputs: Inputs) -> None:
        self.stack = stack
        self.layer = layer
        self.num_layers = num_layers
        self.inputs = inputs
        self._counted = False

    def at(self: Block, rows_A: torch.Tensor) -> Block:
        ops = copy.copy(self)
        ops.inputs = self.inputs.at(rows_A)
        return ops

    def full(self, x_BND: torch.Tensor) -> torch.Tensor:
        if not self.is_exact or self.inputs.share is not None:
            x_BND = self.add_self_attn(x_BND, self.self_attn(x_BND).out_BND)
            x_BND = self.add_cross_attn(x_BND, self.cross_attn(x_BND))
            return self.add_mlp(x_BND, self.mlp(x_BND))
        rows = x_BND.shape[1]
        self._meter_self_attn(x_BND, rows)
        self._meter_cross_attn(x_BND)
        self._meter_mlp(x_BND)
        return self.whole(x_BND)

    def self_attn(self, x_BND: torch.Tensor, kv: KV | None = None) -> Attention:
        share, rows_A = self.inputs.share, self.inputs.rows_A
        q_BND, k_BND, v_BND = self.qkv(x_BND)
        if share is not None:
            check_heads(self.num_heads, share.ranks)
            rows_A = share.rows_A
            q_BND, k_BND, v_BND = (share.to_heads(each) for each in (q_BND, k_BND, v_BND))
        if kv is not None:
            assert rows_A is not None, "cached K and V belong to a step that computes some of the tokens"
            k_BND = kv[0].index_copy_(1, rows_A, k_BND)
            v_BND = kv[1].index_copy_(1, rows_A, v_BND)
        self._meter_self_attn(x_BND, k_BND.shape[1])
        if share is None:
            return Attention(self.attend(q_BND, k_BND, v_BND), q_BND, k_BND, v_BND)
        heads = self.attend_heads(q_BND, k_BND, v_BND, self.num_heads // share.ranks.sp_size)
        return Attention(self.project(share.to_rows(heads)), q_BND, k_BND, v_BND)

    def all_rows(self, x_BND: torch.Tensor) -> torch.Tensor:
        share = self.inputs.share
        return x_BND if share is None else share.all_rows(x_BND)

    def all_heads(self, x_BND: torch.Tensor) -> torch.Tensor:
        share = self.inputs.share
        return x_BND if share is None else share.all_heads(x_BND)

    def cross_attn(self, x_BND: torch.Tensor) -> torch.Tensor:
        self._meter_cross_attn(x_BND)
        return self.cross(x_BND)

    def mlp(self, x_BND: torch.Tensor) -> torch.Tensor:
        self._meter_mlp(x_BND)
        return self.feed_forward(x_BND)

    def whole(self, x_BND: torch.Tensor) -> torch.Tensor:
        """The library's own forward of the block."""
        raise NotImplementedError

    def qkv(self, x_BND: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Normalised, rotated queries and keys, and values, of the self-attention."""
        raise NotImplementedError

    def attend(self, q_BND: torch.Tensor, k_BND: torch.Tensor, v_BND: torch.Tensor) -> torch.Tensor:
        """The self-attention's output, behind its projection and before its gate."""
        return self.project(self.attend_heads(q_BND, k_BND, v_BND, self.num_heads))

    def attend_heads(
        self, q_BND: torch.Tensor, k_BND: torch.Tensor, v_BND: torch.Tensor, num_heads: int
    ) -> torch.Tensor:
        """Attention alone, of `num_heads` heads side by side in the last dimension."""
        raise NotImplementedError

    def project(self, heads_BND: torch.Tensor) -> torch.Tensor:
        """The self-attention's output projection."""
        raise NotImplementedError

    def cross(self, x_BND: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def feed_forward(self, x_BND: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def add_self_attn(self, x_BND: torch.Tensor, out_BND: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def add_cross_attn(self, x_BND: torch.Tensor, out_BND: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def add_mlp(self, x_BND: torch.Tensor, out_BND: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def _meter_self_attn(self, x_BND: torch.Tensor, k_rows: int) -> None:
        rows = x_BND.shape[1]
        self._meter("self_attn", self_attention_flops(rows, rows, k_rows, self.dim), x_BND)

    def _meter_cross_attn(self, x_BND: torch.Tensor) -> None:
        text_len = self.inputs.context_BLD.shape[1]
        self._meter("cross_attn", cross_attention_flops(x_BND.shape[1], text_len, self.dim), x_BND)

    def _meter_mlp(self, x_BND: torch.Tensor) -> None:
        self._meter("mlp", mlp_flops(x_BND.shape[1], self.dim, self.ffn_dim), x_BND)

    def _meter(self, sublayer: str, flops: int, x_BND: torch.Tensor) -> None:
        meter = self.inputs.meter
        meter.flops += flops * x_BND.shape[0]
        meter.sublayers[sublayer] += 1
        if not self._counted:
            meter.blocks[self.stack] += 1
            self._counted = True


Block = TypeVar("Block", bound=MeteredBlock[Any])
