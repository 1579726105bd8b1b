"""What tools other than ours say about a media file: ffprobe's JSON, ffmpeg's own decoder, numpy on what it gives."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray


def tool(name: str) -> str:
    """The path of a program that CI has; elsewhere the test is skipped without it."""
    found = shutil.which(name)
    if found is None and os.environ.get("CI"):
        pytest.fail(f"CI must have {name}")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def ffprobe(path: Path, *args: str) -> dict[str, Any]:
    done = subprocess.run(
        [tool("ffprobe"), "-v", "error", *args, "-of", "json", str(path)], capture_output=True, check=True, timeout=60
    )
    return json.loads(done.stdout)


def stream(path: Path, kind: str = "v") -> dict[str, Any]:
    """ffprobe's record of the first picture or sound stream."""
    return ffprobe(path, "-show_streams", "-select_streams", f"{kind}:0")["streams"][0]


def tags(path: Path) -> tuple[str, ...]:
    """(matrix, primaries, transfer, range), "unknown" where the stream does not say."""
    found = stream(path)
    keys = ("color_space", "color_primaries", "color_transfer", "color_range")
    return tuple(found.get(key, "unknown") for key in keys)


def times(path: Path) -> list[float]:
    """Presentation time of each decoded frame."""
    frames = ffprobe(path, "-show_frames", "-select_streams", "v:0", "-show_entries", "frame=pts_time,pkt_pts_time")
    return [float(frame.get("pts_time", frame.get("pkt_pts_time"))) for frame in frames["frames"]]


def _decode(path: Path, *args: str) -> bytes:
    command = [tool("ffmpeg"), "-v", "error", "-nostdin", "-i", str(path), *args, "-"]
    return subprocess.run(command, capture_output=True, check=True, timeout=120).stdout


def raw_planes(path: Path, pix_fmt: str, size: tuple[int, int], num_frames: int) -> list[NDArray[Any]]:
    """The first frames as ffmpeg decodes them, without a conversion when `pix_fmt` is the file's: one array of all
    frames [T, h, w] for each of the three planes."""
    args = ["-map", "0:v:0", "-fps_mode", "passthrough", "-frames:v", str(num_frames), "-pix_fmt", pix_fmt]
    dtype = np.dtype("<u2" if "10" in pix_fmt or "12" in pix_fmt else "u1")
    data = np.frombuffer(_decode(path, *args, "-f", "rawvideo"), dtype)
    height, width = size
    columns, rows = {"420": (2, 2), "422": (2, 1), "444": (1, 1)}[pix_fmt.removeprefix("yuvj").removeprefix("yuv")[:3]]
    shapes = [(height, width), *[(height // rows, width // columns)] * 2]
    per_frame = sum(h * w for h, w in shapes)
    frames = data[: len(data) // per_frame * per_frame].reshape(-1, per_frame)
    planes, start = [], 0
    for h, w in shapes:
        planes.append(frames[:, start : start + h * w].reshape(-1, h, w))
        start += h * w
    return planes


def rgb(path: Path, matrix: str, span: str, size: tuple[int, int], num_frames: int) -> NDArray[np.uint8]:
    """The first frames [T, H, W, 3] as a player shows them that takes this matrix and this range."""
    convert = f"scale=in_color_matrix={matrix}:in_range={span}:flags=accurate_rnd+full_chroma_int,format=rgb24"
    args = ["-map", "0:v:0", "-fps_mode", "passthrough", "-frames:v", str(num_frames), "-vf", convert, "-f", "rawvideo"]
    return np.frombuffer(_decode(path, *args), np.uint8).reshape(-1, *size, 3)


def flashes(path: Path, size: tuple[int, int]) -> list[float]:
    """Times at which the top left corner of the picture turns white."""
    args = ["-map", "0:v:0", "-fps_mode", "passthrough", "-vf", "crop=8:8:4:4,format=gray", "-f", "rawvideo"]
    white = np.frombuffer(_decode(path, *args), np.uint8).reshape(-1, 64).mean(axis=1) > 150
    starts = white & ~np.concatenate([[False], white[:-1]])
    return [time for time, start in zip(times(path), starts, strict=True) if start]


def beeps(path: Path) -> list[float]:
    """Times at which the sound begins after a silence."""
    sound = np.abs(np.frombuffer(_decode(path, "-map", "0:a:0", "-ac", "1", "-ar", "48000", "-f", "f32le"), np.float32))
    loud = np.flatnonzero(sound > 0.1)
    first = loud[np.concatenate([[True], np.diff(loud) > 4800])] if len(loud) else loud
    start = float(stream(path, "a").get("start_time", 0))
    return [start + index / 48000 for index in first]
