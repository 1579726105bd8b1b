"""Writes the trained parts as float16 safetensors and draws the loss curves (stages of train_tiny.py)."""

from __future__ import annotations

import csv
import subprocess
from pathlib import Path

import torch
from train_tiny_dit import TinyDenoiser

from diffsynth_patches.tiny import TinyConfig, build_tiny_pipeline, save_tiny_weights


def export(out: Path, folder: Path, config: TinyConfig, data_note: str, raw: bool = False) -> str:
    """Averaged weights of dit.pt and of vae_tuned.pt (or vae_frozen.pt) to `folder`; returns a summary line.

    `raw` takes the last weights instead of the averaged ones: better right after the targets were changed.
    """
    pipe = build_tiny_pipeline(config)
    tuned = out / "vae_tuned.pt"
    pipe.vae.model.load_state_dict(torch.load(tuned if tuned.exists() else out / "vae_frozen.pt", map_location="cpu"))
    saved = torch.load(out / "dit.pt", map_location="cpu")
    model = TinyDenoiser(config)
    model.load_state_dict(saved["model" if raw else "ema"])
    pipe.dit, pipe.vace, pipe.text_encoder = model.dit, model.vace, model.text_encoder
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, text=True, capture_output=True, check=False
    ).stdout.strip()
    size = save_tiny_weights(
        pipe,
        config,
        folder,
        {
            "commit": commit or "unknown",
            "data": data_note,
            "dit_steps": str(saved["step"]),
            "dit_minutes": f"{saved['used_s'] / 60:.0f}",
            "averaged": str(not raw),
        },
    )
    return f"{size / 1e6:.1f} MB at step {saved['step']} to {folder}"


def plot_logs(out: Path, image: Path) -> None:
    """Draws the loss curves of vae_log.csv and dit_log.csv; needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
    vae, dit = (_read_log(out / name) for name in ("vae_log.csv", "dit_log.csv"))
    _curve(left, [row for row in vae if row["shape"] != "monitor"], "psnr_db", "training batches")
    _curve(left, [row for row in vae if row["shape"] == "monitor"], "psnr_db", "clips never trained on")
    left.set(xlabel="minutes", ylabel="PSNR, dB", title="Autoencoder")
    for key, label in (("loss_mask", "in mask"), ("loss_context", "outside"), ("watched", "in mask, never trained on")):
        _curve(right, [row for row in dit if row[key]], key, label)
    right.set(xlabel="minutes", ylabel="velocity MSE", title="Denoiser", yscale="log")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.tight_layout()
    image.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(image, dpi=90)


def _read_log(path: Path) -> list[dict[str, str]]:
    """Rows of a log; a run resumed from a checkpoint replaces what came after that checkpoint."""
    rows: list[dict[str, str]] = []
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            while rows and float(rows[-1]["used_s"]) > float(row["used_s"]):
                rows.pop()
            rows.append(row)
    return rows


def _curve(axes, rows: list[dict[str, str]], key: str, label: str) -> None:
    axes.plot([float(row["used_s"]) / 60 for row in rows], [float(row[key]) for row in rows], label=label, linewidth=1)
