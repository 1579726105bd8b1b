"""Toy models in folders of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hetcache.core.calibration_files import path_file
from hetcache.core.paths import PathErrors, save_path_errors
from hetcache.files import CALIBRATIONS

if TYPE_CHECKING:
    from diffsynth_patches.tiny import TinyConfig


def toy_config(**changes: Any) -> TinyConfig:
    """The embedded model at a width where a step takes milliseconds."""
    from diffsynth_patches.tiny import TinyConfig

    shape: dict[str, Any] = dict(dim=48, num_layers=4, num_heads=2, ffn_dim=96, vace_layers=(0, 2), text_dim=64)
    vae = dict(vae_width=16, vae_encoder_depth=1, vae_decoder_depth=1, vae_refine_width=8, vae_features=2)
    return TinyConfig(**{**shape, **vae, **changes})


def lend_calibration(folder: Path) -> None:
    """The embedded model's calibration, without a word about its weights: a toy of random weights needs one of any
    values, not a true one."""
    values = json.loads((CALIBRATIONS / "tiny.json").read_text())
    for name in ("weights", "fastcache"):
        values.pop(name, None)
    (folder / "tiny.json").write_text(json.dumps(values))
    lend_path_errors(folder / "tiny.json")


def lend_path_errors(calibration: Path, num_steps: int = 16, sigma_shift: float = 5.0) -> Path:
    """DPCache's table of any values for one schedule, beside a calibration file."""
    sigmas = [1 - index / num_steps for index in range(num_steps)]
    timesteps = tuple(1000 * sigma_shift * sigma / (1 + (sigma_shift - 1) * sigma) for sigma in sigmas)
    facts = {"model": calibration.stem, "library": "diffsynth", "sampler": "", "sigma_shift": sigma_shift}
    i, j, t = np.ogrid[:num_steps, :num_steps, :num_steps]
    errors = PathErrors(timesteps, np.where((i < j) & (j < t), 1.0 * (t - j), 0.0), facts)
    save_path_errors(path_file(calibration, num_steps, sigma_shift), errors)
    return path_file(calibration, num_steps, sigma_shift)
