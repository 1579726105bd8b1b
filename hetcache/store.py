"""FeatureStore: cached tensors by (stack, layer, slot), with exact byte accounting."""

from __future__ import annotations

import torch

Key = tuple[str, int, str]


class CacheBudgetError(RuntimeError):
    """A put would exceed the store's budget; nothing was stored."""


class FeatureStore:
    """Tensors of one CFG branch, keyed by (stack, layer, slot), e.g. `("dit", 3, "k")`.

    `put` keeps a reference, it does not copy. `nbytes` is the sum over what is held now and `peak_nbytes` its
    maximum. With `budget_bytes` a put that would exceed it raises `CacheBudgetError`.
    """

    def __init__(self, budget_bytes: int | None = None) -> None:
        self._tensors: dict[Key, torch.Tensor] = {}
        self._budget_bytes = budget_bytes
        self.nbytes = 0
        self.peak_nbytes = 0

    def put(self, stack: str, layer: int, slot: str, tensor: torch.Tensor) -> None:
        key = (stack, layer, slot)
        old = self._tensors.get(key)
        nbytes = self.nbytes + _nbytes(tensor) - (_nbytes(old) if old is not None else 0)
        if self._budget_bytes is not None and nbytes > self._budget_bytes:
            raise CacheBudgetError(
                f"caching {stack} layer {layer} {slot} needs {nbytes / 2**30:.2f} GiB, "
                f"over the budget of {self._budget_bytes / 2**30:.2f} GiB"
            )
        self._tensors[key] = tensor
        self.nbytes = nbytes
        self.peak_nbytes = max(self.peak_nbytes, nbytes)

    def get(self, stack: str, layer: int, slot: str) -> torch.Tensor:
        return self._tensors[(stack, layer, slot)]

    def __contains__(self, key: Key) -> bool:
        return key in self._tensors

    def clear(self) -> None:
        self._tensors.clear()
        self.nbytes = 0


def _nbytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
