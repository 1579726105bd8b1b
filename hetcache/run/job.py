"""Job: what one run is asked to do, checked as far as that needs no model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import Any

import torch

from hetcache.core.mode import Mode, RunContext
from hetcache.core.options import EditSettings, VramOptions
from hetcache.media.clip import Clip, take_clip
from hetcache.media.encode import Look
from hetcache.media.ffmpeg import VideoError
from hetcache.media.fill_reader import fill_reader, with_fill
from hetcache.media.focus import MaskExtent, focus_boxes, snug_size
from hetcache.media.mask_clinic import MaskReport, examine
from hetcache.media.options import FEATHER_PX_AT_480P
from hetcache.media.placement import Box, Placement
from hetcache.media.result import look_of
from hetcache.media.source import Source
from hetcache.media.windows import Window
from hetcache.models import ModelInfo, choose_model, model_info
from hetcache.models.options import ModelOptions
from hetcache.run.identity import request_identity
from hetcache.run.length import check_windows, plan_length
from hetcache.run.options import Output, Request
from hetcache.run.output import Outputs
from hetcache.run.task import as_task
from hetcache.run.wish import Wish


@dataclass(frozen=True)
class Job:
    """A checked run, complete: nothing else is asked of the command line. `model` is a name or a folder, `why` says
    how it was chosen; `config` is the mode's, as asked. `clip` is the first window's, of `windows` that cover
    `num_frames` of `source`; most runs have one window. `boxes` are what the model sees of the source in each. `fill`
    is what it sees under the mask, `none` where it sees the original. `command` is what to type for this run again;
    `identity` is `request_identity`'s."""

    mode: Mode
    config: Any
    outputs: Outputs
    device: str
    dtype: torch.dtype
    model: str
    why: str
    info: ModelInfo
    revision: str | None
    huggingface: bool
    vram: VramOptions
    source: Source
    num_frames: int
    windows: list[Window]
    boxes: list[Box | None]
    clip: Clip
    settings: EditSettings
    task: str
    fill: str
    feather_px: int
    match_colour: bool
    restore_seen: bool
    regrain: bool
    mask_report: MaskReport | None
    look: Look
    compare: bool
    resume: bool
    plan: bool
    target_speedup: float | None
    wish: Wish | None
    command: str
    identity: str

    def placement(self, window_index: int) -> Placement:
        """Where the source lies in the model's frame in that window; the scale is the same in all."""
        return replace(self.clip.placement, focus=self.boxes[window_index])

    def context(self, config: Any, clip: Clip | None = None) -> RunContext:
        """Token classes of a clip (the first window's; with the mode's margin width) and the model's calibration, on
        demand."""
        mask_THW = torch.from_numpy((clip or self.clip).mask_THW).to(self.device)
        need = self.info.calibration(self.model)
        return RunContext.of(mask_THW, need.load, self.mode.margin_width(config))


def prepare(request: Request, outputs: Outputs) -> Job:
    """Check the request and read the clip. `outputs` are those of `check_outputs`. Raises ValueError,
    one line with the remedy."""
    request = as_task(request)
    asked, wanted = request.model, request.output
    device, dtype = choose_device(asked)
    model, why = choose_model(asked.model, device.startswith("cuda"))
    info = model_info(model)
    if asked.revision is not None and info.repository is None:
        raise VideoError(f"--revision {asked.revision}: --model {model} is on this machine; a revision is a hub's")
    settings = info.complete(request.edit, removing=request.task.task == "remove")
    source = Source.open(request.video, request.mask, request.input)
    # Here already, because it may refuse.
    look_of(source, 1, wanted.lossless)
    num_frames, windows = plan_length(request, source, info.window)
    check_windows(wanted, settings, num_frames, windows)
    fill = fill_of(settings, info)
    if source.options.keep_seen and fill != "propagate":
        raise VideoError("--keep-seen keeps what other frames show: give --fill propagate, or leave it out")
    working_size = partial(size_at, request, info)
    boxes = focus_of(source, num_frames, windows, working_size)
    clip = first_clip(source, num_frames, windows[0], boxes[0], fill, working_size)
    if len(windows) > 1 and source.options.fit == "crop":
        for mask_THW in source.masks(num_frames):
            clip.placement.check_mask(mask_THW)
    return Job(
        mode=request.mode,
        config=request.config,
        outputs=outputs,
        device=device,
        dtype=dtype,
        model=model,
        why=why,
        info=info,
        revision=asked.revision,
        huggingface=asked.huggingface,
        vram=request.vram,
        source=source,
        num_frames=num_frames,
        windows=windows,
        boxes=boxes,
        clip=clip,
        settings=settings,
        task=request.task.task,
        fill=fill,
        feather_px=feather_of(wanted, source),
        match_colour=wanted.match_colour,
        restore_seen=wanted.restore_seen,
        regrain=wanted.regrain,
        mask_report=examine(source, clip, num_frames),
        look=look_of(source, num_frames, wanted.lossless),
        compare=wanted.compare,
        resume=wanted.resume,
        plan=wanted.plan,
        target_speedup=wanted.target_speedup,
        wish=wanted.wish,
        command=request.command,
        identity=request_identity(request),
    )


def first_clip(
    source: Source,
    num_frames: int,
    window: Window,
    focus: Box | None,
    fill: str,
    working_size: Callable[..., tuple[int, int]],
) -> Clip:
    """The clip of the first window, in its box, with what other frames show under its mask where that is the `fill`.
    `working_size`: see `size_at`."""
    seen = source.size if focus is None else focus[2:]
    clip = take_clip(source, min(window.count, num_frames), working_size(*seen, focus is not None), focus)
    if fill != "propagate":
        return clip
    with fill_reader(source, clip.placement) as reader:
        return with_fill(clip, reader, window, source.options.keep_seen)


def size_at(request: Request, info: ModelInfo, height: int, width: int, focused: bool = True) -> tuple[int, int]:
    """(height, width) that the model works at for a picture of that size: as asked, else by `--focus-area` or about its
    native area."""
    area = request.input.focus_area if focused else "native"
    if area == "mask":
        snug = snug_size(height, width)
        if snug[0] * snug[1] <= info.default_area:
            return request.size.of(snug)
    elif area != "native":
        info = replace(info, default_area=area[0] * area[1])
    return request.size.of(info.default_size(height, width))


def focus_of(
    source: Source, num_frames: int, windows: Sequence[Window], working_size: Callable[..., tuple[int, int]]
) -> list[Box | None]:
    """The box of each window that `--focus` asks for: see `focus_boxes`; None for the whole canvas. With --keep-seen,
    which lays other frames' pixels over the whole edit, one for all. Decodes all masks."""
    asked = source.options.focus
    if asked == "off" or source.options.fit != "stretch":
        return [None] * len(windows)
    extents = [MaskExtent.of(mask_THW) for mask_THW in source.masks(num_frames)]
    parts = [extents] if source.options.keep_seen else [extents[each.start : each.stop] for each in windows]
    joined = [reduce(MaskExtent.joined, known) if (known := [e for e in part if e]) else None for part in parts]
    margin_px = None if asked == "auto" else asked
    boxes = focus_boxes(joined, working_size, margin_px, source.options.focus_area == "mask")
    return boxes * len(windows) if source.options.keep_seen else boxes


def feather_of(wanted: Output, source: Source) -> int:
    """The feather in pixels of the video, in proportion to its rows where none was asked for."""
    if wanted.mask_feather is not None:
        return wanted.mask_feather
    return max(1, round(FEATHER_PX_AT_480P * source.size[0] / 480))


def fill_of(settings: EditSettings, info: ModelInfo) -> str:
    """What the model is to see under the mask."""
    if not settings.apply_mask_to_input:
        return "none"
    return info.auto_fill if settings.fill == "auto" else settings.fill


def choose_device(options: ModelOptions) -> tuple[str, torch.dtype]:
    """`--device` and `--dtype` with `auto` resolved. Raises VideoError for CUDA where there is none."""
    device = options.device if options.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise VideoError(f"--device {device}: no CUDA device here, use --device cpu")
    if device.startswith("cuda:") and int(device[5:]) >= torch.cuda.device_count():
        raise VideoError(f"--device {device}: the last CUDA device here is cuda:{torch.cuda.device_count() - 1}")
    name = options.dtype if options.dtype != "auto" else "bfloat16" if device.startswith("cuda") else "float32"
    return device, getattr(torch, name)
