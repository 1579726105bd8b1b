"""The flags of `inference.py` that every mode shares: input, model and sampling, output."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from hetcache.media.mask_pace import TIMINGS
from hetcache.media.mask_reading import CHANNELS
from hetcache.media.masks import FEATHER_PX_AT_480P
from hetcache.media.placement import FITS
from hetcache.models import MODELS


def add_input_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("input")
    group.add_argument(
        "--video", type=Path, help="video file, image or folder of frames (default: the example in data/ and its mask)"
    )
    group.add_argument("--mask", type=Path, help="mask video, image (for all frames) or folder; white = edit")
    group.add_argument(
        "--frames",
        type=_frames,
        default=33,
        metavar="N|all",
        help="frames to edit from the first: 4k+1 (default 33), or all, window by window",
    )
    group.add_argument(
        "--window",
        type=int,
        metavar="N",
        help="frames the model sees at once, 4k+1; longer edits go through overlapping windows (default with --frames "
        "all: " + ", ".join(f"{info.window} for {name}" for name, info in MODELS.items()) + ")",
    )
    group.add_argument(
        "--overlap",
        type=int,
        metavar="N",
        help="finished frames that each further window starts from, 4k+1 (default: about a quarter of the window)",
    )
    group.add_argument(
        "--outpaint",
        type=_outpaint,
        metavar="LEFT,TOP,RIGHT,BOTTOM",
        help="widen the picture by so many pixels a side and fill them; needs no --mask",
    )
    group.add_argument(
        "--mask-threshold",
        type=int,
        metavar="GREY",
        help="soft edges: edit where the mask's grey, 0 to 255, is at least this (default: 128; labels and palettes: "
        "wherever they are not 0)",
    )
    group.add_argument(
        "--mask-channel",
        default="auto",
        choices=CHANNELS,
        help="where the mask's shape is; auto (default) takes the alpha of a mask whose colours are constant, the "
        "index of a palette with colours, else the brightness",
    )
    group.add_argument(
        "--mask-object",
        type=int,
        metavar="N",
        help="edit object N of a mask with labels or a palette (default: every object)",
    )
    group.add_argument(
        "--mask-timing",
        default="auto",
        choices=TIMINGS,
        help="a mask of another frame rate: by time if it is as long as the video, frame by frame if it has as many "
        "frames (auto, default), or always the one that is named",
    )
    group.add_argument("--invert-mask", action="store_true", help="edit where the mask is black")
    group.add_argument(
        "--mask-dilate",
        type=int,
        default=0,
        metavar="PX",
        help="grow the mask by so many pixels of the video (default 0)",
    )
    group.add_argument(
        "--mask-feather",
        type=int,
        metavar="PX",
        help="blend the edit into the video over so many pixels around the mask "
        f"(default {FEATHER_PX_AT_480P} at 480 rows)",
    )
    group.add_argument(
        "--mask-extend",
        default="error",
        choices=("error", "hold", "loop"),
        help="a mask shorter than the video: an error (default), hold its last frame, or begin again",
    )
    group.add_argument(
        "--fit",
        default="stretch",
        choices=FITS,
        help="how a frame becomes the model's size: stretch a little (default), pad with its border pixels, or crop; "
        "pad and crop also round --frames up or down to 4k+1. The output always has the video's size",
    )
    group.add_argument(
        "--apply-mask-to-input",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="hide from the model what lies under the mask (default); --no-apply-mask-to-input lets it see the "
        "original, for edits that keep its structure",
    )


def finite(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return value


def _frames(text: str) -> int | str:
    try:
        return text if text == "all" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of frames nor all") from None


def _outpaint(text: str) -> tuple[int, int, int, int]:
    try:
        left, top, right, bottom = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not LEFT,TOP,RIGHT,BOTTOM in pixels, as 0,0,64,0") from None
    return left, top, right, bottom


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model and sampling")
    group.add_argument(
        "--model",
        default="auto",
        metavar="MODEL",
        help=f"auto (1.3B on CUDA, else the embedded model), {', '.join(MODELS)}, or a folder with weights",
    )
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default auto)")
    group.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", "float32", "bfloat16", "float16"),
        help="auto: bfloat16 on CUDA, float32 on a CPU",
    )
    group.add_argument(
        "--vae-tiling",
        default="auto",
        choices=("auto", "on", "off"),
        help="auto: the VAE works on the whole frame when that fits in GPU memory, else in tiles (slower)",
    )
    group.add_argument(
        "--fast-rope",
        action="store_true",
        help="rotate queries and keys in float32 instead of upstream's float64: faster, not bit-exact; the record "
        "says what difference it made",
    )
    group.add_argument(
        "--cfg-batch",
        action="store_true",
        help="run both branches of guidance as one batch of 2 (modes with a plan before the run)",
    )
    group.add_argument(
        "--compile",
        action="store_true",
        help="compile the parts of a block between its attentions with torch.compile, once per run and row count: "
        "not bit-exact; the record says what difference it made",
    )
    group.add_argument(
        "--cache-budget-gib",
        type=finite,
        metavar="GIB",
        help="most that the cache may keep; hetcache gives up cached keys and values, then partial steps, to stay "
        "below it, and the record says so; other modes stop (default: no limit)",
    )
    group.add_argument(
        "--vram-limit",
        type=finite,
        metavar="GIB",
        help="keep weights on the CPU and move them to the GPU while less than this is used (default: all on the GPU)",
    )
    group.add_argument("--fp8-storage", action="store_true", help="with --vram-limit: store resting weights as fp8")
    group.add_argument(
        "--revision",
        metavar="REV",
        help="commit, tag or branch of the hub's repository to take the weights from (default: the hub's newest)",
    )
    group.add_argument("--huggingface", action="store_true", help="fetch weights from Hugging Face, not ModelScope")
    group.add_argument("--prompt", help="what should be there (default: the model's own, printed before the run)")
    group.add_argument("--negative-prompt", help="what should not be there")
    group.add_argument("--steps", type=int, default=50, help="denoising steps (default 50)")
    group.add_argument("--seed", type=int, default=0, help="seed of the initial noise (default 0)")
    group.add_argument("--height", type=int, help="height the model works at, a multiple of 16 (default: by aspect)")
    group.add_argument("--width", type=int, help="width the model works at, a multiple of 16 (default: by aspect)")
    group.add_argument(
        "--cfg-scale",
        type=finite,
        help="guidance scale, 1 runs the conditional branch alone (default: "
        + ", ".join(f"{info.cfg_scale:g} for {name}" for name, info in MODELS.items())
        + ")",
    )
    group.add_argument("--sigma-shift", type=finite, default=5.0, help="shift of the noise schedule (default 5)")


def add_output_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument(
        "--output", type=Path, help="mp4 to write, its .json record beside it (default outputs/VIDEO_MODE.mp4)"
    )
    group.add_argument(
        "--resume", action="store_true", help="go on with an interrupted run of several windows, from the finished ones"
    )
    group.add_argument("--save-raw", action="store_true", help="also write the model's output before compositing")
    group.add_argument(
        "--compare",
        action="store_true",
        help="also run the baseline at the same seed; report the measured speed-up, PSNR and SSIM",
    )
    group.add_argument(
        "--report",
        action="store_true",
        help="also write a page beside the video (.html): before and after, every step, the tokens computed",
    )
    group.add_argument(
        "--plan",
        action="store_true",
        help="print the decision of every step and the expected speed-up without running the model",
    )
    group.add_argument(
        "--target-speedup",
        type=finite,
        metavar="X",
        help="choose the mode's threshold so that the denoising loop does X times less work (static schedules)",
    )
    group.add_argument("--debug", action="store_true", help="show the traceback of an error")
