"""Still images and folders of frames as pictures [H, W, 3] uint8 RGB."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from hetcache.media.ffmpeg import VideoError, check_regular_file, check_size

# Decoders to try on a file's content. EPS and the like, which start other programs, are not among them.
_FORMATS = ("PNG", "JPEG", "MPO", "BMP", "TIFF", "WEBP", "PPM", "GIF", "AVIF", "JPEG2000")
_PAGES = ("TIFF", "AVIF")
_MJPEG_SEARCH_BYTES = 16 << 20
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".avif", ".jp2")


def image_size(path: Path, what: str = "image") -> tuple[int, int] | None:
    """(height, width) of a still image after its orientation tag; None if the file is no still image.

    An animation (GIF, APNG, animated WebP) counts as a video, so it is None too.
    """
    check_regular_file(path, what)
    try:
        with _open(path) as image:
            if getattr(image, "is_animated", False) and image.format != "MPO":
                if image.format in _PAGES:
                    # ffmpeg would take the first page, or none, without a word.
                    pages = f"{getattr(image, 'n_frames', 2)} pictures in one {image.format}"
                    raise VideoError(f"{what} {path}: holds {pages}; save them as PNG files in a folder and give that")
                return None
            if image.format in ("JPEG", "MPO") and _another_jpeg_follows(path):
                return None
            width, height = image.size
            check_size(width, height, path, what)
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            return (width, height) if turned else (height, width)
    except VideoError:
        raise
    except Image.DecompressionBombError as error:
        raise VideoError(f"{what} {path}: claims an absurd size; scale it down first") from error
    except Exception:
        # Decoders raise almost anything on bytes that are not theirs; "no still image" is the answer then.
        return None


def _another_jpeg_follows(path: Path) -> bool:
    """Whether a JPEG is the first frame of raw Motion JPEG: the next one begins where it ends. (The second picture of
    an MPO does not: it is an alternative of the first.)"""
    with path.open("rb") as file:
        head = file.read(_MJPEG_SEARCH_BYTES)
    return b"MPF\0" not in head[:4096] and b"\xff\xd9\xff\xd8\xff" in head


def read_image(path: Path, what: str = "image") -> NDArray[np.uint8]:
    """One picture [H, W, 3] uint8 RGB: upright, 16 bit reduced to 8, transparency laid over black."""
    check_regular_file(path, what)
    try:
        with _open(path) as image:
            check_size(image.width, image.height, path, what)
            return _to_rgb(image)
    except VideoError:
        raise
    except Exception as error:
        # As above: damaged files make decoders raise struct.error, SyntaxError, IndexError and others.
        raise VideoError(f"{what} {path}: cannot be decoded ({error}); save it again as PNG") from error


def open_upright(path: Path, what: str = "image") -> Image.Image:
    """A still image after its orientation tag, in its own mode; `info["stored_as"]` names its format. Raises
    VideoError."""
    check_regular_file(path, what)
    try:
        with _open(path) as image:
            check_size(image.width, image.height, path, what)
            upright = _upright(image)
            upright.info["stored_as"] = image.format
            return upright
    except VideoError:
        raise
    except Exception as error:
        raise VideoError(f"{what} {path}: cannot be decoded ({error}); save it again as PNG") from error


def list_frames(folder: Path, what: str = "video") -> list[Path]:
    """The images of a folder in natural order (frame_2 before frame_10); other files are skipped."""
    try:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise VideoError(f"{what} {folder}: cannot be read ({error.strerror}); check permissions") from error
    frames = [entry for entry in entries if entry.suffix.lower() in SUFFIXES and entry.is_file()]
    if not frames:
        raise VideoError(f"{what} {folder}: a folder without images; it needs PNG or JPEG files")
    return sorted(frames, key=lambda entry: natural_key(entry.name))


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """A sort key that compares runs of digits by value."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return tuple((0, int(part), part) if part.isdigit() else (1, 0, part.lower()) for part in parts)


def over_black(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[H, W, 4] uint8 laid over black: [H, W, 3] uint8."""
    alpha = rgba[..., 3:].astype(np.uint16)
    return ((rgba[..., :3] * alpha + 127) // 255).astype(np.uint8)


def _open(path: Path) -> Image.Image:
    Image.init()
    formats = tuple(name for name in _FORMATS if name in Image.OPEN)
    with warnings.catch_warnings():
        # Sizes have a limit of our own, which is an error; a warning of Pillow's beside it says nothing more.
        warnings.simplefilter("ignore")
        return Image.open(os.fspath(path), formats=formats)


def _upright(image: Image.Image) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ImageOps.exif_transpose(image)


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    upright = _upright(image)
    if upright.mode == "F":
        raise ValueError("floating-point pixels")
    if upright.mode.startswith("I"):
        # Pillow would clip 16 bit to 255 instead of scaling it.
        deep = np.asarray(upright).astype(np.int64).clip(0, 65535)
        grey = ((deep * 255 + 32767) // 65535).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if upright.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in upright.info:
        return over_black(np.asarray(upright.convert("RGBA")))
    return np.array(upright.convert("RGB"))
