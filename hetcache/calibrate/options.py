"""What a calibration is asked for, as typed: its own options, and those it shares with `inference.py`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hetcache.cli import OneLineParser, add_settings, take
from hetcache.core.options import EditSettings, Sampling
from hetcache.core.settings import check_settings, refused, setting
from hetcache.files import DATA, UserError
from hetcache.media.sizes import check_frame_count
from hetcache.models.options import ModelOptions
from hetcache.run.options import Size

DEFAULT_MODEL = "tiny"


@dataclass(frozen=True)
class Measured:
    """What is measured, and where it is written."""

    video: tuple[Path, ...] = setting((DATA / "real.mp4",), "clips to measure on", shown="the example")
    mask: tuple[Path, ...] = setting((DATA / "masks.mp4",), "one mask per clip", shown="the example's")
    frames: tuple[int, ...] = setting(
        (33,), "frames of each clip, 4k+1; of several numbers the clips take turns", shown="33"
    )
    rank: int = setting(32, "rank of FastCache's linear maps, 0 for none")
    paths: str = setting(
        "off",
        "DPCache's errors of paths, for this number of steps and this shift: measured 'also', or 'only' they are, the "
        "rest of the calibration as it is",
        choices=("off", "also", "only"),
    )
    time_curve: str = setting(
        "also",
        "the curve of time that HetCache's forecasts go along: measured with the rest ('also'), or 'only' it is, the "
        "rest of the calibration as it is",
        choices=("also", "only"),
    )
    errors: bool = setting(
        False,
        "measure only what each kind of step errs by, for the exact plans of --mode hetcache (MODEL.errors.safetensors "
        "beside the calibration, which must be there)",
    )
    output: Path | None = setting(
        None, "JSON to write", shown="beside a folder's weights, else where the package keeps it"
    )

    def __post_init__(self) -> None:
        if len(self.video) != len(self.mask):
            raise UserError(f"{len(self.video)} videos and {len(self.mask)} masks: give one mask per video")
        check_settings(self)
        for count in self.frames:
            check_frame_count(count)
        if self.errors and self.paths != "off":
            raise UserError("--errors measures nothing else: leave --paths out")
        if self.rank < 0:
            raise refused(self, "rank", "not negative; 0 is none")


@dataclass(frozen=True)
class CalibrationRequest:
    """Everything that a calibration is made of. `edit.seed` is the first clip's; each next one adds 1."""

    measured: Measured = field(default_factory=Measured)
    model: ModelOptions = field(default_factory=lambda: ModelOptions(DEFAULT_MODEL))
    size: Size = field(default_factory=Size)
    edit: EditSettings = field(default_factory=EditSettings)


def build_parser(description: str) -> argparse.ArgumentParser:
    parser = OneLineParser("hetcache.calibrate", description=description, allow_abbrev=False)
    for title, configs in (
        ("what to measure", (Measured,)),
        ("model", (ModelOptions, Size)),
        ("sampling", (Sampling,)),
    ):
        group = parser.add_argument_group(title)
        for config in configs:
            add_settings(group, config, shown={"model": DEFAULT_MODEL})
    return parser


def parse(argv: Sequence[str] | None, description: str) -> CalibrationRequest:
    """Raises ValueError for values that cannot be run; argparse itself exits with code 2 for what it can tell alone."""
    given = vars(build_parser(description).parse_args(argv))
    return CalibrationRequest(
        take(Measured, given),
        take(ModelOptions, {"model": DEFAULT_MODEL, **given}),
        take(Size, given),
        take(EditSettings, given),
    )
