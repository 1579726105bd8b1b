"""Small videos for the metric tests: lossless, so that what is measured is what was written."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from video_files import make

LIGHT = ("--metrics", "psnr", "ssim", "temporal", "--device", "cpu")
"""Flags of the metrics that need no weights."""


def moving_frames(count: int, height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """A textured picture that slides by one pixel a frame: [T, H, W, 3] uint8."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 4 + 2, (width + count) // 4 + 2, 3))
    picture = coarse.repeat(4, axis=0).repeat(4, axis=1).astype(np.uint8)
    return np.stack([picture[:height, t : t + width] for t in range(count)])


def noisy(frames: np.ndarray, amplitude: int = 12, seed: int = 1) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(-amplitude, amplitude + 1, frames.shape)
    return np.clip(frames.astype(int) + noise, 0, 255).astype(np.uint8)


def write_lossless(path: Path, frames: np.ndarray) -> Path:
    """Write [T, H, W, 3] uint8 as FFV1 in RGB; the suffix must be .mkv."""
    return make(path, "-c:v", "ffv1", "-pix_fmt", "bgr0", frames=frames)


def write_mask(path: Path, mask: np.ndarray) -> Path:
    return write_lossless(path, np.repeat(mask[..., None].astype(np.uint8) * 255, 3, axis=3))


def load_evaluation() -> ModuleType:
    """evaluation.py of the repository root, imported."""
    path = Path(__file__).resolve().parents[1] / "evaluation.py"
    spec = importlib.util.spec_from_file_location("evaluation", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def strict_json(path: Path) -> dict[str, Any]:
    """Parse as RFC 8259 does: no bare NaN or Infinity."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
