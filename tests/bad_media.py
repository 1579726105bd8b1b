"""Builds the broken and hostile files of the bad-input table, each into a folder that holds v.mp4 and m.mp4."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from video_files import clip, ffmpeg, make

Build = Callable[[Path], object]
H264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "10")


def good(folder: Path) -> None:
    """v.mp4 with 12 frames 64x48, m.mp4 that masks a box in its middle, and out.mp4 of an earlier run."""
    make(folder / "v.mp4", *H264, frames=clip(12))
    make(folder / "m.mp4", *H264, frames=box(12, 20))
    (folder / "out.mp4").write_bytes(b"an earlier result")


def box(num_frames: int, left: int) -> np.ndarray:
    mask = np.zeros((num_frames, 48, 64, 3), np.uint8)
    mask[:, 10:30, left : left + 20] = 255
    return mask


def wrote(name: str, data: bytes) -> Build:
    return lambda folder: (folder / name).write_bytes(data)


def images(*sizes: tuple[int, int]) -> Build:
    """A folder `frames` of black images with these (width, height)."""

    def build(folder: Path) -> None:
        (folder / "frames").mkdir()
        for index, size in enumerate(sizes):
            Image.new("RGB", size).save(folder / "frames" / f"{index}.png")

    return build


def broken_image(folder: Path) -> None:
    images(*[(64, 48)] * 5)(folder)
    whole = folder / "frames" / "1.png"
    whole.write_bytes(whole.read_bytes()[:50])


def sound(folder: Path) -> None:
    ffmpeg("-f", "lavfi", "-i", "sine=d=0.2", folder / "a.wav")


def headless(folder: Path) -> None:
    (folder / "a.mp4").write_bytes((folder / "v.mp4").read_bytes()[:500])


def cut_in_the_middle(folder: Path) -> None:
    path = make(folder / "a.ts", "-c:v", "mpeg2video", "-g", 1, frames=clip(12))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])


def wide_video(folder: Path) -> None:
    ffmpeg("-f", "lavfi", "-i", "color=s=9000x16:d=0.04", "-c:v", "ffv1", folder / "wide.mkv")


def short_mask(folder: Path) -> None:
    make(folder / "short.mp4", *H264, frames=box(5, 20))


def mask_picture(name: str, size: tuple[int, int] = (64, 48), white: int = 255, mode: str = "L") -> Build:
    """A still mask of one grey box; in RGBA it is a picture whose alpha is another box."""

    def build(folder: Path) -> None:
        picture = Image.new("L", size)
        picture.paste(white, (20, 10, 40, 30))
        if mode == "RGBA":
            alpha = Image.new("L", size)
            alpha.paste(255, (0, 0, 30, 48))
            picture = Image.merge("RGBA", [picture] * 3 + [alpha])
        picture.save(folder / name)

    return build


def mask_of_another_rate(folder: Path) -> None:
    make(folder / "rate.mp4", *H264, frames=box(9, 20), rate=60)


def turned_mask(folder: Path) -> None:
    ffmpeg("-display_rotation", 90, "-i", folder / "m.mp4", "-c", "copy", folder / "turned.mp4")


def mask_that_leaves_the_middle(folder: Path) -> None:
    mask = box(12, 20)
    mask[11] = box(1, 0)
    make(folder / "edge.mp4", *H264, frames=mask)


def mask_at_the_edge(folder: Path) -> None:
    make(folder / "edge.mp4", *H264, frames=box(12, 0))


def locked(name: str) -> Build:
    def build(folder: Path) -> None:
        (folder / name).mkdir()
        (folder / name).chmod(0)

    return build


def locked_video(folder: Path) -> None:
    (folder / "locked.mp4").write_bytes(b"secret")
    (folder / "locked.mp4").chmod(0)


def pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe.mp4")


def dangling(folder: Path) -> None:
    (folder / "link.mp4").symlink_to(folder / "nowhere.mp4")


def folder_named(*names: str) -> Build:
    def build(folder: Path) -> None:
        for name in names:
            (folder / name).mkdir(parents=True)

    return build


def renamed(old: str, new: str) -> Build:
    return lambda folder: (folder / old).rename(folder / new)


def model_with(config: bytes) -> Build:
    def build(folder: Path) -> None:
        (folder / "weights").mkdir()
        (folder / "weights" / "config.json").write_bytes(config)

    return build


def png_of_size(width: int, height: int) -> bytes:
    """A PNG with true checksums whose header claims `width` x `height` and which holds one row."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(b"\0" * 64)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
