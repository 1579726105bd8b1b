"""What a result depends on besides its settings: the machine, the versions, the code, the weights."""

from __future__ import annotations

import os
import platform
import resource
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from hetcache.files import CALIBRATIONS, EMBEDDED_WEIGHTS, ROOT, digest

PACKAGES = ("hetcache", "diffsynth", "diffusers", "torch", "numpy", "scipy", "pillow", "scikit-learn", "imageio-ffmpeg")
CODE = ("hetcache", "baselines", "diffsynth_patches", "diffusers_patches")
HEAD_BYTES = 1 << 20
WEIGHT_FILES = (".safetensors", ".pth")


def package_versions() -> dict[str, str]:
    """What a result may depend on, by name; "not installed" for what is not there."""
    from hetcache import __version__

    versions = {"hetcache": __version__, "python": platform.python_version()}
    for name in PACKAGES[1:]:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def hardware(device: str) -> dict[str, Any]:
    """The machine a figure was taken on."""
    facts: dict[str, Any] = {
        "device": device,
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "os": platform.system(),
    }
    if device.startswith("cuda"):
        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts


def facts_of_code() -> str:
    """A digest of all code and calibrations that a result depends on."""
    files = [file for name in CODE for file in sorted((ROOT / name).rglob("*.py"))]
    return digest(*(part for file in files for part in (file.name, file)), CALIBRATIONS)[:16]


def facts_of_weights(model: str) -> str:
    """The model's name, for a folder (and the embedded model) with names, sizes and first bytes of its files."""
    folder = EMBEDDED_WEIGHTS if model == "tiny" else Path(model)
    if not folder.is_dir():
        return model
    parts = [model]
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            with file.open("rb") as stream:
                parts.append(f"{file.name} {file.stat().st_size} {digest(stream.read(HEAD_BYTES))[:16]}")
    return digest("\n".join(parts))[:16]


def weights_fingerprint(model: str) -> str:
    """What tells these weights from others, wherever they lie: of the weight files of a folder (or of the embedded
    model) the names, sizes and first bytes. Empty for a name on a hub, which says itself whose weights they are."""
    folder = EMBEDDED_WEIGHTS if model == "tiny" else Path(model)
    if not folder.is_dir():
        return ""
    parts: list[str] = []
    for file in sorted(path for path in folder.rglob("*") if path.suffix in WEIGHT_FILES):
        with file.open("rb") as stream:
            parts.append(f"{file.name} {file.stat().st_size} {digest(stream.read(HEAD_BYTES))}")
    return digest("\n".join(parts))[:16]


def peak_memory_gib() -> float:
    """Peak allocated memory of the GPU, or peak resident memory of the process on a CPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
