"""Peak memory does not grow with the length of the video: scripts/check_long_memory.py at a small size."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_three_times_the_frames_take_the_same_memory() -> None:
    words = "--frames 60 180 --window 17 --height 48 --width 64 --steps 1".split()
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "check_long_memory.py"), *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "60 frames: peak" in done.stdout and "180 frames: peak" in done.stdout and "ratio" in done.stdout
