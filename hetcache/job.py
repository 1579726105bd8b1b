"""What one run of `inference.py` is asked to do, checked as far as that needs no model."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hetcache.calibration import load_calibration
from hetcache.clip import Clip, check_frame_count, check_side, read_clip
from hetcache.models import ModelInfo, choose_model, model_info
from hetcache.modes import RunContext
from hetcache.tokens import classify
from hetcache.video import VideoError, check_writable, probe


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


    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts that will be embedded: without guidance the negative one is not."""
        return (self.prompt,) if self.cfg_scale == 1 else (self.prompt, self.negative_prompt)


@dataclass(frozen=True)
class Job:
    """A checked run: `model` is a name or a folder, `why` says how it was chosen."""

    output: Path
    device: str
    dtype: torch.dtype
    model: str
    why: str
    info: ModelInfo
    clip: Clip
    settings: EditSettings

    def context(self, config: Any) -> RunContext:
        """Token classes of the clip (with the mode's margin width) and the model's calibration, on demand."""
        classes = classify(torch.from_numpy(self.clip.mask_THW).to(self.device), getattr(config, "margin_width", None))
        return RunContext(classes, lambda: load_calibration(self.info.model_id))


def prepare(args: Namespace) -> Job:
    """Check the arguments and read the clip. Raises ValueError or VideoError, one line with the remedy."""
    check_sizes(args)
    if args.steps < 1:
        raise VideoError(f"--steps {args.steps}: at least 1")
    if args.vram_limit is not None and args.vram_limit <= 0:
        raise VideoError(f"--vram-limit {args.vram_limit}: GiB, greater than 0")
    if args.cfg_scale is not None and args.cfg_scale < 0:
        raise VideoError(f"--cfg-scale {args.cfg_scale}: not negative; 1 is no guidance")
    if args.sigma_shift <= 0:
        raise VideoError(f"--sigma-shift {args.sigma_shift}: greater than 0, 5 is the model's own")
    output = _output(args)
    device, dtype = choose_device(args)
    model, why = choose_model(args.model, device.startswith("cuda"))
    info = model_info(model)
    source = probe(args.video)
    height, width = info.default_size(source.height, source.width)
    clip = read_clip(args.video, args.mask, args.frames, (args.height or height, args.width or width))
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
    )
    return Job(output, device, dtype, model, why, info, clip, settings)


def plan_rows(job: Job, context: RunContext) -> list[tuple[str, str]]:
    """The short plan that a person reads before the run, as (name, value) rows."""
    clip, classes, settings = job.clip, context.classes, job.settings
    total = classes.num_tokens
    parts = ", ".join(
        f"{len(rows)} {name} ({len(rows) / total:.0%})"
        for name, rows in (("generative", classes.generative_G), ("margin", classes.margin_M),
                           ("context", classes.context_C))
    )
    branches = "both branches" if settings.cfg_scale != 1 else "one branch"
    precision = str(job.dtype).removeprefix("torch.")
    return [
        ("model", f"{job.model} on {job.device} in {precision} ({job.why})"),
        ("input", f"{clip.path}, {clip.source_size[1]}x{clip.source_size[0]}, {clip.num_frames} frames, "
                  f"{clip.masked_fraction:.0%} masked"),
        ("model size", f"{clip.size[1]}x{clip.size[0]}, {total} tokens: {parts}"),
        ("sampling", f"{settings.num_steps} steps of {branches}, guidance {settings.cfg_scale:g}, "
                     f"seed {settings.seed}, prompt {settings.prompt!r}"),
    ]


def _output(args: Namespace) -> Path:
    output = args.output
    if output is None:
        output = Path("outputs") / f"{args.video.stem}_{args.mode}.mp4"
        output.parent.mkdir(exist_ok=True)
    return check_writable(output, [args.video, args.mask])


def check_sizes(args: Namespace) -> None:
    """Raises VideoError unless `--frames`, `--height` and `--width` are what the model takes."""
    check_frame_count(args.frames)
    for side in ("height", "width"):
        if getattr(args, side) is not None:
            check_side(side, getattr(args, side))


def choose_device(args: Namespace) -> tuple[str, torch.dtype]:
    """`--device` and `--dtype` with `auto` resolved. Raises VideoError for CUDA where there is none."""
    device = args.device if args.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise VideoError(f"--device {device}: no CUDA device here, use --device cpu")
    name = args.dtype if args.dtype != "auto" else "bfloat16" if device.startswith("cuda") else "float32"
    return device, getattr(torch, name)
