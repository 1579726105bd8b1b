"""A mask as files: a video beside its clip's, a record of how it was made, and a picture of it over the clip."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hetcache import __version__
from hetcache.files import UserError, atomic_output, write_json
from hetcache.masking.prompts import Mark, Prompts
from hetcache.masking.track import WEAK, Mask, MaskTrack
from hetcache.media.colour import BT709
from hetcache.media.encode import Look
from hetcache.media.mask_sheet import MAX_FRAMES, mask_sheet
from hetcache.media.pixels import PixelFormat, written_format
from hetcache.media.planes import Planes, to_planes
from hetcache.media.probe import VideoInfo, probe, probe_facts
from hetcache.media.read import iter_frames
from hetcache.media.timeline import read_timeline
from hetcache.media.write import check_writable, write_edit

SCHEMA = 1
TOOL = "hetcache-mask"


def check_outputs(output: Path, inputs: Iterable[Path]) -> None:
    """Raises UserError for files that cannot be written or would be lost, before any work is done."""
    inputs = list(inputs)
    check_writable(output, inputs)
    record, sheet = record_path(output), sheet_path(output)
    for path in (record, sheet):
        if path.is_dir():
            raise UserError(f"output {path}: is a folder; choose another --output")
        if any(path.exists() and each.exists() and path.samefile(each) for each in inputs):
            raise UserError(f"output {path}: is also an input, which would be lost; choose another --output")
    if not record.exists():
        return
    try:
        known = json.loads(record.read_bytes())
    except (OSError, ValueError):
        known = None
    if not (isinstance(known, dict) and known.get("tool") == TOOL):
        raise UserError(f"output {record}: is not a mask's record and would be lost; choose another --output")


def record_path(output: Path) -> Path:
    return output.with_suffix(".json")


def sheet_path(output: Path) -> Path:
    return output.with_name(f"{output.stem}_sheet.png")


def save_mask(track: MaskTrack, clip: Path, prompts: Prompts | Sequence[Mark], output: Path) -> dict[str, Any]:
    """Write the mask of `clip` as the video `output` (.mp4), its record beside it as .json and a picture of it over the
    clip as _sheet.png; returns the record.

    The video has the clip's size, as it is shown, and the clip's times, and no loss: white where the mask is. The same
    mask gives the same bytes. Raises UserError when the mask is of another clip, VideoError as write_video().
    """
    info = probe(clip, "clip")
    write_mask(track, info, output)
    with closing(_picked(track, info)) as picked:
        numbers, frames, masks = zip(*picked, strict=True)
    sheet = mask_sheet(np.stack(frames), np.stack(masks), numbers)
    with atomic_output(sheet_path(output)) as temporary:
        sheet.save(temporary, format="PNG")
    record = mask_record(track, info, prompts if isinstance(prompts, Prompts) else Prompts(tuple(prompts)), output)
    write_json(record_path(output), record)
    return record


def write_mask(track: MaskTrack, info: VideoInfo, output: Path) -> None:
    """The video alone."""
    timeline = read_timeline(info)
    if len(timeline.times_s) != len(track) or (info.height, info.width) != track.size:
        raise UserError(f"clip {info.path}: is not the one that the mask was made of: its size or length differs")
    pixels = written_format(PixelFormat("gray", "grey"), *track.size)
    look = Look(pixels, BT709, None, info.pixel_aspect)
    # Without the clip's sound, which would not be a mask's.
    write_edit(output, (_planes(mask, pixels) for mask in track), timeline, look, replace(info, audio_codec=None))


def mask_record(track: MaskTrack, info: VideoInfo, prompts: Prompts, output: Path) -> dict[str, Any]:
    """What was asked and what came of it, as JSON values."""
    return {
        "schema": SCHEMA,
        "tool": TOOL,
        "version": __version__,
        "clip": str(info.path),
        "source": probe_facts(info),
        "engine": track.facts,
        "prompts": prompts.facts(),
        "frames": len(track),
        "keyframes": list(track.keyframes),
        "confidence": [round(value, 4) for value in track.confidence],
        "share": [round(value, 6) for value in track.shares],
        "weak_below": WEAK,
        "weak": track.weak,
        "outputs": {"mask": str(output), "record": str(record_path(output)), "sheet": str(sheet_path(output))},
    }


def _planes(mask: Mask, pixels: PixelFormat) -> Planes:
    grey = np.where(mask, np.uint8(255), np.uint8(0))
    return to_planes(np.repeat(grey[..., None], 3, axis=2), pixels, BT709)


def _picked(track: MaskTrack, info: VideoInfo) -> Generator[tuple[int, NDArray[np.uint8], Mask], None, None]:
    """(number, frame, mask) of a few frames, evenly spread from the first to the last."""
    count = min(MAX_FRAMES, len(track))
    numbers = set(np.linspace(0, len(track) - 1, count).round().astype(int).tolist())
    with closing(iter_frames(info)) as frames:
        for index, frame in enumerate(frames):
            if index in numbers:
                yield index, frame, track[index]
