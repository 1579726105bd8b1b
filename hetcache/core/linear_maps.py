"""FastCache's learnable linear maps (arXiv 2505.20353): a block's output as W h + b, fitted, stored, applied.

The fit is on the block's residual (output minus input), so a map of zeros is the identity, and of low rank, so
that the file and the product stay small: out = h + (h A) B + b.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from hetcache.core.tensor_file import read_tensor_file
from hetcache.files import UserError, atomic_output

Layer = tuple[str, int]


class LinearMapsError(UserError):
    """A file that does not hold this model's linear maps."""


@dataclass(frozen=True)
class LinearMap:
    """down_DR, up_RD and bias_D of one block."""

    down_DR: torch.Tensor
    up_RD: torch.Tensor
    bias_D: torch.Tensor

    def __call__(self, x_BND: torch.Tensor) -> torch.Tensor:
        """Estimated output of the block for these tokens."""
        return x_BND + (x_BND @ self.down_DR) @ self.up_RD + self.bias_D

    def to(self, like: torch.Tensor) -> LinearMap:
        return LinearMap(self.down_DR.to(like), self.up_RD.to(like), self.bias_D.to(like))


@dataclass(frozen=True)
class LinearMaps:
    """One map per (stack, layer)."""

    model: str
    layers: dict[Layer, LinearMap]


class LinearFit:
    """Least squares of one block's residual on its input, from running sums (host float64, [D + 1, D + 1])."""

    def __init__(self, dim: int) -> None:
        self._xx = torch.zeros(dim + 1, dim + 1, dtype=torch.float64)
        self._xy = torch.zeros(dim + 1, dim, dtype=torch.float64)
        self._yy = 0.0
        self.num_rows = 0

    def add(self, x_ND: torch.Tensor, y_ND: torch.Tensor) -> None:
        """Rows of block input and of block output."""
        x = torch.cat([x_ND, x_ND.new_ones(len(x_ND), 1)], dim=1).double().cpu()
        y = (y_ND - x_ND).double().cpu()
        self._xx += x.T @ x
        self._xy += x.T @ y
        self._yy += float((y * y).sum())
        self.num_rows += len(x)

    def solve(self, rank: int, ridge: float = 1e-6) -> LinearMap:
        """The best map of that rank (reduced-rank regression): the full solution, projected on the directions of
        the output in which its predictions vary most."""
        dim = self._xy.shape[1]
        penalty = ridge * self._xx.diagonal().mean() * torch.eye(dim + 1, dtype=torch.float64)
        penalty[dim, dim] = 0.0
        solution = torch.linalg.solve(self._xx + penalty, self._xy)
        weight_DD, bias_D = solution[:dim], solution[dim]
        mean_D = self._xx[dim, :dim] / self.num_rows
        centred = self._xx[:dim, :dim] - self.num_rows * torch.outer(mean_D, mean_D)
        _, directions = torch.linalg.eigh(weight_DD.T @ centred @ weight_DD)
        up_RD = directions[:, -min(rank, dim) :].T
        down_DR = weight_DD @ up_RD.T
        # The bias absorbs what the dropped directions predict at the mean input.
        bias_D = bias_D + mean_D @ weight_DD - (mean_D @ down_DR) @ up_RD
        return LinearMap(down_DR.float(), up_RD.contiguous().float(), bias_D.float())

    def unexplained(self, fitted: LinearMap) -> float:
        """Share of the residual's energy that the map misses on the fitted rows: 0 is exact, 1 is no better than
        dropping the residual."""
        solution = torch.cat([fitted.down_DR @ fitted.up_RD, fitted.bias_D[None]]).double()
        explained = 2 * (solution * self._xy).sum() - ((self._xx @ solution) * solution).sum()
        return float(1 - explained / max(self._yy, 1e-300))


def save_linear_maps(path: Path, maps: LinearMaps) -> None:
    """float16 safetensors with the model id in the metadata."""
    tensors = {}
    for (stack, layer), fitted in maps.layers.items():
        for name, tensor in (("down", fitted.down_DR), ("up", fitted.up_RD), ("bias", fitted.bias_D)):
            tensors[f"{stack}.{layer}.{name}"] = tensor.half().contiguous()
    with atomic_output(path) as temporary:
        save_file(tensors, temporary, metadata={"model": maps.model})


def load_linear_maps(path: Path, model_id: str) -> LinearMaps:
    """Raises LinearMapsError for a missing, broken or foreign file."""
    try:
        metadata, arrays = read_tensor_file(path)
    except (OSError, ValueError) as error:
        raise LinearMapsError(f"{path.name} holds no linear maps ({error})") from error
    if metadata.get("model") != model_id:
        raise LinearMapsError(f"{path.name} holds the linear maps of {metadata.get('model')!r}, not of {model_id!r}")
    tensors = {name: torch.from_numpy(array).float() for name, array in arrays.items()}
    layers = {}
    for name in tensors:
        stack, layer, part = name.split(".")
        if part == "down":
            prefix = f"{stack}.{layer}"
            layers[stack, int(layer)] = LinearMap(tensors[name], tensors[f"{prefix}.up"], tensors[f"{prefix}.bias"])
    return LinearMaps(model_id, layers)
