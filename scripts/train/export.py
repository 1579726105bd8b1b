"""Writes the trained parts as float16 safetensors and draws the loss curves."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import torch

from diffsynth_patches.tiny import TinyConfig, build_tiny_pipeline, save_tiny_weights
from scripts.train.denoiser import TinyDenoiser

CURVES = {
    "ae": ((("psnr_db",), "training batches"), (("watched", "psnr_db"), "clips never trained on")),
    "dit": (
        (("loss_mask",), "in mask"),
        (("loss_context",), "outside"),
        (("watched", "loss_mask"), "in mask, never trained on"),
    ),
}
AXES = {
    "ae": {"ylabel": "PSNR, dB", "title": "Autoencoder"},
    "dit": {"ylabel": "velocity MSE", "title": "Denoiser", "yscale": "log"},
}


def export(out: Path, folder: Path, config: TinyConfig, data_note: str, raw: bool = False) -> str:
    """Averaged weights of dit.pt, and those of ae-decoder.pt (or else ae-frozen.pt), to `folder`; a summary line.

    `raw` takes the denoiser's last weights instead of the averaged ones: better right after the targets were changed.
    """
    pipe = build_tiny_pipeline(config)
    pipe.vae.model.load_state_dict(_load(out / "ae-frozen.pt"))
    if (out / "ae-decoder.pt").exists():
        pipe.vae.model.load_state_dict(_load(out / "ae-decoder.pt")["ema"])
    saved = _load(out / "dit.pt")
    model = TinyDenoiser(config)
    model.load_state_dict(saved["model" if raw else "ema"])
    pipe.dit, pipe.vace, pipe.text_encoder = model.dit, model.vace, model.text_encoder
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, cwd=Path(__file__).parent, text=True, capture_output=True, check=False).stdout
    metadata = {
        "commit": commit.strip() or "unknown",
        "data": data_note,
        "dit_steps": str(saved["step"]),
        "dit_minutes": f"{saved['used_s'] / 60:.0f}",
        "averaged": str(not raw),
    }
    size = save_tiny_weights(pipe, config, folder, metadata)
    return f"{size / 1e6:.1f} MB at step {saved['step']} to {folder}"


def plot_logs(out: Path, image: Path) -> None:
    """Draws the curves of ae.jsonl and dit.jsonl, as far as they are there; needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    logs = {"ae": read_log(out / "ae.jsonl"), "dit": read_log(out / "dit.jsonl")}
    shown = [stage for stage, rows in logs.items() if rows]
    if not shown:
        raise FileNotFoundError(f"{out} holds no ae.jsonl or dit.jsonl")
    figure, panels = plt.subplots(1, len(shown), figsize=(4.5 * len(shown), 3.2), squeeze=False)
    for stage, axes in zip(shown, panels[0], strict=True):
        for keys, label in CURVES[stage]:
            _curve(axes, logs[stage], keys, label)
        axes.set(xlabel="minutes", **AXES[stage])
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize=8)
    figure.tight_layout()
    image.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(image, dpi=90)


def read_log(path: Path) -> list[dict[str, Any]]:
    """Rows of a log; a run resumed from a checkpoint replaces what came after that checkpoint."""
    rows: list[dict[str, Any]] = []
    for line in path.read_text().splitlines() if path.exists() else []:
        row = json.loads(line)
        while rows and rows[-1]["used_s"] > row["used_s"]:
            rows.pop()
        rows.append(row)
    return rows


def _curve(axes: Any, rows: list[dict[str, Any]], keys: tuple[str, ...], label: str) -> None:
    points = [(row["used_s"] / 60, _value(row, keys)) for row in rows]
    kept = [(minute, value) for minute, value in points if value is not None]
    if kept:
        axes.plot(*zip(*kept, strict=True), label=label, linewidth=1)


def _value(row: dict[str, Any], keys: tuple[str, ...]) -> Any:
    value: Any = row
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _load(path: Path) -> Any:
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: train that stage first, or restore it from weights")
    return torch.load(path, map_location="cpu", weights_only=True)
