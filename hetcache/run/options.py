"""What one edit is asked for, as typed, before anything is read: a `Request`. Every field of an option is a flag."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hetcache.core.options import EditSettings, VramOptions, check_compile
from hetcache.core.settings import check_settings, refused, setting
from hetcache.files import DATA, UserError
from hetcache.media.ffmpeg import MAX_SIDE
from hetcache.media.options import FEATHER_PX_AT_480P, LONG_CRF, SHORT_CRF, SHORT_FRAMES, InputOptions
from hetcache.media.sizes import check_frame_count, check_side
from hetcache.models import MODELS
from hetcache.models.options import ModelOptions
from hetcache.run.wish import Planning

if TYPE_CHECKING:
    from hetcache.core.mode import Mode


@dataclass(frozen=True)
class Files:
    """The video and its mask; without a video both are the example's."""

    video: Path | None = setting(
        None, "video file, image or folder of frames", shown="the example in data/ and its mask"
    )
    probe: Path | None = setting(
        None,
        "print what is read from a file (size, rate, colours, times, what is missing) and stop",
        metavar="FILE",
        shown="",
    )
    as_json: bool = setting(False, "print what --probe finds as JSON, with the names of a record", flag="json")
    mask: Path | None = setting(None, "mask video, image (for all frames) or folder; white = edit", shown="")


@dataclass(frozen=True)
class Task:
    """A preset of the options below: see `as_task`."""

    task: Literal["fill", "remove"] = setting(
        "fill",
        "fill: what a prompt asks for; remove: the mask grows to its hull and by --mask-dilate (here 1% of the rows), "
        "--fill is propagate, and prompts say that nothing is there",
    )

    def __post_init__(self) -> None:
        check_settings(self)


def read_frame_count(text: str) -> int | str:
    """A number, or `all`. Raises ValueError."""
    try:
        return text if text == "all" else int(text)
    except ValueError:
        raise ValueError(f"{text!r} is neither a number of frames nor all") from None


@dataclass(frozen=True)
class Length:
    """How many frames, and how many of them at once."""

    frames: int | Literal["all"] = setting(
        33,
        "frames to edit from the first: 4k+1, or all, window by window",
        parser=read_frame_count,
        metavar="N|all",
    )
    window: int | None = setting(
        None,
        "frames the model sees at once, 4k+1; longer edits go through overlapping windows",
        shown="with --frames all: " + ", ".join(f"{info.window} for {name}" for name, info in MODELS.items()),
        metavar="N",
    )
    overlap: int | None = setting(
        None,
        "finished frames that each further window starts from, 4k+1",
        shown="about a quarter of the window",
        metavar="N",
    )

    def __post_init__(self) -> None:
        if isinstance(self.frames, int) and self.frames < 1:
            check_frame_count(self.frames)


@dataclass(frozen=True)
class Size:
    """The size that the model works at."""

    height: int | None = setting(None, "height the model works at, a multiple of 16", shown="by aspect")
    width: int | None = setting(None, "width the model works at, a multiple of 16", shown="by aspect")

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            if getattr(self, name) is not None:
                check_side(name, getattr(self, name))

    def of(self, default: tuple[int, int]) -> tuple[int, int]:
        """(height, width), with what was not asked for from `default`."""
        return self.height or default[0], self.width or default[1]


@dataclass(frozen=True)
class Output(Planning):
    """What is written, and what is told about it."""

    output: Path | None = setting(None, "mp4 to write, its .json record beside it", shown="outputs/VIDEO_MODE.mp4")
    mask_feather: int | None = setting(
        None,
        "blend the edit into the video over so many pixels around the mask",
        shown=f"{FEATHER_PX_AT_480P} at 480 rows",
        metavar="PX",
    )
    match_colour: bool = setting(
        True,
        "add to the edit, inside the mask, the smooth difference in colour that it has from the video around the mask",
    )
    restore_seen: bool = setting(
        True,
        "where the edit agrees with what other frames show (--fill propagate), put that in its place, with the detail "
        "that the model's autoencoder loses",
    )
    regrain: bool = setting(
        False, "add to the edit, inside the mask, the grain that the video around the mask has and the edit lacks"
    )
    resume: bool = setting(False, "go on with an interrupted run of several windows, from the finished ones")
    lossless: bool = setting(
        False,
        "write without loss: what mask and feather do not touch has the source's very values; without it x264's crf is "
        f"{SHORT_CRF} up to {SHORT_FRAMES} frames and {LONG_CRF} beyond",
    )
    save_raw: bool = setting(False, "also write the model's output before compositing")
    compare: bool = setting(
        False, "also run the baseline at the same seed; report the measured speed-up, PSNR and SSIM"
    )
    report: bool = setting(
        False, "also write a page beside the video (.html): before and after, every step, the tokens computed"
    )
    debug: bool = setting(False, "show the traceback of an error")

    def __post_init__(self) -> None:
        check_settings(self)
        Planning.__post_init__(self)
        if self.mask_feather is not None and not 0 <= self.mask_feather <= MAX_SIDE:
            raise refused(self, "mask_feather", f"pixels of the video, from 0 to {MAX_SIDE}")


def started_by(program: str) -> list[str]:
    """The words before the flags: a script of the checkout is started by Python, an installed command by itself."""
    return ["python", program] if program.endswith(".py") else [program]


@dataclass(frozen=True)
class Request:
    """Everything that `prepare` makes a `Job` of. `words` are the flags as typed and `program` the command,
    for what can be typed again."""

    mode: Mode
    config: Any
    files: Files = field(default_factory=Files)
    task: Task = field(default_factory=Task)
    length: Length = field(default_factory=Length)
    input: InputOptions = field(default_factory=InputOptions)
    model: ModelOptions = field(default_factory=ModelOptions)
    size: Size = field(default_factory=Size)
    edit: EditSettings = field(default_factory=EditSettings)
    vram: VramOptions = field(default_factory=VramOptions)
    output: Output = field(default_factory=Output)
    words: tuple[str, ...] = ()
    program: str = "inference.py"

    def __post_init__(self) -> None:
        if self.files.as_json and self.files.probe is None:
            raise UserError("--json is how --probe FILE prints; a run writes its record as JSON beside the video")
        check_compile(self.edit, self.vram)
        if self.files.mask is not None and self.files.video is None:
            raise UserError(f"--mask {self.files.mask}: of which video? Give --video too; the example has its own mask")
        if self.mask is None and (self.input.mask_dilate_px or self.input.invert_mask):
            raise UserError("--mask-dilate and --invert-mask change the file given by --mask, and none is given")
        if self.mask is None and (self.input.mask_hull or self.input.mask_shadow_px or self.task.task == "remove"):
            raise UserError(
                "--mask-hull, --mask-shadow and --task remove change the file given by --mask, and none is given"
            )
        reads = self.input.mask_channel != "auto" or self.input.mask_object or self.input.mask_timing != "auto"
        if self.mask is None and reads:
            raise UserError(
                "--mask-channel, --mask-object and --mask-timing read the file given by --mask, and none is given"
            )

    @property
    def command(self) -> str:
        """What to type for this run again."""
        return shlex.join([*started_by(self.program), *self.words])

    @property
    def video(self) -> Path:
        return self.files.video or DATA / "real.mp4"

    @property
    def mask(self) -> Path | None:
        """None where outpainting alone says what is edited."""
        if self.files.video is None and self.files.mask is None and self.input.outpaint is None:
            return DATA / "masks.mp4"
        return self.files.mask
