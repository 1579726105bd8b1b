"""The page of one run of `inference.py`: before and after, its steps, its tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hetcache.core.tokens import TokenClasses
from hetcache.core.vocabulary import TokenPlan
from hetcache.media.clip import Clip
from hetcache.media.masks import resize_frames
from hetcache.report.page import Card, Page, TokenMapPart, render
from hetcache.report.timeline import branch_timelines
from hetcache.report.tokens import latent_images, token_map
from hetcache.report.viewer import Viewer
from hetcache.run.record import STAGES, summary_rows

Frames = NDArray[np.uint8]


def run_html(
    record: Mapping[str, Any],
    command: str,
    clip: Clip,
    edited_THWC: Frames,
    classes: TokenClasses,
    plans: Mapping[int, TokenPlan],
    baseline_THWC: Frames | None = None,
) -> str:
    """The page of the run that `record` describes.

    `edited_THWC` is the composited result at the source's size, `baseline_THWC` the uncached run's raw output at the
    model's (with --compare). `plans` are those of the run's trace.
    """
    parts = []
    if plans:
        tokens = token_map(classes, plans)
        parts.append(TokenMapPart(record["mode"], tokens, latent_images(clip.frames_THWC, tokens)))
    notes = []
    if not record["accelerated"] and record["mode"] != "baseline":
        notes.append("Not accelerated: no partial and no reused step at these settings.")
    height, width = clip.size
    return render(
        Page(
            title=f"{clip.path.name}, edited by {record['mode']}",
            lead=f"{record['model']} on {machine(record['hardware'])}, {clip.num_frames} frames of {width}x{height}, "
            f"{record['config']['num_steps']} steps, seed {record['seed']}.",
            cards=_cards(record),
            warnings=notes,
            viewers=[_viewer(clip, edited_THWC, baseline_THWC)],
            timelines=[("Steps", branch_timelines(record["mode"], record))],
            token_maps=parts,
            environment=[*_facts(record), *((f"{name} version", value) for name, value in record["versions"].items())],
            commands=[("this run", command)],
        )
    )


def machine(hardware: Mapping[str, Any]) -> str:
    """The GPU's or CPU's name."""
    return str(hardware.get("gpu") or f"{hardware['cpu']}, {hardware['threads']} threads")


def _cards(record: Mapping[str, Any]) -> list[Card]:
    times, compare = record["timing_s"], record.get("compare")
    cards = [Card(f"{times['denoise']:.1f} s", "denoising", f"{times['total']:.1f} s with loading and saving")]
    if record["accelerated"]:
        cards.append(Card(f"{record['flops']['ratio']:.2f}x", "fewer FLOPs", "counted on what really ran"))
    if compare:
        cards.append(
            Card(
                f"{compare['denoise_speedup']:.2f}x",
                "faster denoising",
                f"{compare['total_speedup']:.2f}x for the whole run, same process",
            )
        )
        psnr = compare["psnr_db"].get("in_mask")
        if psnr is not None:
            figure = f"{psnr:.1f} dB" if np.isfinite(psnr) else "identical"
            cards.append(Card(figure, "PSNR in the mask", "against the uncached output"))
    return cards


def _viewer(clip: Clip, edited_THWC: Frames, baseline_THWC: Frames | None) -> Viewer:
    mask = np.repeat(clip.source_mask_THW[..., None], 3, axis=3).astype(np.uint8) * 255
    tiles: list[tuple[str, Frames]] = [("before", clip.source_THWC), ("after", edited_THWC), ("mask", mask)]
    panels: list[dict[str, Any]] = [{"wipe": [0, 1]}, {"tile": 0}, {"tile": 1}, {"tile": 2}]
    if baseline_THWC is not None:
        uncached = resize_frames(baseline_THWC, *clip.source_size)
        tiles.append(("uncached, raw", uncached))
        panels.append({"tile": 3})
    return Viewer(clip.path.name, clip.fps, tiles, panels)


def _facts(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [(name, value) for name, value in summary_rows(record) if name not in record["outputs"]]
    settings = ", ".join(f"{name} {value}" for name, value in record["config"].items() if value not in ("", None))
    stages = ", ".join(f"{stage} {record['timing_s'][stage]:.2f}" for stage in STAGES)
    hardware = ", ".join(f"{name} {value}" for name, value in record["hardware"].items())
    return [*rows, ("stages, s", stages), ("settings", settings), ("hardware", hardware)]
