"""One computed step's walk through the block stacks, as far and in the order that its cache manager wants.

The DiT blocks run one after the other, each with the hint that VACE adds behind it, so that the tokens a manager holds
between two blocks count every hint once. The VACE blocks run when the first hint is needed, or earlier if the manager
asks: a step that ends before that runs none of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from hetcache.core.block import BlockInputs
from hetcache.core.denoiser import Call, Denoiser
from hetcache.core.flops import linear_flops
from hetcache.core.vocabulary import CacheManager, Decision, Hidden

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass
class StackWalk:
    """`x_BAD` are the tokens before DiT block `layer`, of the rows that this process computes; `condition` embeds the
    VACE condition for all tokens, None in a call without one; `after_block` is called behind every block."""

    denoiser: Denoiser[Any]
    manager: CacheManager
    call: Call
    hidden: Hidden
    decision: Decision
    inputs: BlockInputs
    condition: Callable[[], torch.Tensor] | None
    after_block: Callable[[], None]
    layer: int = 0
    x_BAD: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.x_BAD = self.inputs.select(self.hidden.x_BND)
        self._embedded_BAD = self.x_BAD
        self._c_BAD: torch.Tensor | None = None
        self._fresh: list[torch.Tensor] = []
        self._hints: list[torch.Tensor] | None = None

    @property
    def num_layers(self) -> int:
        """DiT blocks of the stack."""
        return self.denoiser.num_layers

    @property
    def num_vace_layers(self) -> int:
        """VACE blocks that this call has, 0 without a condition."""
        return self.denoiser.num_hints if self.condition is not None else 0

    def dit_to(self, layer: int) -> torch.Tensor:
        """Run up to DiT block `layer`, which is not run: its input, behind the hints of the layers before it."""
        while self.layer < layer:
            with self.denoiser.block("dit", self.layer, self.inputs) as ops:
                self.x_BAD = self.manager.run_block(ops, self.x_BAD, self.decision)
            self.after_block()
            hint = self.denoiser.hint_after.get(self.layer) if self.condition is not None else None
            if hint is not None:
                self.x_BAD = self.x_BAD + self.hints()[hint] * self.call.scales[hint]
            self.layer += 1
        return self.x_BAD

    def jump(self, layer: int, x_BAD: torch.Tensor) -> None:
        """Go on at DiT block `layer` with `x_BAD` as its input: the blocks before it are left out, and with them the
        hints that nobody has asked for."""
        self.layer, self.x_BAD = layer, x_BAD

    def vace_to(self, layer: int) -> torch.Tensor:
        """Run up to VACE block `layer`, which is not run: its input, at 0 the embedded condition."""
        assert self.condition is not None, "a call without a condition has no VACE blocks"
        inputs, meter = self.inputs, self.inputs.meter
        batch, rows, dim = self._embedded_BAD.shape
        if self._c_BAD is None:
            self._c_BAD = inputs.select(self.condition())
        while len(self._fresh) < layer:
            with self.denoiser.block("vace", len(self._fresh), inputs) as ops:
                if not self._fresh:
                    self._c_BAD = self.denoiser.before_vace(ops, self._c_BAD, self._embedded_BAD)
                    meter.flops += linear_flops(rows, dim, dim) * batch
                self._c_BAD = self.manager.run_block(ops, self._c_BAD, self.decision)
                self.after_block()
                self._fresh.append(self.denoiser.after_vace(ops, self._c_BAD))
                meter.flops += linear_flops(rows, dim, dim) * batch
        return self._c_BAD

    def hints(self) -> list[torch.Tensor]:
        """One per VACE layer, of the computed rows: the manager's cached ones, or those of the VACE blocks, run now."""
        if self._hints is None:
            share = self.inputs.share
            cached = self.manager.hints(self.hidden, self.decision)
            if cached is not None:
                self._hints = cached if share is None else [hint.index_select(1, share.mine) for hint in cached]
            else:
                self.vace_to(self.denoiser.num_hints)
                self._hints = self._fresh
                whole = self.manager.keeps_hints and share is not None
                kept = [share.all_rows(hint) for hint in self._fresh] if whole and share is not None else self._fresh
                self.manager.keep_hints(kept, self.decision)
        return self._hints

    def finish(self) -> torch.Tensor:
        """Run what is left, VACE first as upstream does: the tokens behind the last DiT block."""
        if self.condition is not None and self.layer == 0:
            self.hints()
        return self.dit_to(self.num_layers)
