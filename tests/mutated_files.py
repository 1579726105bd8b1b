"""Files with damaged bytes, for fuzzing. HETCACHE_FUZZ_SECONDS (default 8) says how long a fuzz test lasts."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image
from video_files import clip, make, make_with_sound

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
