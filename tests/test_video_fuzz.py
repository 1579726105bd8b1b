"""Mutated files end in a VideoError or in frames, never in another exception, a hang or a damaged output.

Seeded and bounded in time: HETCACHE_FUZZ_SECONDS (default 8) says how long; a failure names its seed.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from video_files import clip, make, make_with_sound

from hetcache.video import VideoError, count_frames, iter_frames, probe, read_mask, write_video

SECONDS = float(os.environ.get("HETCACHE_FUZZ_SECONDS", "8"))
SIZE = (48, 64)


def originals(folder: Path) -> list[Path]:
    """One small whole file of every kind."""
    files = [
        make_with_sound(folder / "a.mp4", "-c:v", "libx264", "-c:a", "aac"),
        make(folder / "b.mkv", "-c:v", "ffv1", frames=clip(4)),
        make(folder / "c.avi", "-c:v", "mjpeg", frames=clip(4)),
        make(folder / "d.gif", frames=clip(4)),
        make(folder / "e.webm", "-c:v", "libvpx", frames=clip(4)),
        make(folder / "f.ts", "-c:v", "mpeg2video", frames=clip(4)),
        make(folder / "g.mov", "-c:v", "qtrle", frames=clip(4)),
    ]
    for suffix in ("png", "jpg", "bmp", "tif", "webp"):
        files.append(folder / f"h.{suffix}")
        Image.fromarray(clip(1)[0]).save(files[-1])
    return files


def mutated(data: bytes, random: np.random.Generator) -> bytes:
    """Flip bytes (mostly in the header), cut, drop, repeat or overwrite a piece."""
    out = bytearray(data)
    for _ in range(int(random.integers(1, 4))):
        kind, reach = random.integers(5), len(out) if random.random() < 0.4 else min(len(out), 400)
        start = int(random.integers(max(reach, 1)))
        end = min(len(out), start + int(random.integers(1, 64)))
        if kind == 0:
            for index in random.integers(0, max(reach, 1), 6):
                out[index % len(out)] = int(random.integers(256))
        elif kind == 1:
            del out[max(start, 16) :]
        elif kind == 2:
            del out[start:end]
        elif kind == 3:
            out[start:start] = out[start:end]
        else:
            out[start:end] = (b"\xff" if random.random() < 0.5 else b"\0") * (end - start)
        if not out:
            out = bytearray(data[:1])
    return bytes(out)


def exercise(path: Path, output: Path) -> None:
    """Everything the program does with an input; only VideoError may come out."""
    for attempt in (
        lambda: probe(path),
        lambda: count_frames(path),
        lambda: read_mask(path, 3, SIZE, extend="hold"),
        lambda: write_video(output, iter_frames(path, count=3, size=SIZE), 24, audio_from=path),
    ):
        try:
            attempt()
        except VideoError as error:
            assert str(error).isprintable() and len(str(error)) < 500


def test_mutated_files_never_break_it(tmp_path: Path) -> None:
    files = [(path.suffix, path.read_bytes()) for path in originals(tmp_path)]
    folder = tmp_path / "out"
    folder.mkdir()
    output = folder / "out.mp4"
    write_video(output, clip(1), 24)
    end, seed = time.monotonic() + SECONDS, 0
    while time.monotonic() < end:
        suffix, data = files[seed % len(files)]
        path = tmp_path / f"mutated{suffix}"
        path.write_bytes(mutated(data, np.random.default_rng(seed)))
        begin = time.monotonic()
        try:
            exercise(path, output)
        except Exception as error:
            pytest.fail(f"seed {seed} ({suffix}): {error!r}")
        assert time.monotonic() - begin < 30, f"seed {seed} ({suffix}) took too long"
        assert [entry.name for entry in folder.iterdir()] == ["out.mp4"], f"seed {seed}"
        assert probe(output).codec == "h264", f"seed {seed}"
        seed += 1
    assert seed > 0
