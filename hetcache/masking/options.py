"""What `hetcache-mask` is asked for, as typed. Every field is a flag."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hetcache.cli import OneLineParser, add_settings, take
from hetcache.core.settings import check_settings, setting
from hetcache.files import UserError
from hetcache.masking.prompts import (
    Box,
    Painted,
    Point,
    Polygon,
    Prompts,
    read_box,
    read_not_point,
    read_painted,
    read_point,
    read_polygon,
)

DESCRIPTION = """A mask of every frame of a clip, from a few marks on one frame or on several.

Mark the thing on a frame: a box around it, points on it, an outline, or a painted image. The mask is carried to all
other frames, forwards and backwards. Look at the picture that is left beside it, and mark again on a frame where it is
wrong: more points correct it there, and all marked frames are kept to. Then: inference.py --video CLIP --mask MASK."""

EPILOG = """pixels count from 0,0 at the top left of the upright picture, frames from 0, where a mark without @FRAME is

examples:
  hetcache-mask clip.mp4 --box 120,80,300,260 --output mask.mp4
  hetcache-mask clip.mp4 --point 210,150 --point 230,190 --not-point 300,150
  hetcache-mask clip.mp4 --box 120,80,300,260 --not-point 250,140@40 --point 180,200@40
  hetcache-mask clip.mp4 --polygon 120,80,300,80,300,260,120,260@12
  hetcache-mask clip.mp4 --painted frame0.png --painted frame60.png@60
  hetcache-mask clip.mp4 --box 120,80,300,260 --engine sam2 --sam2 facebook/sam2.1-hiera-tiny
"""


@dataclass(frozen=True)
class Marks:
    """The marks of each kind, in the order in which they were given."""

    box: tuple[Box, ...] = setting(
        (), "a box around the thing", parser=read_box, metavar="X0,Y0,X1,Y1[@FRAME]", shown="", repeat=True
    )
    point: tuple[Point, ...] = setting(
        (),
        "a point on the thing; alone on a later frame it corrects: what it lies on is added",
        parser=read_point,
        metavar="X,Y[@FRAME]",
        shown="",
        repeat=True,
    )
    not_point: tuple[Point, ...] = setting(
        (),
        "a point beside the thing: what it lies on is taken away",
        parser=read_not_point,
        metavar="X,Y[@FRAME]",
        shown="",
        repeat=True,
    )
    polygon: tuple[Polygon, ...] = setting(
        (), "the thing's outline, kept to", parser=read_polygon, metavar="X,Y,X,Y,X,Y...[@FRAME]", shown="", repeat=True
    )
    painted: tuple[Painted, ...] = setting(
        (),
        "an image of the clip's size, white where the thing is, kept to; all black: the thing is not there",
        parser=read_painted,
        metavar="FILE[@FRAME]",
        shown="",
        repeat=True,
    )

    @property
    def prompts(self) -> Prompts:
        return Prompts((*self.box, *self.point, *self.not_point, *self.polygon, *self.painted))


@dataclass(frozen=True)
class EngineOptions:
    """Which engine, and where the weights are that it needs."""

    engine: Literal["flow", "sam2"] = setting(
        "flow", "flow: built in, needs no weights; sam2: SAM 2 through transformers, better and slower without a GPU"
    )
    sam2: str | None = setting(
        None,
        "SAM 2's weights: a folder, or a model of the hub, as facebook/sam2.1-hiera-tiny",
        metavar="FOLDER_OR_ID",
        shown="",
    )
    device: str = setting("auto", "where SAM 2 runs: cpu, cuda, cuda:1 ...", shown="cuda if there is one")

    def __post_init__(self) -> None:
        check_settings(self)
        if self.sam2 is not None and self.engine != "sam2":
            raise UserError(f"--sam2 {self.sam2}: goes with --engine sam2; give both or neither")


@dataclass(frozen=True)
class MaskOutput:
    """Where it is written."""

    output: Path | None = setting(
        None,
        "the mask, an .mp4; a record (.json) and a picture of it (_sheet.png) are left beside it",
        shown="outputs/CLIP_mask.mp4",
        metavar="MASK.mp4",
    )
    debug: bool = setting(False, "show where in the code an error arose")


@dataclass(frozen=True)
class MaskRequest:
    """Everything that a mask is made of."""

    clip: Path
    marks: Marks = field(default_factory=Marks)
    engine: EngineOptions = field(default_factory=EngineOptions)
    output: MaskOutput = field(default_factory=MaskOutput)


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        "hetcache-mask",
        usage="hetcache-mask CLIP (--box | --point | --polygon | --painted ...) [--output MASK.mp4] [flags below]",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("clip", type=Path, metavar="CLIP", help="a video, an image or a folder of frames")
    for title, config in (("marks", Marks), ("engine", EngineOptions), ("output", MaskOutput)):
        add_settings(parser.add_argument_group(title), config)
    return parser


def parse(argv: Sequence[str] | None = None) -> MaskRequest:
    """Raises ValueError for values that cannot be run; argparse itself exits with code 2 for what it can tell alone."""
    given = vars(build_parser().parse_args(argv))
    return MaskRequest(given["clip"], take(Marks, given), take(EngineOptions, given), take(MaskOutput, given))
