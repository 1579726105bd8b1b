"""What a few frames of a mask file hold, counted once so that mask_reading.py can decide how to read them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hetcache.media.images import over_black
from hetcache.media.mask_frames import RawMask

OPAQUE = 250
"""Transparency of this and more is none: lossy codecs leave a little."""

COLOURED = 64
"""A pixel is coloured where its largest and smallest channel differ by this much."""

COLOURED_SHARE = 0.001
GREY_SPREAD = 8
"""An entry of a palette is a colour where its channels differ by more."""

ONE_COLOUR = 24
"""Colour planes are constant when no channel varies by more than this, which lossy codecs stay below."""


@dataclass
class Tally:
    """Counts over the frames looked at. `counts[plane]` has one histogram a frame, of 256 or 65536 values."""

    planes: Sequence[str]
    half: int
    counts: dict[str, list[NDArray[np.int64]]] = field(default_factory=dict)
    num_frames: int = 0
    num_indexed: int = 0
    lossless: bool = True
    alpha_range: tuple[int, int] = (255, 0)
    see_through_share: float = 0.0
    coloured_share: float = 0.0
    coloured_palette: bool = False
    only_alpha: int = 0
    only_colour: int = 0
    both: int = 0
    low_RGB: NDArray[Any] = field(default_factory=lambda: np.full(3, 255))
    high_RGB: NDArray[Any] = field(default_factory=lambda: np.zeros(3, np.int64))

    def add(self, raw: RawMask) -> None:
        """Count one frame."""
        self.num_frames += 1
        if raw.palette is not None:
            self.num_indexed += 1
            used = raw.palette[np.unique(raw.values), :3].astype(int)
            self.coloured_palette |= bool((np.ptp(used, axis=1) > GREY_SPREAD).any())
        self.lossless &= raw.lossless
        if raw.without_colour:
            # The usual mask: all planes are one, and nothing is coloured.
            one = _histogram(raw.values[..., 0])
            for name in self.planes:
                if name != "index":
                    opaque = np.bincount([255], [raw.values[..., 0].size], 256).astype(np.int64)
                    self.counts.setdefault(name, []).append(opaque if name == "alpha" else one)
            return
        for name in self.planes:
            if name == "index" and raw.palette is None:
                continue
            self.counts.setdefault(name, []).append(_histogram(raw.plane(name)))
        if raw.values.ndim == 2 and raw.palette is None:
            return
        colours, alpha = raw.colours, raw.alpha
        if alpha is not None:
            over = over_black(np.dstack([colours, alpha]))
            self._add_alpha(colours, alpha, over)
            colours = over
        coloured = colours.max(axis=2) - colours.min(axis=2) >= COLOURED
        self.coloured_share = max(self.coloured_share, float(coloured.mean()))

    def _add_alpha(self, colours: NDArray[np.uint8], alpha: NDArray[np.uint8], over: NDArray[np.uint8]) -> None:
        self.alpha_range = min(self.alpha_range[0], int(alpha.min())), max(self.alpha_range[1], int(alpha.max()))
        self.see_through_share = max(self.see_through_share, float((alpha < OPAQUE).mean()))
        seen = colours[alpha >= 128]
        if seen.size:
            self.low_RGB = np.minimum(self.low_RGB, seen.min(axis=0))
            self.high_RGB = np.maximum(self.high_RGB, seen.max(axis=0))
        by_alpha = alpha >= self.half
        by_colour = over.max(axis=2) >= self.half
        self.both += int((by_alpha & by_colour).sum())
        self.only_alpha += int((by_alpha & ~by_colour).sum())
        self.only_colour += int((by_colour & ~by_alpha).sum())

    @property
    def has_alpha(self) -> bool:
        """Whether anything is transparent."""
        return self.alpha_range[0] < OPAQUE

    @property
    def one_colour(self) -> bool:
        """Whether what can be seen has one colour, in all frames."""
        return bool((self.high_RGB - self.low_RGB <= ONE_COLOUR).all())

    def deep(self, plane: str) -> bool:
        """Whether values go to 65535."""
        return any(len(counts) > 256 for counts in self.counts[plane])

    def values(self, plane: str) -> list[int]:
        """The values that occur, in order."""
        return [int(value) for value in np.flatnonzero(_sum(self.counts[plane]))]

    def largest_share(self, plane: str, value: int) -> float:
        """The share of the frame that has just this value, where it is largest."""
        return max(float(counts[value] / counts.sum()) for counts in self.counts[plane] if value < len(counts))

    def shares(self, plane: str, lowest: int, highest: int) -> list[float]:
        """The share of each frame whose value, as 8 bit, lies between these, both included."""
        return [float(_as_256(counts)[lowest : highest + 1].sum() / counts.sum()) for counts in self.counts[plane]]


def tally(frames: Iterable[RawMask], planes: Sequence[str], half: int) -> Tally:
    """Count all `frames`; `half` is the value from which a pixel is taken for edited when planes are compared."""
    result = Tally(planes, half)
    for raw in frames:
        result.add(raw)
    return result


def _histogram(values: NDArray[Any]) -> NDArray[np.int64]:
    return np.bincount(values.ravel(), minlength=65536 if values.dtype == np.uint16 else 256)


def _sum(counts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    total = np.zeros(max(len(each) for each in counts), np.int64)
    for each in counts:
        total[: len(each)] += each
    return total


def _as_256(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    if len(counts) == 256:
        return counts
    scaled = (np.arange(65536, dtype=np.uint32) * 255 + 32767) // 65535
    return np.bincount(scaled, counts, 256).astype(np.int64)
