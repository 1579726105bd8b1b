"""Jobs that take a tenth of a second each, the command that runs them in a process of its own, and a look at it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from video_files import clip, make

ROOT = Path(__file__).resolve().parent.parent
LOSSLESS = ("-c:v", "libx264", "-qp", "0", "-pix_fmt", "yuv420p")
SMALL = "--model tiny --mode hetcache --frames 5 --height 48 --width 64 --steps 2".split()


def make_media(folder: Path, num_videos: int) -> None:
    """v0.mp4, v1.mp4, ... m.mp4 their mask, bad.mp4 that is none."""
    for index in range(num_videos):
        make(folder / f"v{index}.mp4", *LOSSLESS, frames=clip(5) + np.uint8(3 * index))
    mask = np.zeros((5, 48, 64, 3), np.uint8)
    mask[:, 10:30, 16:40] = 255
    make(folder / "m.mp4", *LOSSLESS, frames=mask)
    (folder / "bad.mp4").write_text("no video")


def start(jobs: Path, out: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "inference.py"), "batch", str(jobs), "--out", str(out), *SMALL, *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True, cwd=jobs.parent)


def until(found: Callable[[], Any], process: subprocess.Popen[str] | None = None, seconds: float = 90) -> Any:
    """What `found` returns as soon as that is true. Fails when the process ends before."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = found()
        if value:
            return value
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.02)
    raise AssertionError("it did not happen")


def children(pid: int) -> list[int]:
    """Processes that this one has started (Linux)."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def holder(pid: int, lock: Path) -> int | None:
    """The child of process `pid` that holds the lock of an output: the worker that runs the job."""
    for child in children(pid):
        for handle in Path(f"/proc/{child}/fd").glob("*"):
            try:
                if handle.readlink() == lock:
                    return child
            except OSError:
                continue
    return None


def is_alive(pid: int) -> bool:
    """Whether it runs; one that only waits to be noticed does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def results(out: Path) -> dict[str, dict[str, Any]]:
    """By the name of its output, what the batch says of each job."""
    jobs = json.loads((out / "batch_results.json").read_text())["jobs"]
    return {Path(job["output"]).name: job for job in jobs}
