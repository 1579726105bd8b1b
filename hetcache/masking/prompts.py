"""What a person marks: boxes, points, outlines and painted masks, each on a frame of the clip.

Pixels count from 0 at the top left of the upright picture, x to the right, y down; frames count from 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from hetcache.files import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Size = tuple[int, int]
"""(height, width)"""


@dataclass(frozen=True)
class Box:
    """Encloses the thing: from pixel (x0, y0) up to, not with, column x1 and row y1."""

    x0: float
    y0: float
    x1: float
    y1: float
    frame: int = 0

    def __str__(self) -> str:
        return f"box {self.x0:g},{self.y0:g},{self.x1:g},{self.y1:g}@{self.frame}"

    def check(self, size: Size) -> None:
        """Raises UserError for a box that is empty or not within a picture of `size`."""
        if self.x1 <= self.x0 or self.y1 <= self.y0:
            raise UserError(f"{self}: is empty; give X0,Y0,X1,Y1 with X0 < X1 and Y0 < Y1")
        if self.x0 < 0 or self.y0 < 0 or self.x1 > size[1] or self.y1 > size[0]:
            raise UserError(f"{self}: reaches out of the picture, which is {size[1]}x{size[0]}; keep it inside")

    def scaled(self, x: float, y: float, _: Size) -> Box:
        return replace(self, x0=self.x0 * x, x1=self.x1 * x, y0=self.y0 * y, y1=self.y1 * y)

    def facts(self) -> dict[str, Any]:
        return {"kind": "box", "frame": self.frame, "box": [self.x0, self.y0, self.x1, self.y1]}


@dataclass(frozen=True)
class Point:
    """Lies on the thing or, if not `positive`, beside it."""

    x: float
    y: float
    positive: bool = True
    frame: int = 0

    def __str__(self) -> str:
        return f"{'point' if self.positive else 'not-point'} {self.x:g},{self.y:g}@{self.frame}"

    def check(self, size: Size) -> None:
        """Raises UserError for a point that is not within a picture of `size`."""
        if not (0 <= self.x < size[1] and 0 <= self.y < size[0]):
            raise UserError(f"{self}: lies outside the picture, which is {size[1]}x{size[0]}; choose one inside")

    def scaled(self, x: float, y: float, _: Size) -> Point:
        return replace(self, x=self.x * x, y=self.y * y)

    def facts(self) -> dict[str, Any]:
        return {"kind": "point", "frame": self.frame, "point": [self.x, self.y], "positive": self.positive}


@dataclass(frozen=True)
class Polygon:
    """An outline drawn by hand, taken as it is. Not `positive`: what is inside is cut out of the frame's mask."""

    corners: tuple[tuple[float, float], ...]
    positive: bool = True
    frame: int = 0

    def __str__(self) -> str:
        return f"polygon of {len(self.corners)} corners@{self.frame}"

    def check(self, size: Size) -> None:
        """Raises UserError for fewer than three corners, for one outside a picture of `size`, and for no area."""
        if len(self.corners) < 3:
            raise UserError(f"{self}: an outline has at least three corners; give X,Y,X,Y,X,Y or more")
        for x, y in self.corners:
            if not (0 <= x <= size[1] and 0 <= y <= size[0]):
                raise UserError(
                    f"{self}: corner {x:g},{y:g} lies outside the picture, which is {size[1]}x{size[0]}; keep it inside"
                )
        turned = (*self.corners[1:], self.corners[0])
        if abs(sum(x * v - u * y for (x, y), (u, v) in zip(self.corners, turned, strict=True))) < 2:
            raise UserError(f"{self}: encloses nothing; give corners that are not on one line")

    def scaled(self, x: float, y: float, _: Size) -> Polygon:
        return replace(self, corners=tuple((x * u, y * v) for u, v in self.corners))

    def facts(self) -> dict[str, Any]:
        corners = [list(corner) for corner in self.corners]
        return {"kind": "polygon", "frame": self.frame, "corners": corners, "positive": self.positive}


@dataclass(frozen=True, eq=False)
class Painted:
    """A whole frame's mask, taken as it is: `mask` [H, W] bool of the clip's size, or the file of an image that is
    read as `--mask` of an edit is. An empty one says that the thing is not there."""

    mask: NDArray[np.bool_] | Path
    frame: int = 0

    def __str__(self) -> str:
        return f"painted {self.mask if isinstance(self.mask, Path) else 'mask'}@{self.frame}"

    def check(self, size: Size) -> None:
        """Raises UserError for a mask in memory of another size than a picture of `size`."""
        if not isinstance(self.mask, Path) and self.mask.shape != size:
            sizes = f"is {self.mask.shape[1]}x{self.mask.shape[0]}, the clip {size[1]}x{size[0]}"
            raise UserError(f"{self}: {sizes}; paint over a frame of the clip's own size")

    def loaded(self) -> Painted:
        """With its mask in memory. Raises UserError for a file that is no image of a mask."""
        if not isinstance(self.mask, Path):
            return self
        from hetcache.media.masks import read_mask
        from hetcache.media.probe import probe

        info = probe(self.mask, "painted")
        if info.kind != "image":
            raise UserError(f"{self}: is no still image; save one frame's mask as PNG")
        return Painted(read_mask(self.mask, 1, (info.height, info.width))[0], self.frame)

    def scaled(self, _x: float, _y: float, size: Size) -> Painted:
        """Of a mask in memory."""
        from hetcache.media.masks import resize_mask

        assert not isinstance(self.mask, Path)
        return self if self.mask.shape == size else Painted(resize_mask(self.mask[None], *size)[0], self.frame)

    def facts(self) -> dict[str, Any]:
        return {"kind": "painted", "frame": self.frame}


Mark: TypeAlias = Box | Point | Polygon | Painted


@dataclass(frozen=True, eq=False)
class Prompts:
    """All marks of a clip. A frame with a mark is a keyframe."""

    marks: tuple[Mark, ...]

    @property
    def frames(self) -> tuple[int, ...]:
        """The keyframes, in order."""
        return tuple(sorted({mark.frame for mark in self.marks}))

    def at(self, frame: int) -> tuple[Mark, ...]:
        return tuple(mark for mark in self.marks if mark.frame == frame)

    def checked(self, size: Size, num_frames: int) -> Prompts:
        """The same with every painted mask in memory. Raises UserError for marks that do not fit a clip of `num_frames`
        pictures of `size`, and where none says where the thing is."""
        if not self.marks:
            raise UserError("nothing is marked: give at least one --box, --point, --polygon or --painted")
        marks = tuple(mark.loaded() if isinstance(mark, Painted) else mark for mark in self.marks)
        for mark in marks:
            if not 0 <= mark.frame < num_frames:
                raise UserError(f"{mark}: the clip has {num_frames} frames, from 0 to {num_frames - 1}")
            mark.check(size)
        if all(isinstance(mark, (Point, Polygon)) and not mark.positive for mark in marks):
            raise UserError("only what is not the thing is marked: give a --box, --point, --polygon or --painted too")
        return Prompts(marks)

    def scaled(self, x: float, y: float, size: Size) -> Prompts:
        """The same for pictures that are `x` times as wide and `y` times as high: of `size`."""
        return Prompts(tuple(mark.scaled(x, y, size) for mark in self.marks))

    def facts(self) -> list[dict[str, Any]]:
        """For the record, as JSON values."""
        return [mark.facts() for mark in self.marks]


def read_box(text: str) -> Box:
    """X0,Y0,X1,Y1 or X0,Y0,X1,Y1@FRAME. Raises ValueError."""
    numbers, frame = _read(text, "X0,Y0,X1,Y1[@FRAME]", "120,80,300,260@0")
    if len(numbers) != 4:
        raise ValueError(f"{text!r} is not X0,Y0,X1,Y1[@FRAME] in pixels, as 120,80,300,260@0")
    x0, y0, x1, y1 = numbers
    return Box(x0, y0, x1, y1, frame)


def read_point(text: str) -> Point:
    """X,Y or X,Y@FRAME. Raises ValueError."""
    numbers, frame = _read(text, "X,Y[@FRAME]", "210,150@0")
    if len(numbers) != 2:
        raise ValueError(f"{text!r} is not X,Y[@FRAME] in pixels, as 210,150@0")
    return Point(numbers[0], numbers[1], frame=frame)


def read_not_point(text: str) -> Point:
    """As read_point, for what is not the thing. Raises ValueError."""
    return replace(read_point(text), positive=False)


def read_polygon(text: str) -> Polygon:
    """X,Y,X,Y,X,Y... or the same with @FRAME. Raises ValueError."""
    numbers, frame = _read(text, "X,Y,X,Y,X,Y...[@FRAME]", "10,10,90,10,50,80@0")
    if len(numbers) % 2 or len(numbers) < 6:
        raise ValueError(f"{text!r} is not X,Y,X,Y,X,Y...[@FRAME] with three corners or more, as 10,10,90,10,50,80@0")
    return Polygon(tuple(zip(numbers[::2], numbers[1::2], strict=True)), frame=frame)


def read_painted(text: str) -> Painted:
    """FILE or FILE@FRAME. Raises ValueError."""
    name, at, frame = text.rpartition("@")
    if at and frame.isascii() and frame.isdecimal():
        return Painted(Path(name), int(frame))
    return Painted(Path(text))


def _read(text: str, form: str, example: str) -> tuple[list[float], int]:
    """(numbers, frame) of a mark as typed."""
    numbers, at, frame = text.partition("@")
    try:
        values = [float(number) for number in numbers.split(",")]
        if not all(map(math.isfinite, values)):
            raise ValueError
        return values, int(frame) if at else 0
    except ValueError:
        raise ValueError(f"{text!r} is not {form} in pixels, as {example}") from None
