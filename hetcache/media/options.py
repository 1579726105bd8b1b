"""How files become frames and masks. Every field is a flag."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hetcache.core.settings import check_settings, refused, setting
from hetcache.files import UserError
from hetcache.media.ffmpeg import MAX_SIDE

Extend = Literal["error", "hold", "loop"]
Channel = Literal["auto", "luma", "alpha", "red", "green", "blue"]
Timing = Literal["auto", "frames", "time"]
Fit = Literal["stretch", "pad", "crop"]
Focus = int | Literal["auto", "off"]
Area = tuple[int, int] | Literal["native", "mask"]

FEATHER_PX_AT_480P = 6
"""Width of the blend around the mask in a picture of 480 rows; it grows with the picture."""


MAX_REACH = 1000
"""Frames of the whole reach are in memory at the model's size."""

SHORT_FRAMES = 81
"""Up to so many frames (one window of Wan2.1) are written at SHORT_CRF: such files are small whatever they hold."""

SHORT_CRF, LONG_CRF = 10, 16
"""x264's quality of an output: 10 is hard to tell from the source by any means, 16 by eye."""


def read_sides(text: str) -> tuple[int, int, int, int]:
    """LEFT,TOP,RIGHT,BOTTOM in pixels. Raises ValueError."""
    try:
        left, top, right, bottom = (int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{text!r} is not LEFT,TOP,RIGHT,BOTTOM in pixels, as 0,0,64,0") from None
    return left, top, right, bottom


def read_focus(text: str) -> Focus:
    """auto, off or a margin in pixels. Raises ValueError."""
    try:
        return "auto" if text == "auto" else "off" if text == "off" else int(text)
    except ValueError:
        raise ValueError(f"{text!r} is neither auto, off nor a number of pixels") from None


def read_area(text: str) -> Area:
    """native, mask or WIDTHxHEIGHT. Raises ValueError."""
    if text in ("native", "mask"):
        return "native" if text == "native" else "mask"
    try:
        width, height = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise ValueError(f"{text!r} is neither native, mask nor WIDTHxHEIGHT, as 416x240") from None
    return width, height


@dataclass(frozen=True)
class InputOptions:
    """`mask_channel`, `mask_threshold` (None: by the kind of mask) and `mask_object` say which mask pixels are edited
    (see `MaskReading`), then `invert_mask` swaps, then the mask grows to the hull of its parts (`mask_hull`), by
    `mask_dilate_px` source pixels, and by `mask_shadow_px` downwards. `mask_timing`
    is for a mask of another rate: see `choose_pace`. `outpaint` widens the canvas by (left, top, right, bottom) pixels
    and masks them. `fit` brings the canvas to the model's size: see `Placement`. `focus` lets the model see only the
    part around the mask, `focus_area` at which size: see `focus_box`; `auto` gives way to a `fit` that was asked for.
    `fill_reach` is for `FillReader`, `keep_seen` for `Filled.kept_THW`."""

    mask_threshold: int | None = setting(
        None,
        "soft edges: edit where the mask's grey, 0 to 255, is at least this",
        shown="128; labels and palettes: wherever they are not 0",
        metavar="GREY",
    )
    invert_mask: bool = setting(False, "edit where the mask is black")
    mask_extend: Extend = setting(
        "error", "a mask shorter than the video: an error, hold its last frame, or begin again (loop)"
    )
    mask_dilate_px: int = setting(0, "grow the mask by so many pixels of the video", flag="mask-dilate", metavar="PX")
    mask_hull: bool = setting(False, "grow every part of the mask to its convex hull")
    mask_shadow_px: int = setting(
        0, "grow the mask downwards by so many pixels of the video, for a shadow", flag="mask-shadow", metavar="PX"
    )
    outpaint: tuple[int, int, int, int] | None = setting(
        None,
        "widen the picture by so many pixels a side and fill them; needs no --mask",
        parser=read_sides,
        metavar="LEFT,TOP,RIGHT,BOTTOM",
        shown="",
    )
    fit: Fit = setting(
        "stretch",
        "how a frame becomes the model's size: stretch a little, pad with its border pixels, or crop; pad and crop "
        "also round --frames up or down to 4k+1. The output always has the video's size",
    )
    focus: Focus = setting(
        "auto",
        "let the model see only a box around the mask, at its native size: auto chooses the surroundings that it "
        "needs, a number is their width in pixels; nearly the whole picture, and all of it with --fit pad or crop, is "
        "seen whole",
        parser=read_focus,
        metavar="auto|off|PX",
    )
    focus_area: Area = setting(
        "native",
        "the size that the model works at with --focus: its native area, that of WxH, or no more than mask and "
        "surroundings have pixels (mask): cost then falls with the mask",
        parser=read_area,
        joint="x",
        metavar="native|mask|WxH",
    )
    fill_reach: int = setting(
        80,
        "for --fill propagate: look so many frames before and after a frame, also beyond the edited ones",
        metavar="N",
    )
    keep_seen: bool = setting(
        False,
        "with --fill propagate: what other frames surely show leaves the mask and comes from there unchanged; with "
        "nothing left to invent the model is not run",
    )
    mask_channel: Channel = setting(
        "auto",
        "where the mask's shape is; auto takes the alpha of a mask whose colours are constant, the index of a palette "
        "with colours, else the brightness",
    )
    mask_object: int | None = setting(
        None, "edit object N of a mask with labels or a palette", shown="every object", metavar="N"
    )
    mask_timing: Timing = setting(
        "auto",
        "a mask of another frame rate: by time if it is as long as the video, frame by frame if it has as many frames "
        "(auto), or always the one that is named",
    )

    strict: bool = setting(False, "refuse a video that ends before its header says, which is a warning else")

    def __post_init__(self) -> None:
        check_settings(self)
        if self.mask_threshold is not None and not 1 <= self.mask_threshold <= 255:
            raise refused(self, "mask_threshold", "from 1 to 255")
        if self.mask_object is not None and not 1 <= self.mask_object <= 65535:
            raise refused(self, "mask_object", "from 1 to 65535; 0 is the background (--invert-mask)")
        if isinstance(self.focus, int) and not 0 <= self.focus <= MAX_SIDE:
            raise refused(self, "focus", f"auto, off or pixels of the video, from 0 to {MAX_SIDE}")
        if isinstance(self.focus, int) and self.fit != "stretch":
            raise UserError("--focus and --fit both say what the model sees: leave one of the two out")
        if not 0 <= self.fill_reach <= MAX_REACH:
            raise refused(self, "fill_reach", f"frames, from 0 to {MAX_REACH}")
        if isinstance(self.focus_area, tuple) and not all(16 <= side <= MAX_SIDE for side in self.focus_area):
            raise UserError(f"--focus-area {'x'.join(map(str, self.focus_area))}: sides from 16 to {MAX_SIDE}")
        if not 0 <= self.mask_shadow_px <= MAX_SIDE:
            raise refused(self, "mask_shadow_px", f"pixels of the video, from 0 to {MAX_SIDE}")
        if not 0 <= self.mask_dilate_px <= MAX_SIDE:
            raise refused(self, "mask_dilate_px", f"pixels of the video, from 0 to {MAX_SIDE}")
