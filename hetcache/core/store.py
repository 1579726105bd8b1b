"""FeatureStore: cached tensors by (stack, layer, slot), with exact byte accounting."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Key = tuple[str, int, str]


RESIDUAL: Key = ("stack", 0, "residual")
"""Where every mode that reuses whole steps keeps R = x_out - x_in of the block stack."""

OFFSET: Key = ("output", 0, "offset")
"""Where a mode that reuses the model's output keeps v - x, x the raw latents."""


class FeatureStore:
    """Tensors of one CFG branch, keyed by (stack, layer, slot), e.g. `("dit", 3, "k")`.

    `put` keeps a reference, it does not copy. `nbytes` is the sum over what is held now and `peak_nbytes` its
    maximum.
    """

    def __init__(self) -> None:
        self._tensors: dict[Key, torch.Tensor] = {}
        self.nbytes = 0
        self.peak_nbytes = 0

    def put(self, stack: str, layer: int, slot: str, tensor: torch.Tensor) -> None:
        key = (stack, layer, slot)
        old = self._tensors.get(key)
        nbytes = self.nbytes + _nbytes(tensor) - (_nbytes(old) if old is not None else 0)
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
    return int(tensor.numel() * tensor.element_size())
