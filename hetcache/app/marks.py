"""The marks that a browser sends, as marks of `hetcache.masking`; a frame's mask as a picture over it."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hetcache.files import UserError, digest
from hetcache.masking.marks import mark_frame
from hetcache.masking.prompts import Box, Mark, Painted, Point, Prompts

Mask = NDArray[np.bool_]
MAX_MARKS = 500
MAX_PNG_PIXELS = 4096 * 4096
TINT = (226, 60, 48)
TINT_ALPHA, EDGE_ALPHA = 115, 255


@dataclass(frozen=True)
class Marks:
    """Marks as JSON values, in pixels of the clip: boxes, points, and painted masks that lie as PNG beside the clip."""

    values: tuple[dict[str, Any], ...]

    @classmethod
    def read(cls, values: Sequence[Any]) -> Marks:
        """Raises UserError for what is no list of marks."""
        if not isinstance(values, (list, tuple)) or len(values) > MAX_MARKS:
            raise UserError(f"marks: give a list of at most {MAX_MARKS}")
        return cls(tuple(_clean(value) for value in values))

    def at(self, frame: int) -> tuple[dict[str, Any], ...]:
        return tuple(value for value in self.values if value["frame"] == frame)

    def check(self, size: tuple[int, int], num_frames: int, folder: Path) -> None:
        """Raises UserError for marks that do not fit a clip of `num_frames` pictures of `size` (height, width)."""
        for value in self.values:
            if value["kind"] == "painted" and not (folder / value["file"]).is_file():
                raise UserError("marks: a painted mask is not there; paint it again")
        for mark in self.of(folder).marks:
            if not 0 <= mark.frame < num_frames:
                raise UserError(f"{mark}: the clip has {num_frames} frames, from 0 to {num_frames - 1}")
            mark.check(size)

    def of(self, folder: Path) -> Prompts:
        """As `hetcache.masking` takes them; `folder` has the painted ones."""
        return Prompts(tuple(_mark(value, folder) for value in self.values))

    @staticmethod
    def keep_painted(png: bytes, size: tuple[int, int], folder: Path) -> str:
        """Keep a painted mask as a picture of the clip's size (height, width): what is not transparent is painted.
        Returns its file's name. Raises UserError for bytes that are no PNG."""
        alpha = _alpha(png)
        mask = cv2.resize(alpha, size[::-1], interpolation=cv2.INTER_NEAREST) > 0
        name = f"painted-{digest(mask.tobytes())[:16]}.png"
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / name)
        return name


def overlay_png(mask_HW: Mask, shown: tuple[int, int]) -> bytes:
    """The mask as a tint with an outline, transparent elsewhere, at `shown` (height, width)."""
    area = cv2.resize(mask_HW.astype(np.float32), shown[::-1], interpolation=cv2.INTER_AREA)
    small = (area >= 0.5).astype(np.uint8)
    inner = cv2.erode(small, np.ones((3, 3), np.uint8))
    picture = np.zeros((*small.shape, 4), np.uint8)
    picture[..., :3] = TINT
    picture[..., 3] = np.where(inner > 0, TINT_ALPHA, np.where(small > 0, EDGE_ALPHA, 0))
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def preview(
    frame: Path, values: Sequence[dict[str, Any]], size: tuple[int, int], folder: Path, known: bytes | None
) -> bytes:
    """What the marks of one frame say, at the size in which the page shows it; `known` is the finished mask there. Only
    for the eye: the mask itself is made at the clip's size."""
    with Image.open(frame) as image:
        picture = np.asarray(image.convert("RGB"))
    shown = picture.shape[0], picture.shape[1]
    prompts = Marks(tuple(values)).of(folder)
    prompts = Prompts(tuple(mark.loaded() if isinstance(mark, Painted) else mark for mark in prompts.marks))
    scaled = prompts.scaled(shown[1] / size[1], shown[0] / size[0], shown)
    before = None if known is None else _alpha(known) > 0
    return overlay_png(mark_frame(picture, scaled.marks, before), shown)


def _alpha(png: bytes) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            if image.width * image.height > MAX_PNG_PIXELS:
                raise UserError("the painted mask has too many pixels")
            return np.array(image.convert("RGBA"))[..., 3]
    except UserError:
        raise
    except Exception as error:
        # Damaged PNGs make Pillow raise almost anything.
        raise UserError("the painted mask is no PNG that can be read") from error


def _clean(value: Any) -> dict[str, Any]:
    try:
        kind, frame = value["kind"], int(value["frame"])
        if kind == "box":
            return {"kind": kind, "frame": frame, "box": _numbers(value["box"], 4)}
        if kind == "point":
            point = _numbers(value["point"], 2)
            return {"kind": kind, "frame": frame, "point": point, "positive": bool(value["positive"])}
        if kind == "painted":
            name = str(value["file"])
            if not (name.startswith("painted-") and name.endswith(".png") and name[8:-4].isalnum()):
                raise ValueError("file")
            return {"kind": kind, "frame": frame, "file": name}
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError("marks: not a mark") from error
    raise UserError("marks: not a box, a point or a painted mask")


def _numbers(values: Any, count: int) -> list[float]:
    numbers = [round(float(value), 2) for value in values]
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise ValueError("numbers")
    return numbers


def _mark(value: dict[str, Any], folder: Path) -> Mark:
    if value["kind"] == "box":
        x0, y0, x1, y1 = value["box"]
        return Box(x0, y0, x1, y1, value["frame"])
    if value["kind"] == "point":
        x, y = value["point"]
        return Point(x, y, value["positive"], value["frame"])
    return Painted(folder / value["file"], value["frame"])
