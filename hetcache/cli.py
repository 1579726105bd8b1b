"""The command line of `inference.py`: the paper's flags, one argument group per mode made from its config."""

from __future__ import annotations

import argparse
import math
import types
import typing
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

from hetcache.masks import FEATHER_PX_AT_480P
from hetcache.models import MODELS
from hetcache.modes import MODES, Mode
from hetcache.placement import FITS

DATA = Path(__file__).resolve().parent.parent / "data"

EPILOG = """examples:
  python inference.py --mode hetcache
  python inference.py --mode hetcache --compare
  python inference.py --mode hetcache --video clip.mp4 --mask mask.mp4 --frames 33 --steps 50 --cache-thresh 0.05
  python inference.py --mode hetcache --video long.mp4 --mask mask.mp4 --frames all --output long_edit.mp4
  python inference.py --mode hetcache --video clip.mp4 --outpaint 64,0,64,0
  python inference.py --mode baseline --steps 25 --output half.mp4
"""


class UsageError(ValueError):
    """A command line that cannot be run, with the remedy in its message."""


def build_parser(modes: dict[str, Mode] = MODES) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "inference.py",
        description="Fill the masked part of a video with Wan2.1-VACE, with or without caching.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--mode", default="hetcache", metavar="MODE", help=f"how to compute (default hetcache): {', '.join(modes)}"
    )
    _add_input_flags(parser)
    _add_model_flags(parser)
    _add_output_flags(parser)
    _add_mode_flags(parser, modes)
    return parser


def parse(argv: list[str] | None = None, modes: dict[str, Mode] = MODES) -> tuple[argparse.Namespace, Any]:
    """(arguments, mode config). Raises UsageError for an unknown mode, a flag of another mode or a bad value;
    argparse itself exits with code 2 for what it can tell alone."""
    args = build_parser(modes).parse_args(argv)
    if args.video is None:
        args.video = DATA / "real.mp4"
        if args.mask is None and args.outpaint is None:
            args.mask = DATA / "masks.mp4"
    mode = modes.get(args.mode)
    if mode is None:
        raise UsageError(f"unknown --mode {args.mode!r}: choose from {', '.join(modes)}")
    return args, mode_config(args, mode, modes)


def mode_config(args: argparse.Namespace, mode: Mode, modes: dict[str, Mode] = MODES) -> Any:
    """The mode's config from the flags that were given. Raises UsageError."""
    own = {field.name for field in fields(mode.config)}
    every = {field.name for other in modes.values() for field in fields(other.config)}
    given = {name: value for name, value in vars(args).items() if name in every}
    for name in given:
        if name not in own:
            owners = [other.name for other in modes.values() if name in {f.name for f in fields(other.config)}]
            raise UsageError(f"{flag(name)} is a setting of --mode {' or '.join(owners)}, not of {mode.name}")
    try:
        return mode.config(**{**dict(mode.defaults), **given})
    except ValueError as error:
        raise UsageError(str(error)) from error


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _add_input_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("input")
    group.add_argument(
        "--video", type=Path, help="video file, image or folder of frames (default: the example in data/ and its mask)"
    )
    group.add_argument("--mask", type=Path, help="mask video, image (for all frames) or folder; white = edit")
    group.add_argument(
        "--frames", type=_frames, default=33, metavar="N|all",
        help="frames to edit from the first: 4k+1 (default 33), or all, window by window",
    )
    group.add_argument(
        "--window", type=int, metavar="N",
        help="frames the model sees at once, 4k+1; longer edits go through overlapping windows (default with --frames "
        "all: " + ", ".join(f"{info.window} for {name}" for name, info in MODELS.items()) + ")",
    )
    group.add_argument(
        "--overlap", type=int, metavar="N",
        help="finished frames that each further window starts from, 4k+1 (default: about a quarter of the window)",
    )
    group.add_argument(
        "--outpaint", type=_outpaint, metavar="LEFT,TOP,RIGHT,BOTTOM",
        help="widen the picture by so many pixels a side and fill them; needs no --mask",
    )
    group.add_argument(
        "--mask-threshold", type=int, default=128, metavar="GREY",
        help="soft edges: edit where the mask's grey, 0 to 255, is at least this (default 128)",
    )
    group.add_argument("--invert-mask", action="store_true", help="edit where the mask is black")
    group.add_argument(
        "--mask-dilate", type=int, default=0, metavar="PX",
        help="grow the mask by so many pixels of the video (default 0)",
    )
    group.add_argument(
        "--mask-feather", type=int, metavar="PX",
        help="blend the edit into the video over so many pixels around the mask "
        f"(default {FEATHER_PX_AT_480P} at 480 rows)",
    )
    group.add_argument(
        "--mask-extend", default="error", choices=("error", "hold", "loop"),
        help="a mask shorter than the video: an error (default), hold its last frame, or begin again",
    )
    group.add_argument(
        "--fit", default="stretch", choices=FITS,
        help="how a frame becomes the model's size: stretch a little (default), pad with its border pixels, or crop; "
        "pad and crop also round --frames up or down to 4k+1. The output always has the video's size",
    )
    group.add_argument(
        "--apply-mask-to-input", action=argparse.BooleanOptionalAction, default=True,
        help="hide from the model what lies under the mask (default); --no-apply-mask-to-input lets it see the "
        "original, for edits that keep its structure",
    )


def _finite(text: str) -> float:
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


def _add_model_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model and sampling")
    group.add_argument(
        "--model", default="auto", metavar="MODEL",
        help=f"auto (1.3B on CUDA, else the embedded model), {', '.join(MODELS)}, or a folder with weights",
    )
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default auto)")
    group.add_argument(
        "--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16"),
        help="auto: bfloat16 on CUDA, float32 on a CPU",
    )
    group.add_argument(
        "--vae-tiling", default="auto", choices=("auto", "on", "off"),
        help="auto: the VAE works on the whole frame when that fits in GPU memory, else in tiles (slower)",
    )
    group.add_argument(
        "--fast-rope", action="store_true",
        help="rotate queries and keys in float32 instead of upstream's float64: faster, not bit-exact; the record "
        "says what difference it made",
    )
    group.add_argument(
        "--cfg-batch", action="store_true",
        help="run both branches of guidance as one batch of 2 (modes with a plan before the run)",
    )
    group.add_argument(
        "--compile", action="store_true",
        help="compile the parts of a block between its attentions with torch.compile, once per run and row count: "
        "not bit-exact; the record says what difference it made",
    )
    group.add_argument(
        "--cache-budget-gib", type=_finite, metavar="GIB",
        help="most that the cache may keep; hetcache gives up cached keys and values, then partial steps, to stay "
        "below it, and the record says so; other modes stop (default: no limit)",
    )
    group.add_argument(
        "--vram-limit", type=_finite, metavar="GIB",
        help="keep weights on the CPU and move them to the GPU while less than this is used (default: all on the GPU)",
    )
    group.add_argument("--fp8-storage", action="store_true", help="with --vram-limit: store resting weights as fp8")
    group.add_argument(
        "--revision", metavar="REV",
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
        "--cfg-scale", type=_finite,
        help="guidance scale, 1 runs the conditional branch alone (default: "
        + ", ".join(f"{info.cfg_scale:g} for {name}" for name, info in MODELS.items()) + ")",
    )
    group.add_argument("--sigma-shift", type=_finite, default=5.0, help="shift of the noise schedule (default 5)")


def _add_output_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument(
        "--output", type=Path, help="mp4 to write, its .json record beside it (default outputs/VIDEO_MODE.mp4)"
    )
    group.add_argument(
        "--resume", action="store_true", help="go on with an interrupted run of several windows, from the finished ones"
    )
    group.add_argument("--save-raw", action="store_true", help="also write the model's output before compositing")
    group.add_argument(
        "--compare", action="store_true",
        help="also run the baseline at the same seed; report the measured speed-up, PSNR and SSIM",
    )
    group.add_argument(
        "--report", action="store_true",
        help="also write a page beside the video (.html): before and after, every step, the tokens computed",
    )
    group.add_argument(
        "--plan", action="store_true",
        help="print the decision of every step and the expected speed-up without running the model",
    )
    group.add_argument(
        "--target-speedup", type=_finite, metavar="X",
        help="choose the mode's threshold so that the denoising loop does X times less work (static schedules)",
    )
    group.add_argument("--debug", action="store_true", help="show the traceback of an error")


def _add_mode_flags(parser: argparse.ArgumentParser, modes: dict[str, Mode]) -> None:
    """One group per mode. A flag that several modes share is added with the first and named by the others."""
    seen: dict[str, str] = {}
    for mode in modes.values():
        if mode.defaults or not fields(mode.config):
            continue
        shared = [f for f in fields(mode.config) if f.name in seen]
        description = mode.title + (f" ({mode.paper})" if mode.paper else "")
        if shared:
            also = ", ".join(f"{flag(f.name)} (default {_shown(f)})" for f in shared)
            description += f". Also takes {also}"
        group = parser.add_argument_group(f"--mode {mode.name}", description)
        for field in fields(mode.config):
            if field.name not in seen:
                seen[field.name] = mode.name
                _add_field(group, mode.config, field)


def _add_field(group: Any, config: type, field: Field[Any]) -> None:
    kind = typing.get_type_hints(config)[field.name]
    text = f"{field.metadata['help']} (default {_shown(field)})".replace("%", "%%")
    if kind is bool:
        group.add_argument(
            flag(field.name), action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text
        )
        return
    if isinstance(kind, types.UnionType):
        kind = next(option for option in typing.get_args(kind) if option is not type(None))
    choices = field.metadata.get("choices")
    group.add_argument(
        flag(field.name), type=_finite if kind is float else kind, choices=choices, default=argparse.SUPPRESS,
        help=text, metavar=None if choices else kind.__name__.upper(),
    )


def _shown(field: Field[Any]) -> str:
    if "shown" in field.metadata:
        return str(field.metadata["shown"])
    default = field.default
    if default is MISSING or default is None:
        return "by model"
    if isinstance(default, bool):
        return "on" if default else "off"
    return str(default)
