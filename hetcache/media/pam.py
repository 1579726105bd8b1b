"""Pictures as ffmpeg writes them into a pipe: PAM, whose every frame says its own size."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from hetcache.media import ffmpeg as ff


def read_pam(pipe: IO[bytes], path: Path, what: str) -> NDArray[Any] | None:
    """One PAM picture [H, W, depth], uint8 or (deeper than 8 bit) uint16; None at the end of the stream. Each carries
    its own size, so a lying container cannot shift the frames."""
    fields: dict[bytes, bytes] = {}
    if pipe.readline(64).strip() != b"P7":
        return None
    while (line := pipe.readline(64).strip()) != b"ENDHDR":
        key, _, value = line.partition(b" ")
        if not value:
            return None
        fields[key] = value
    width, height, depth = (int(fields[key]) for key in (b"WIDTH", b"HEIGHT", b"DEPTH"))
    ff.check_size(width, height, path, what)
    dtype = np.dtype(">u2" if int(fields.get(b"MAXVAL", b"255")) > 255 else "u1")
    num_bytes = width * height * depth * dtype.itemsize
    data = pipe.read(num_bytes)
    if len(data) < num_bytes:
        return None
    return np.frombuffer(data, dtype).reshape(height, width, depth).astype(dtype.newbyteorder("="))


def has_alpha(pix_fmt: str) -> bool:
    """Whether a pixel format of ffmpeg has transparency."""
    return pix_fmt.startswith(("yuva", "rgba", "bgra", "argb", "abgr", "gbrap", "ya8", "ya16", "pal8"))
