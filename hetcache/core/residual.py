"""What whole-step methods share: the residual of the whole block stack, added to the fresh input on a reused step."""

from __future__ import annotations

import torch

from hetcache.core.store import RESIDUAL, FeatureStore
from hetcache.core.vocabulary import CacheManager, Decision, Hidden, Step


class StackResidualManager(CacheManager):
    """Keeps R = x_out - x_in of the last computed step; a reused step is x_in + R, with no VACE and no DiT block."""

    def __init__(self) -> None:
        self.store = FeatureStore()

    def reuse(self, hidden: Hidden) -> torch.Tensor:
        return hidden.x_BND + self.store.get(*RESIDUAL)

    def commit(
        self, step: Step, decision: Decision, hidden: Hidden, x_out_BND: torch.Tensor, velocity: torch.Tensor
    ) -> None:
        self.store.put(*RESIDUAL, x_out_BND - hidden.x_BND)

    def release(self) -> None:
        self.store.clear()

    @property
    def cache_bytes(self) -> int:
        return self.store.peak_nbytes
