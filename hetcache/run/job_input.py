"""What the input flags of `inference.py` ask for: changes to mask and canvas, frames and windows."""

from __future__ import annotations

from argparse import Namespace

from hetcache.media.clip import check_frame_count, smallest_4k_plus_1
from hetcache.media.ffmpeg import MAX_SIDE, VideoError
from hetcache.media.read import largest_4k_plus_1
from hetcache.media.source import InputOptions, Source
from hetcache.media.windows import Window, check_window, default_overlap, plan_windows


def input_options(args: Namespace) -> InputOptions:
    """The flags that change the mask and the canvas. Raises VideoError."""
    if args.mask is None and (args.mask_dilate or args.invert_mask):
        raise VideoError("--mask-dilate and --invert-mask change the file given by --mask, and none is given")
    if args.mask is None and (
        args.mask_channel != "auto" or args.mask_object is not None or args.mask_timing != "auto"
    ):
        raise VideoError(
            "--mask-channel, --mask-object and --mask-timing read the file given by --mask, and none is given"
        )
    if args.mask_object is not None and not 1 <= args.mask_object <= 65535:
        raise VideoError(f"--mask-object {args.mask_object}: from 1 to 65535; 0 is the background (--invert-mask)")
    if args.mask_threshold is not None and not 1 <= args.mask_threshold <= 255:
        raise VideoError(f"--mask-threshold {args.mask_threshold}: from 1 to 255")
    for name in ("mask_dilate", "mask_feather"):
        value = getattr(args, name)
        if value is not None and not 0 <= value <= MAX_SIDE:
            raise VideoError(f"--{name.replace('_', '-')} {value}: pixels of the video, from 0 to {MAX_SIDE}")
    return InputOptions(
        args.mask_threshold,
        args.invert_mask,
        args.mask_extend,
        args.mask_dilate,
        args.outpaint,
        args.fit,
        args.mask_channel,
        args.mask_object,
        args.mask_timing,
    )


def plan_length(args: Namespace, source: Source, model_window: int) -> tuple[int, list[Window]]:
    """(frames to edit, windows that cover them). `--frames all`, `--window` and `--overlap` allow any length; else the
    frames are one window, which `--fit pad` fills up and `--fit crop` cuts to 4k + 1. Raises VideoError."""
    num_frames: int = source.length() if args.frames == "all" else args.frames
    if num_frames < 1:
        check_frame_count(num_frames)
    if args.frames != "all" and args.window is None and args.overlap is None and not args.resume:
        if args.fit == "stretch":
            check_frame_count(num_frames)
        elif args.fit == "crop":
            num_frames = largest_4k_plus_1(num_frames)
        return num_frames, [Window(0, smallest_4k_plus_1(num_frames), 0)]
    length = model_window if args.window is None else args.window
    overlap = default_overlap(length) if args.overlap is None else args.overlap
    check_window(length, overlap)
    if args.frames != "all":
        source.length(num_frames)
    if args.fit == "crop" and num_frames <= length:
        num_frames = largest_4k_plus_1(num_frames)
    return num_frames, plan_windows(num_frames, length, overlap)
