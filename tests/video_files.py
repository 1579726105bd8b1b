"""Makes the small media files that the video tests read: frames by numpy, containers by ffmpeg."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
from imageio_ffmpeg import get_ffmpeg_exe
from numpy.typing import NDArray


def ffmpeg(*args: object) -> None:
    """Run ffmpeg with `args`, overwriting; the test fails if it does."""
    command = [get_ffmpeg_exe(), "-nostdin", "-loglevel", "error", "-y", *map(str, args)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, timeout=60)


def clip(num_frames: int = 9, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """[T, H, W, 3] uint8: a smooth picture, redder on the left, brighter with each frame."""
    ramp = np.linspace(0, 60, width)[None, :] + np.linspace(0, 30, height)[:, None]
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    for index in range(num_frames):
        frames[index] = (ramp + 10 * index)[..., None].clip(0, 255)
        frames[index, :, : width // 2, 0] += 60
    return frames


def make(path: Path, *out_args: object, frames: NDArray[np.uint8] | None = None, rate: object = 24) -> Path:
    """Encode `frames` (clip() if None) into `path` with ffmpeg's output options `out_args`."""
    frames = clip() if frames is None else frames
    raw = path.with_name(path.name + ".rgb")
    raw.write_bytes(frames.tobytes())
    size = f"{frames.shape[2]}x{frames.shape[1]}"
    ffmpeg("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", rate, "-i", raw, *out_args, path)
    raw.unlink()
    return path


def make_with_sound(path: Path, *out_args: object, seconds: float = 0.5) -> Path:
    """A test picture 64x48 at 24 frames a second with a sine tone."""
    picture = f"testsrc2=s=64x48:r=24:d={seconds}"
    ffmpeg("-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", f"sine=d={seconds}", *out_args, path)
    return path
