"""What was understood of a mask and what is suspicious about it, for a person to read before the run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hetcache.media.clip import Clip
from hetcache.media.mask_reading import MaskReading
from hetcache.media.source import Source

FULL_SHARE = 0.99
"""A mask of this share of the frame and more is suspicious: it may be inverted, or its shape elsewhere."""

TINY_SHARE = 1e-4

STATIC_CHANGE = 12.0
"""Grey levels by which the picture under a mask that never moves has to differ from the first frame to be suspicious.
"""

_COMPARED = 8


@dataclass(frozen=True)
class MaskReport:
    """`shares` of the canvas, one a frame of the first window. `all_shares` are spread over the whole run: the same for
    one window, else those of the file's frames that were looked at."""

    source: Source
    reading: MaskReading
    shares: tuple[float, ...]
    all_shares: tuple[float, ...]
    warnings: tuple[str, ...]

    def rows(self) -> list[tuple[str, str]]:
        """Two lines, and one for each warning, as (name, value)."""
        reading, options = self.reading, self.source.options
        kind = {"image": "an image for every frame", "folder": "images", "video": "video"}[reading.kind]
        pace = "" if self.source.pace is None else ", each frame takes the mask of its time"
        inverted = ", inverted" if options.invert_mask else ""
        level = "" if reading.labels else f", {reading.channel} edited from {reading.threshold} on"
        lowest, highest = min(self.all_shares), max(self.all_shares)
        mean = sum(self.all_shares) / len(self.all_shares)
        over = "" if lowest == highest else f" ({lowest:.1%} to {highest:.1%} over {len(self.all_shares)} frames)"
        soft = "no soft edges" if reading.soft == 0 else f"soft edges on up to {reading.soft:.1%}"
        return [
            ("mask", f"{self.source.mask}, {kind}{pace}: {reading.found}{level}{inverted}"),
            ("mask covers", f"{mean:.1%} of the frame{over}, {soft}"),
            *(("warning", warning) for warning in self.warnings),
        ]

    def facts(self) -> dict[str, Any]:
        """The same for the record, as JSON values."""
        reading = self.reading
        return {
            "kind": reading.kind,
            "found": reading.found,
            "channel": reading.channel,
            "threshold": None if reading.labels else reading.threshold,
            "objects": list(reading.ids),
            "object": reading.object_id,
            "timing": "frames" if self.source.pace is None else "time",
            "frames_looked_at": reading.num_looked,
            "share_per_frame": [round(share, 6) for share in self.shares],
            "share": {
                "mean": round(sum(self.all_shares) / len(self.all_shares), 6),
                "min": round(min(self.all_shares), 6),
                "max": round(max(self.all_shares), 6),
            },
            "soft_share": round(reading.soft, 6),
            "warnings": list(self.warnings),
        }


def examine(source: Source, clip: Clip, num_frames: int) -> MaskReport | None:
    """Look at the mask of a run of `num_frames` frames whose first window is `clip`; None without a mask file. Decodes
    nothing: it uses the clip and what was counted when the source was opened."""
    reading = source.reading
    if reading is None:
        return None
    mask_THW = clip.source_mask_THW
    shares = tuple(float(share) for share in mask_THW.mean(axis=(1, 2)))
    all_shares = shares
    if num_frames > len(shares):
        last = num_frames if source.pace is None else source.pace.index(num_frames - 1) + 1
        found = [share for index, share in enumerate(reading.shares) if index * reading.step < last]
        all_shares = tuple(1 - share if source.options.invert_mask else share for share in found)
    warnings = [*source.mask_notes, *reading.warnings, *_odd_shares(all_shares, "max" if reading.blank else "")]
    if not source.options.invert_mask:
        warnings += _static(clip.source_THWC, mask_THW)
    return MaskReport(source, reading, shares, all_shares, tuple(warnings))


def _odd_shares(shares: Sequence[float], blank: str) -> Iterator[str]:
    num_frames = len(shares)
    empty = [index for index, share in enumerate(shares) if share == 0]
    if len(empty) == num_frames:
        yield "the mask is empty in every frame" + (
            ": a lossy codec erases labels, so save those as PNG files" if blank else ""
        )
        return
    if empty:
        yield f"the mask is empty in {len(empty)} of {num_frames} frames, first in frame {empty[0]} of those"
    full = sum(share >= FULL_SHARE for share in shares)
    if full:
        where = "every frame" if full == num_frames else f"{full} of {num_frames} frames"
        yield f"the mask covers the whole picture in {where}: is it inverted, or is its shape in another channel?"
    if 0 < max(shares) < TINY_SHARE:
        yield f"the mask covers {max(shares):.4%} of the picture at most: hardly a pixel"


def _static(frames_THWC: NDArray[np.uint8], mask_THW: NDArray[np.bool_]) -> Iterator[str]:
    """A mask that stays where it is while the picture under it changes: perhaps the object moves away from it."""
    area = int(mask_THW[0].sum())
    if len(mask_THW) < 5 or area == 0 or area > 0.9 * mask_THW[0].size:
        return
    picked = np.linspace(0, len(mask_THW) - 1, _COMPARED).round().astype(int)[1:]
    if any((mask_THW[index] ^ mask_THW[0]).sum() > 0.01 * area for index in picked):
        return
    first = frames_THWC[0][mask_THW[0]].astype(np.int16)
    change = float(np.mean([np.abs(frames_THWC[index][mask_THW[0]] - first).mean() for index in picked]))
    if change >= STATIC_CHANGE:
        yield (
            f"the mask stays where it is in all {len(mask_THW)} frames while the picture under it changes by "
            f"{change:.0f} of 255: if the object moves, the mask does not follow"
        )
