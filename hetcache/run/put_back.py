"""How an edit is put back so that it holds: colours matched at the model's size, grain at the source's; and the record
of what was prepared before and done after the model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import chain, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hetcache.media.clip import Clip
from hetcache.media.fill_reader import fill_reader
from hetcache.media.harmonise import lacking_grain, match_colour, with_grain
from hetcache.media.masks import composite
from hetcache.media.propagate import Filled
from hetcache.media.restore import restore_seen
from hetcache.media.windows import Window
from hetcache.run.job import Job

Frames = NDArray[np.uint8]

MEASURED_FRAMES = 33
"""Grain is measured on the first frames: one strength for the whole clip."""


def matched(job: Job, clip: Clip, raw_THWC: Frames) -> tuple[Frames, dict[str, Any]]:
    """(`raw_THWC`, at the model's size, with its colours matched and what other frames show restored, where that was
    asked for; facts for the record)."""
    edited_THWC, shift = _colours_matched(job, clip, raw_THWC)
    share = None
    # With --keep-seen all that is shown surely has left the mask.
    if job.restore_seen and clip.filled is not None and clip.kept is None:
        edited_THWC, share = restore_seen(edited_THWC, clip.filled, clip.mask_THW)
    return edited_THWC, {"colour_shift": shift, "restored_share": None if share is None else round(share, 6)}


def _colours_matched(job: Job, clip: Clip, raw_THWC: Frames) -> tuple[Frames, float | None]:
    if not job.match_colour or not clip.mask_THW.any():
        return raw_THWC, None
    scale = job.clip.placement.scale
    # A bicubic filter reaches two pixels of the larger side; a clip with a fill was scaled without what is masked.
    unsure_px = 0 if scale == 1 or clip.filled is not None else math.ceil(2 * max(scale, 1))
    edited_THWC = match_colour(raw_THWC, clip.frames_THWC, clip.mask_THW, unsure_px)
    change = edited_THWC[clip.mask_THW].astype(np.int16) - raw_THWC[clip.mask_THW]
    return edited_THWC, round(float(np.abs(change).mean()), 3)


class PutBack:
    """What is done to the edited frames at the source's size before they are written. `facts` after they were."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._grain: list[float] | None = None

    def stream(self, edited: Iterable[Frames]) -> Iterator[Frames]:
        """Frames [H, W, 3] in, frames out, in memory that does not grow."""
        if self._job.regrain:
            edited = self._grained(edited)
        return self._kept(edited) if self._job.source.options.keep_seen else iter(edited)

    def _kept(self, edited: Iterable[Frames]) -> Iterator[Frames]:
        """With what other frames show, in the source's own pixels, in place of what the model made of that."""
        job = self._job
        top, left, height, width = job.clip.placement.focus or (0, 0, *job.source.size)
        for edit, filled in zip(edited, self._fills(), strict=False):
            box = edit[top : top + height, left : left + width]
            asked = (filled.mask_THW & ~filled.kept_THW)[0]
            laid: Frames = edit.copy()
            laid[top : top + height, left : left + width] = composite(
                filled.frames_THWC, box[None], asked[None], job.feather_px
            )[0]
            yield laid

    def _fills(self) -> Iterator[Filled]:
        """The fill of every frame, in the source's own pixels, as clips of one frame."""
        job, count = self._job, self._job.windows[0].count
        if len(job.windows) == 1 and job.clip.kept is not None:
            yield from _one_by_one(job.clip.kept)
            return
        with fill_reader(job.source, job.clip.placement) as reader:
            for start in range(0, job.num_frames, count):
                yield from _one_by_one(reader.read(Window(start, min(count, job.num_frames - start), 0)))

    def _grained(self, edited: Iterable[Frames]) -> Iterator[Frames]:
        job, edits = self._job, iter(edited)
        with closing(job.source.stream()) as stream:
            head = list(zip(islice(stream, MEASURED_FRAMES), islice(edits, MEASURED_FRAMES), strict=False))
            source_THWC = np.concatenate([frames for (frames, _), _ in head])
            mask_THW = np.concatenate([mask for (_, mask), _ in head])
            edit_THWC = np.stack([edit for _, edit in head])
            strengths = lacking_grain(edit_THWC, source_THWC, mask_THW)
            self._grain = [round(float(strength), 3) for strength in strengths]
            masks = (mask for _, mask in stream)
            pairs = chain(zip(edit_THWC, mask_THW, strict=True), zip(edits, masks, strict=False))
            for index, (edit, mask) in enumerate(pairs):
                yield with_grain(edit, mask.reshape(edit.shape[:2]), strengths, (job.settings.seed, index))

    def facts(self) -> dict[str, Any]:
        """For the record."""
        return {"grain": self._grain}


def _one_by_one(filled: Filled) -> Iterator[Filled]:
    for index in range(len(filled.frames_THWC)):
        at = slice(index, index + 1)
        yield Filled(filled.frames_THWC[at], filled.seen_THW[at], filled.mask_THW[at])


def shares(clip: Clip) -> tuple[float | None, float | None]:
    """(share of the masked pixels that other frames show, None where they were not asked; share that is kept from
    there, None without --keep-seen)."""
    filled = clip.kept or clip.filled
    if filled is None or not filled.mask_THW.any():
        return None, None
    masked = filled.mask_THW
    kept = None if clip.kept is None else round(float(filled.kept_THW[masked].mean()), 6)
    return round(float((filled.seen_THW[masked] > 0).mean()), 6), kept


def prepared_facts(job: Job, clip: Clip) -> dict[str, Any]:
    """What the model was given to see of a window, for the record."""
    seen, kept = shares(clip)
    return {
        "conditioning": {
            "scale": round(job.clip.placement.scale, 6),
            "fill": job.fill,
            "seen_share": seen,
            "kept_share": kept,
        }
    }


def mean_shift(windows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """`colour_shift` and `restored_share` of the edited windows together."""
    found: dict[str, Any] = {}
    for name, places in (("colour_shift", 3), ("restored_share", 6)):
        known = [value for window in windows if (value := window["put_back"][name]) is not None]
        found[name] = round(float(np.mean(known)), places) if known else None
    return found
