"""Training data on disk: `v_*.npy` clips [T, H, W, 3], `p_*.npy` photographs [1, H, W, 3], `s_*.npy` cut-outs.

Cut-outs are RGBA [H, W, 4].

`prepare` decodes folders of videos, photographs and cut-outs (PNG with alpha) into such uint8 arrays. `pack` writes the
same arrays as small files for a machine that can be sent only so much, and `prepare` reads those like any others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

VIDEO_HEIGHTS = (256, 160)
PHOTO_HEIGHTS = (384, 900)
SPRITE_HEIGHT = 160
PACKED_PHOTO_HEIGHT = 640
# Evaluated on, so never trained on: the committed example is a part of the first.
HELD_OUT = re.compile(r"vtest|real|masks|.*_mask")
VIDEOS = {".mp4", ".avi", ".mov", ".mkv", ".webm"}
IMAGES = {".jpg", ".jpeg", ".png", ".webp"}
# A wallpaper that comes in many sizes, one file each: of those one is taken.
_SIZE_NAME = re.compile(r"(\d+)x(\d+)")
_SUITABLE_HEIGHT = 1600


def prepare(folders: list[Path], out: Path) -> int:
    """Decodes every readable file below `folders` into `out`; returns how many arrays were written.

    Files whose name is `HELD_OUT` are passed over, as are duplicates of one wallpaper in other sizes.
    """
    out.mkdir(parents=True, exist_ok=True)
    written = 0
    for path in sorted(p for folder in folders for p in folder.rglob("*") if p.is_file()):
        if HELD_OUT.fullmatch(path.stem) or path.suffix.lower() not in VIDEOS | IMAGES or not _is_chosen_size(path):
            continue
        stem = _array_name(path)
        if path.suffix.lower() in VIDEOS:
            frames = read_frames(path)
            for height in VIDEO_HEIGHTS if frames else ():
                np.save(out / f"v_{stem}_{height}.npy", np.stack([shrink(f, height) for f in frames]))
                written += 1
        else:
            written += _prepare_image(path, out, stem)
    return written


def pack(data: Path, out: Path, limit_mib: float = 50.0) -> float:
    """Writes the arrays of `data` to `out` as video, WebP photographs and WebP cut-outs; returns MiB.

    The quality is lowered until all of it fits into `limit_mib`; ValueError when it does not even then.
    """
    from hetcache.media.write import write_video  # here: a machine that only trains need not have ffmpeg

    out.mkdir(parents=True, exist_ok=True)
    largest = f"_{VIDEO_HEIGHTS[0]}.npy"
    size = 0.0
    for quality, crf in ((88, 18), (78, 22), (68, 25), (55, 28)):
        for path in sorted(data.glob("*.npy")):
            array = np.load(path, mmap_mode="r")
            if path.name.startswith("v_") and path.name.endswith(largest):
                even = np.ascontiguousarray(array[:, : array.shape[1] // 2 * 2, : array.shape[2] // 2 * 2])
                write_video(out / f"{path.name[2 : -len(largest)]}.mp4", even, 25, crf=crf)
            elif path.name.startswith("p_") and not _has_larger(path):
                small = shrink(np.ascontiguousarray(array[0]), PACKED_PHOTO_HEIGHT)
                _write_webp(out / f"{path.stem[2:]}.webp", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), quality)
            elif path.name.startswith("s_"):
                bgra = cv2.cvtColor(np.ascontiguousarray(array), cv2.COLOR_RGBA2BGRA)
                _write_webp(out / f"{path.stem[2:]}.webp", bgra, quality)
        size = sum(p.stat().st_size for p in out.iterdir()) / 2**20
        if size <= limit_mib:
            return size
    raise ValueError(f"{data} packs to {size:.0f} MiB, more than {limit_mib:g}: take fewer sources")


def read_frames(path: Path) -> list[Pixels]:
    """All frames of a video, RGB."""
    capture = cv2.VideoCapture(str(path))
    return list(_frames(capture.read))


def _frames(read: Callable[[], tuple[bool, Pixels]]) -> Iterator[Pixels]:
    while True:
        ok, frame = read()
        if not ok:
            return
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


def shrink(image: Pixels, height: int) -> Pixels:
    """The image at `height`, or as it is when it is not higher."""
    if image.shape[0] <= height:
        return image
    return cv2.resize(image, (round(image.shape[1] * height / image.shape[0]), height), interpolation=cv2.INTER_AREA)


def _prepare_image(path: Path, out: Path, stem: str) -> int:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None or image.ndim != 3 or image.dtype != np.uint8 or min(image.shape[:2]) < 64:
        return 0
    if image.shape[2] == 4 and (image[..., 3] < 128).mean() > 0.05:
        np.save(out / f"s_{stem}.npy", shrink(cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA), SPRITE_HEIGHT))
        return 1
    if min(image.shape[:2]) < 240:
        return 0
    image = cv2.cvtColor(image[..., :3], cv2.COLOR_BGR2RGB)
    heights = [h for h in PHOTO_HEIGHTS if h == PHOTO_HEIGHTS[0] or image.shape[0] >= h]
    for height in heights:
        np.save(out / f"p_{stem}_{height}.npy", shrink(image, height)[None])
    return len(heights)


def _is_chosen_size(path: Path) -> bool:
    """False for a `WIDTHxHEIGHT` file that has a landscape sibling nearer to the suitable height, or is upright."""
    if not _SIZE_NAME.fullmatch(path.stem):
        return True
    sizes = {p: _SIZE_NAME.fullmatch(p.stem) for p in path.parent.iterdir()}
    wide = {p: int(m[2]) for p, m in sizes.items() if m and int(m[1]) > int(m[2])}
    return path in wide and path == min(sorted(wide), key=lambda p: abs(wide[p] - _SUITABLE_HEIGHT))


def _array_name(path: Path) -> str:
    name = f"{path.parts[-4]}_{path.stem}" if _SIZE_NAME.fullmatch(path.stem) and len(path.parts) > 4 else path.stem
    return re.sub(r"\W+", "_", name)[:40]


def _has_larger(path: Path) -> bool:
    small, large = (f"_{height}.npy" for height in PHOTO_HEIGHTS)
    return path.name.endswith(small) and path.with_name(path.name.removesuffix(small) + large).exists()


def _write_webp(path: Path, image: Pixels, quality: int) -> None:
    if not cv2.imwrite(str(path), image, [cv2.IMWRITE_WEBP_QUALITY, quality]):
        raise OSError(f"cannot write {path}")
