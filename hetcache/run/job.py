"""What one run of `inference.py` is asked to do, checked as far as that needs no model."""

from __future__ import annotations

import re
from argparse import Namespace
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import torch

from hetcache.core.mode import Mode, RunContext
from hetcache.media.clip import Clip, check_frame_count, check_side, take_clip
from hetcache.media.ffmpeg import VideoError
from hetcache.media.mask_clinic import MaskReport, examine
from hetcache.media.masks import FEATHER_PX_AT_480P
from hetcache.media.source import Source
from hetcache.media.windows import Window
from hetcache.media.write import check_writable
from hetcache.models import ModelInfo, choose_model, model_info
from hetcache.run.job_input import input_options, plan_length


@dataclass(frozen=True)
class EditSettings:
    """What the model is asked for, independent of the caching mode."""

    prompt: str
    negative_prompt: str
    num_steps: int
    cfg_scale: float
    sigma_shift: float
    seed: int
    apply_mask_to_input: bool = True
    vae_tiling: str = "auto"
    fast_rope: bool = False
    cfg_batch: bool = False
    compile: bool = False
    cache_budget_gib: float | None = None

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts that will be embedded: without guidance the negative one is not."""
        return (self.prompt,) if self.cfg_scale == 1 else (self.prompt, self.negative_prompt)


@dataclass(frozen=True)
class Job:
    """A checked run: `model` is a name or a folder, `why` says how it was chosen. `clip` is the first window's, of
    `windows` that cover `num_frames` of `source`; most runs have one window."""

    output: Path
    device: str
    dtype: torch.dtype
    model: str
    why: str
    info: ModelInfo
    source: Source
    num_frames: int
    windows: list[Window]
    clip: Clip
    settings: EditSettings
    feather_px: int
    mask_report: MaskReport | None = None

    def context(self, mode: Mode, config: Any, clip: Clip | None = None) -> RunContext:
        """Token classes of a clip (the first window's; with the mode's margin width) and the model's calibration, on
        demand."""
        mask_THW = torch.from_numpy((clip or self.clip).mask_THW).to(self.device)
        return RunContext.of(mask_THW, self.info.model_id, mode.margin_width(config))


def prepare(args: Namespace) -> Job:
    """Check the arguments and read the clip. Raises ValueError or VideoError, one line with the remedy."""
    check_sides(args)
    if args.steps < 1:
        raise VideoError(f"--steps {args.steps}: at least 1")
    if not 0 <= args.seed < 2**63:
        raise VideoError(f"--seed {args.seed}: from 0 to 2^63 - 1")
    if args.cache_budget_gib is not None and not 0 <= args.cache_budget_gib < inf:
        raise VideoError(f"--cache-budget-gib {args.cache_budget_gib}: GiB, not negative")
    if args.vram_limit is not None and not 0 < args.vram_limit < inf:
        raise VideoError(f"--vram-limit {args.vram_limit}: GiB, greater than 0")
    if args.vram_limit is not None and args.compile:
        raise VideoError("--compile: with --vram-limit a block's weights move at every call; leave one of the two out")
    if args.cfg_scale is not None and not 0 <= args.cfg_scale < inf:
        raise VideoError(f"--cfg-scale {args.cfg_scale}: not negative; 1 is no guidance")
    if not 0 < args.sigma_shift < inf:
        raise VideoError(f"--sigma-shift {args.sigma_shift}: greater than 0, 5 is the model's own")
    if args.target_speedup is not None and not args.target_speedup >= 1:
        raise VideoError(f"--target-speedup {args.target_speedup}: at least 1")
    output = _output(args)
    device, dtype = choose_device(args)
    if args.revision is not None and not re.fullmatch(r"[\w][\w./-]*", args.revision):
        raise VideoError(f"--revision {args.revision}: not the name of a commit, tag or branch")
    model, why = choose_model(args.model, device.startswith("cuda"))
    info = model_info(model)
    if args.revision is not None and info.repository is None:
        raise VideoError(f"--revision {args.revision}: --model {model} is on this machine; a revision is a hub's")
    source = Source.open(args.video, args.mask, input_options(args))
    height, width = info.default_size(*source.size)
    size = args.height or height, args.width or width
    num_frames, windows = plan_length(args, source, info.window)
    if len(windows) > 1 and (args.compare or args.report):
        raise VideoError(
            f"--compare and --report show one window and these {num_frames} frames need {len(windows)}: "
            f"give --frames {windows[0].count} to look at the first"
        )
    if len(windows) == 1 and args.resume:
        raise VideoError(f"--resume: these {num_frames} frames are one window, which leaves nothing to go on from")
    clip = take_clip(source, min(windows[0].count, num_frames), size)
    if len(windows) > 1 and args.fit == "crop":
        for mask_THW in source.masks(num_frames):
            clip.placement.check_mask(mask_THW)
    settings = EditSettings(
        prompt=info.prompt if args.prompt is None else args.prompt,
        negative_prompt=info.negative_prompt if args.negative_prompt is None else args.negative_prompt,
        num_steps=args.steps,
        cfg_scale=info.cfg_scale if args.cfg_scale is None else args.cfg_scale,
        sigma_shift=args.sigma_shift,
        seed=args.seed,
        apply_mask_to_input=args.apply_mask_to_input,
        vae_tiling=args.vae_tiling,
        fast_rope=args.fast_rope,
        cfg_batch=args.cfg_batch,
        compile=args.compile,
        cache_budget_gib=args.cache_budget_gib,
    )
    if settings.cfg_batch and settings.cfg_scale == 1:
        raise VideoError("--cfg-batch: guidance scale 1 runs one branch alone, leave the flag out")
    feather_px = args.mask_feather
    if feather_px is None:
        feather_px = max(1, round(FEATHER_PX_AT_480P * source.size[0] / 480))
    report = examine(source, clip, num_frames)
    return Job(output, device, dtype, model, why, info, source, num_frames, windows, clip, settings, feather_px, report)


def plan_rows(job: Job, context: RunContext) -> list[tuple[str, str]]:
    """The short plan that a person reads before the run, as (name, value) rows."""
    clip, classes, settings = job.clip, context.classes, job.settings
    total = classes.num_tokens
    parts = ", ".join(
        f"{len(rows)} {name} ({len(rows) / total:.0%})"
        for name, rows in (
            ("generative", classes.generative_G),
            ("margin", classes.margin_M),
            ("context", classes.context_C),
        )
    )
    branches = "both branches" if settings.cfg_scale != 1 else "one branch"
    precision = str(job.dtype).removeprefix("torch.")
    return [
        ("model", f"{job.model} on {job.device} in {precision} ({job.why})"),
        (
            "input",
            f"{clip.path}, {clip.source_size[1]}x{clip.source_size[0]}, {job.num_frames} frames, "
            f"{clip.masked_fraction:.0%} masked",
        ),
        *([] if job.mask_report is None else job.mask_report.rows()),
        ("model size", f"{clip.size[1]}x{clip.size[0]}, {total} tokens: {parts}"),
        *_window_rows(job),
        (
            "sampling",
            f"{settings.num_steps} steps of {branches}, guidance {settings.cfg_scale:g}, "
            f"seed {settings.seed}, prompt {settings.prompt!r}",
        ),
    ]


def _window_rows(job: Job) -> list[tuple[str, str]]:
    if len(job.windows) == 1:
        return []
    known = sorted({window.known for window in job.windows[1:]})
    overlap = f"{known[0]}" if len(known) == 1 else f"{known[0]} to {known[-1]}"
    return [
        (
            "windows",
            f"{len(job.windows)} of {job.clip.num_frames} frames, all but the first begin with {overlap} "
            "finished ones; tokens above are the first window's",
        )
    ]


def _output(args: Namespace) -> Path:
    output = args.output
    if output is None:
        output = Path("outputs") / f"{args.video.stem}_{args.mode}.mp4"
        output.parent.mkdir(exist_ok=True)
    inputs = [path for path in (args.video, args.mask) if path is not None]
    if args.save_raw:
        check_writable(raw_of(output), inputs)
    for suffix, asked in ((".json", True), (".html", args.report)):
        if asked and output.with_suffix(suffix).is_dir():
            raise VideoError(f"output {output.with_suffix(suffix)}: is a folder; choose another --output")
    return check_writable(output, inputs)


def raw_of(output: Path) -> Path:
    """Where --save-raw writes."""
    return output.with_name(f"{output.stem}_raw.mp4")


def check_sizes(args: Namespace) -> None:
    """Raises VideoError unless `--frames`, `--height` and `--width` are what the model takes."""
    check_frame_count(args.frames)
    check_sides(args)


def check_sides(args: Namespace) -> None:
    for side in ("height", "width"):
        if getattr(args, side) is not None:
            check_side(side, getattr(args, side))


def choose_device(args: Namespace) -> tuple[str, torch.dtype]:
    """`--device` and `--dtype` with `auto` resolved. Raises VideoError for CUDA where there is none."""
    device = args.device if args.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d{1,4})?", device):
        raise VideoError(f"--device {device}: use auto, cpu, cuda or cuda:N")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise VideoError(f"--device {device}: no CUDA device here, use --device cpu")
    if device.startswith("cuda:") and int(device[5:]) >= torch.cuda.device_count():
        raise VideoError(f"--device {device}: the last CUDA device here is cuda:{torch.cuda.device_count() - 1}")
    name = args.dtype if args.dtype != "auto" else "bfloat16" if device.startswith("cuda") else "float32"
    return device, getattr(torch, name)
