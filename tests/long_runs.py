"""A clip of three windows with sound, the command that edits it, and a count of what that computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from video_files import ffmpeg, make

from diffsynth_patches import backend

ROOT = Path(__file__).resolve().parent.parent
import inference  # noqa: E402

NUM_FRAMES, NUM_WINDOWS = 17, 3
ONE = ["window_00000.json", "window_00000.npz"]
LOSSLESS = ("-c:v", "libx264", "-qp", "0", "-pix_fmt", "yuv420p")

STOPPING = """
import os, signal, sys, time

def stop():
    if end == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.__stdout__.write("stopped here\\n")
    sys.__stdout__.flush()
    time.sleep(60)

calls = {}

def at(owner, name, call, after=False):
    real = getattr(owner, name)
    def patched(*args, **kwargs):
        calls[name] = calls.get(name, 0) + 1
        if calls[name] == call and not after:
            stop()
        found = real(*args, **kwargs)
        if calls[name] == call and after:
            stop()
        return found
    setattr(owner, name, patched)
"""
"""Begins a program of its own for `python -c`: `at` stops it at a call, in the way that its global `end` says."""


def make_clip(folder: Path) -> None:
    """v.mp4: 17 frames 96x72 at 12 a second with a tone; m.mp4: a box that moves; out.mp4 of an earlier run."""
    rng = np.random.default_rng(0)
    base = np.kron(rng.integers(0, 255, (9, 12, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
    frames = np.stack([np.roll(base, 2 * index, axis=1) for index in range(NUM_FRAMES)])
    silent = make(folder / "silent.mp4", *LOSSLESS, frames=frames, rate=12)
    ffmpeg("-i", silent, "-f", "lavfi", "-i", "sine=d=3", "-c:v", "copy", "-shortest", folder / "v.mp4")
    silent.unlink()
    make_mask(folder / "m.mp4", range(NUM_FRAMES))
    (folder / "out.mp4").write_bytes(b"an earlier result")


def make_mask(path: Path, masked: range, num_frames: int = NUM_FRAMES) -> None:
    """White box in the frames `masked`, black elsewhere."""
    mask = np.zeros((num_frames, 72, 96, 3), np.uint8)
    for index in masked:
        mask[index, 20:50, 16 + 2 * index : 46 + 2 * index] = 255
    make(path, *LOSSLESS, frames=mask, rate=12)


def command(folder: Path, *extra: str) -> list[str]:
    words = "--frames all --window 9 --overlap 5 --height 48 --width 64 --steps 2 --model tiny --mode hetcache".split()
    files = ["--video", folder / "v.mp4", "--mask", folder / "m.mp4", "--output", folder / "out.mp4"]
    return [*words, *map(str, files), *extra]


def run(folder: Path, *extra: str) -> int:
    return inference.main(command(folder, *extra))


def saved(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "out_windows").glob("window_*"))


@pytest.fixture
def edits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with every clip that the model is asked to edit."""
    calls: list[int] = []
    real: Callable[..., Any] = backend.run_edit

    def counted(*args: Any) -> Any:
        calls.append(len(calls))
        return real(*args)

    monkeypatch.setattr(backend, "run_edit", counted)
    return calls
