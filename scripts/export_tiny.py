"""Writes the trained parts as float16 safetensors (stage `export` of train_tiny.py)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import torch
from train_tiny_dit import TinyDenoiser

from diffsynth_patches.tiny import TinyConfig, build_tiny_pipeline, save_tiny_weights


def export(out: Path, folder: Path, config: TinyConfig, data_note: str) -> str:
    """Averaged weights of dit.pt and of vae_tuned.pt (or vae_frozen.pt) to `folder`; returns a summary line."""
    pipe = build_tiny_pipeline(config)
    tuned = out / "vae_tuned.pt"
    pipe.vae.model.load_state_dict(torch.load(tuned if tuned.exists() else out / "vae_frozen.pt", map_location="cpu"))
    saved = torch.load(out / "dit.pt", map_location="cpu")
    model = TinyDenoiser(config)
    model.load_state_dict(saved["ema"])
    pipe.dit, pipe.vace, pipe.text_encoder = model.dit, model.vace, model.text_encoder
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, text=True,
                            capture_output=True, check=False).stdout.strip()
    size = save_tiny_weights(pipe, config, folder, {
        "commit": commit or "unknown", "data": data_note, "dit_steps": str(saved["step"]),
        "dit_minutes": f"{saved['used_s'] / 60:.0f}",
    })
    return f"{size / 1e6:.1f} MB at step {saved['step']} to {folder}"
