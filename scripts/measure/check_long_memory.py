"""Peak memory of long edits must not grow with their length: exit code 1 if it does.

    python scripts/check_long_memory.py
    python scripts/check_long_memory.py --height 240 --width 416 --steps 4

Edits the first 100 and then all 300 frames of a made moving clip through windows, each run a process of its own, and
prints the peak resident memory of both. The clip is large (480x854, 1.2 MB a frame) and the model's size small: 200
frames more, held anywhere, would be some 240 MB, a quarter of what the libraries alone take.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hetcache.files import ROOT
from hetcache.media.write import write_video

FPS = 24.0
# The peak of this process image alone: getrusage() would also know the parent's from before exec.
CHILD = """
import pathlib, resource, sys
import inference
code = inference.main(sys.argv[1:])
status = pathlib.Path("/proc/self/status")
if status.is_file():
    peak_kib = next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak_kib = peak // 1024 if sys.platform == "darwin" else peak
print("peak_kib", peak_kib)
sys.exit(code)
"""


def moving_frames(num_frames: int, height: int, width: int) -> Iterator[np.ndarray]:
    """A blocky pattern [H, W, 3] that moves by 2 pixels a frame."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (-(-height // 32), -(-width // 32), 3), dtype=np.uint8)
    picture = np.kron(blocks, np.ones((32, 32, 1), np.uint8))[:height, :width]
    for index in range(num_frames):
        yield np.roll(picture, 2 * index, axis=1)


def moving_mask(num_frames: int, height: int, width: int) -> Iterator[np.ndarray]:
    """A white box [H, W, 3] over a ninth of the frame, to and fro."""
    for index in range(num_frames):
        mask = np.zeros((height, width, 3), np.uint8)
        left = width // 3 + round(width / 4 * np.sin(index / 20))
        mask[height // 3 : 2 * height // 3, left : left + width // 3] = 255
        yield mask


def peak_mib(folder: Path, num_frames: int, args: argparse.Namespace) -> float:
    """Peak resident memory of one edit. Raises RuntimeError with its last words if it fails."""
    words = ["--mode", "hetcache", "--model", args.model, "--video", folder / "clip.mp4", "--mask", folder / "mask.mp4"]
    words += ["--output", folder / f"edit_{num_frames}.mp4", "--frames", num_frames, "--window", args.window]
    words += ["--height", args.height, "--width", args.width, "--steps", args.steps]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"the edit of {num_frames} frames failed: {done.stderr.strip().splitlines()[-1]}")
    return int(done.stdout.split("peak_kib")[1]) / 1024


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs=2, default=(100, 300), metavar=("SHORT", "LONG"))
    parser.add_argument("--source", type=int, nargs=2, default=(480, 854), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--height", type=int, default=64)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--window", type=int, default=33)
    parser.add_argument("--tolerance", type=float, default=0.1, help="allowed relative difference (default 0.1)")
    args = parser.parse_args(argv)
    peaks = []
    with tempfile.TemporaryDirectory() as name:
        folder, count = Path(name), max(args.frames)
        write_video(folder / "clip.mp4", moving_frames(count, *args.source), FPS)
        write_video(folder / "mask.mp4", moving_mask(count, *args.source), FPS)
        for num_frames in args.frames:
            start = time.perf_counter()
            peaks.append(peak_mib(folder, num_frames, args))
            seconds = time.perf_counter() - start
            print(f"{num_frames:5d} frames: peak {peaks[-1]:8.1f} MiB, {seconds:6.1f} s", flush=True)
    more_mib = abs(args.frames[1] - args.frames[0]) * args.source[0] * args.source[1] * 3 / 2**20
    ratio = max(peaks) / min(peaks)
    print(f"ratio {ratio:.3f} (at most {1 + args.tolerance:g}); the further frames alone are {more_mib:.0f} MiB")
    return int(ratio > 1 + args.tolerance)


if __name__ == "__main__":
    sys.exit(main())
