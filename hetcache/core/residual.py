"""The cache of whole-step methods: what the block stack, or the whole model, last added to its input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hetcache.core.lead import Decider, Lead
from hetcache.core.store import OFFSET, RESIDUAL, FeatureStore
from hetcache.core.vocabulary import BlockOps, Branch, CacheManager, Decision, Hidden, Step

if TYPE_CHECKING:
    import torch


class StackResidual(CacheManager):
    """One CFG branch of a mode that computes or reuses whole steps, as its decider says.

    At level `tokens` it keeps R = x_out - x_in of the block stack, and a reused step is x_in + R with no VACE and no
    DiT block; at level `velocity` it keeps v - x of the model's output and the raw latents, and a reused step is
    x + (v - x) without the head.
    """

    def __init__(self, decider: Decider, branch: Branch, level: str = "tokens") -> None:
        self.reuse_level = level
        self.store = FeatureStore()
        self.shares_decisions = isinstance(decider, Lead)
        self._decider = decider
        self._branch = branch

    def decide(self, step: Step, hidden: Hidden) -> Decision:
        return self._decider.decide(self._branch, step, hidden)

    def run_block(self, ops: BlockOps, x_BND: torch.Tensor, decision: Decision) -> torch.Tensor:
        return self._decider.run_block(self._branch, ops, x_BND, decision)

    def reuse(self, step: Step, hidden: Hidden) -> torch.Tensor:
        if self.reuse_level == "velocity":
            return hidden.latents_BCFHW + self.store.get(*OFFSET)
        return hidden.x_BND + self.store.get(*RESIDUAL)

    def commit(
        self, step: Step, decision: Decision, hidden: Hidden, x_out_BND: torch.Tensor, velocity: torch.Tensor
    ) -> None:
        if self.reuse_level == "velocity":
            self.store.put(*OFFSET, velocity - hidden.latents_BCFHW)
        else:
            self.store.put(*RESIDUAL, x_out_BND - hidden.x_BND)
        self._decider.observe(self._branch, hidden, velocity)

    def release(self) -> None:
        self.store.clear()
        self._decider.release()

    @property
    def cache_bytes(self) -> int:
        return self.store.peak_nbytes + self._decider.cache_bytes(self._branch)

    def notes(self) -> dict[str, Any]:
        return self._decider.notes(self._branch)
