"""Training states that travel: in float16 parts small enough to be sent, and from weights that were committed.

Both leave the optimisers behind: who goes on from them starts with a warm-up.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from hetcache.files import atomic_output

PART_BYTES = 15 * 2**20
_DENOISER_PARTS = ("dit", "vace", "text_encoder")


def write_parts(checkpoint: Path, folder: Path, part_bytes: int = PART_BYTES) -> list[Path]:
    """The checkpoint (or plain weights) without optimisers, as float16, in files NAME.0, NAME.1 ... of at most
    `part_bytes`."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    state.pop("optimizers", None)
    buffer = io.BytesIO()
    torch.save(_halved(state), buffer)
    content = buffer.getvalue()
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{checkpoint.stem}.[0-9]"):
        old.unlink()
    paths = []
    for index, start in enumerate(range(0, len(content), part_bytes)):
        paths.append(folder / f"{checkpoint.stem}.{index}")
        paths[-1].write_bytes(content[start : start + part_bytes])
    return paths


def read_parts(folder: Path, name: str, out: Path) -> Path:
    """Puts the parts NAME.0, NAME.1 ... together as the checkpoint OUT/NAME.pt. FileNotFoundError without parts."""
    parts = sorted(folder.glob(f"{name}.[0-9]"))
    if not parts:
        raise FileNotFoundError(f"{folder} holds no parts {name}.0, {name}.1 ...")
    content = b"".join(part.read_bytes() for part in parts)
    state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return _write(out / f"{name}.pt", state)


def from_weights(weights: Path, out: Path) -> list[Path]:
    """Checkpoints at step 0 from a folder of float16 weights such as data/tiny.

    dit.pt, ae.pt and ae-frozen.pt.
    """
    out.mkdir(parents=True, exist_ok=True)
    autoencoder = {key.removeprefix("model."): value for key, value in _read(weights, "vae").items()}
    paths = [denoiser_from_weights(weights, out), _fresh(out / "ae.pt", autoencoder)]
    torch.save(autoencoder, out / "ae-frozen.pt")
    return [*paths, out / "ae-frozen.pt"]


def denoiser_from_weights(weights: Path, out: Path) -> Path:
    """OUT/dit.pt at step 0 from a folder of float16 weights."""
    parts = {f"{part}.{key}": value for part in _DENOISER_PARTS for key, value in _read(weights, part).items()}
    return _fresh(out / "dit.pt", parts)


def _read(weights: Path, part: str) -> dict[str, Tensor]:
    return {key: value.float() for key, value in load_file(weights / f"{part}.safetensors").items()}


def _fresh(path: Path, model: dict[str, Tensor]) -> Path:
    return _write(path, {"model": model, "ema": model, "step": 0, "used_s": 0.0, "cooled": False})


def _write(path: Path, state: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_output(path) as temporary:
        torch.save(state, temporary)
    return path


def _halved(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _halved(item) for key, item in value.items()}
    return value.half() if isinstance(value, Tensor) and value.is_floating_point() else value
