"""Toy models in folders of their own."""

import json
from pathlib import Path

import numpy as np

from hetcache.core.calibration import path_file
from hetcache.core.paths import PathErrors, save_path_errors
from hetcache.files import CALIBRATIONS


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
