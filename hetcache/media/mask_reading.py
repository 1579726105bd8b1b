"""How a mask file is to be read, decided once from a bounded number of its frames and then kept to."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hetcache.files import StrPath
from hetcache.media.ffmpeg import VideoError
from hetcache.media.mask_frames import RawMask, iter_raw_masks, to_8_bit
from hetcache.media.mask_tally import COLOURED_SHARE, OPAQUE, Tally, tally
from hetcache.media.options import Channel
from hetcache.media.read import VideoInfo, probe

LEVEL = 128
"""A pixel is edited from this grey on."""

COLOUR_LEVEL = 32
"""A coloured pixel is edited from this brightness of its largest channel on: object colours are darker than white."""

LAST_LABEL = 31
LAST_DEEP_LABEL = 255
"""A mask whose largest value is no larger, of 255 and of 65535, holds labels and not levels."""

LOOKED_AT = 48
LOOKED_THROUGH = 960
"""At most so many frames are looked at, evenly spread over at most so many from the first on."""


@dataclass(frozen=True)
class MaskRequest:
    """What the person asks of a mask: `threshold` None leaves it to the kind, `object_id` None takes every object."""

    channel: Channel = "auto"
    threshold: int | None = None
    object_id: int | None = None


@dataclass(frozen=True)
class MaskReading:
    """`plane` as RawMask.plane() names it, edited where its 8-bit value is at least `threshold`, or with `labels`
    where it is not 0, or `object_id` alone. `ids`, `shares` (of the frame, before any change to the mask), `soft` (the
    largest share of a frame that is neither black nor white) and `warnings` are of the `num_looked` frames looked at,
    every `step`th."""

    kind: str
    plane: str
    threshold: int
    labels: bool
    object_id: int | None
    ids: tuple[int, ...]
    found: str
    shares: tuple[float, ...]
    soft: float
    step: int
    blank: bool
    opaque: bool
    warnings: tuple[str, ...]

    @property
    def num_looked(self) -> int:
        return len(self.shares)

    @property
    def channel(self) -> str:
        """The channel in the words of --mask-channel, or what stands in its place."""
        return {"seen": "luma", "index": "index", "brightest": "largest of red, green, blue"}.get(
            self.plane, self.plane
        )

    @property
    def level(self) -> int:
        """A pixel is edited where grey() is at least this."""
        return LEVEL if self.labels else self.threshold

    def grey(self, raw: RawMask, name: str) -> NDArray[np.uint8]:
        """One frame as grey [H, W] uint8 for `level`. Raises VideoError, naming the frame as `name`, when it is of
        another kind than those looked at, so that no mask is read by a wrong rule."""
        if self.plane == "index" and raw.palette is None:
            raise VideoError(f"{name} has no palette and others have; save all frames as one kind")
        values = raw.plane(self.plane)
        if self.labels:
            if self.plane != "index" and self.object_id is None and int(values.max()) > _last_label(values):
                raise VideoError(
                    f"{name} has value {values.max()}, others are labels up to {max(self.ids, default=0)}: "
                    "give --mask-threshold 1 to edit all that is not 0, or 128 for white"
                )
            chosen = values != 0 if self.object_id is None else values == self.object_id
            grey_HW: NDArray[np.uint8] = np.where(chosen, np.uint8(255), np.uint8(0))
            return grey_HW
        if self.blank and raw.lossless and 0 < int(values.max()) <= _last_label(values):
            raise VideoError(f"{name} holds labels up to {values.max()}, others are empty: give --mask-threshold 1")
        if self.opaque and raw.alpha is not None and (raw.alpha < OPAQUE).mean() > COLOURED_SHARE:
            raise VideoError(f"{name} is transparent in part, others are not: give --mask-channel alpha or luma")
        return to_8_bit(values)


def read_rules(path: StrPath, request: MaskRequest | None = None) -> MaskReading:
    """Look at some frames of a mask and decide. Raises VideoError for a mask that cannot be read or understood."""
    request = request or MaskRequest()
    threshold = request.threshold
    if threshold is not None and not 1 <= threshold <= 255:
        raise VideoError(f"mask threshold {threshold}: must be from 1 to 255")
    info = probe(path, "mask")
    step, most = (_step(info), LOOKED_AT) if request.object_id is None else (1, LOOKED_THROUGH)
    planes = ("index", "seen", "brightest", "alpha") if request.channel == "auto" else (request.channel,)
    with closing(iter_raw_masks(info, step)) as frames:
        counted = tally(islice(frames, most), planes, threshold or LEVEL)
    name = f"mask {info.path}"
    if counted.num_frames == 0:
        raise VideoError(f"{name}: has no frame that can be read; re-encode it")
    plane, why = _choose_plane(name, request, counted)
    values = counted.values(plane)
    labels = _are_labels(request, counted, plane, values)
    ids = tuple(value for value in values if value) if labels else ()
    level = threshold or (COLOUR_LEVEL if plane == "brightest" else LEVEL)
    _check_object(name, request, labels, ids, counted.num_frames)
    if not labels:
        _check_reached(name, counted, plane, level)
    return MaskReading(
        kind=info.kind,
        plane=plane,
        threshold=1 if labels else level,
        labels=labels,
        object_id=request.object_id,
        ids=ids,
        found=_found(request, counted, plane, labels, ids, why),
        shares=tuple(_shares(counted, plane, labels, request.object_id, level)),
        soft=0.0 if labels else max(counted.shares(plane, 16, 239)),
        step=step,
        blank=values in ([], [0]),
        opaque=request.channel == "auto" and not counted.has_alpha,
        warnings=() if labels else tuple(_level_warnings(counted, plane, level)),
    )


def iter_grey(info: VideoInfo, reading: MaskReading) -> Generator[NDArray[np.uint8], None, None]:
    """Every frame of a mask as grey [H, W] uint8 to compare with `reading.level`. Raises VideoError."""
    with closing(iter_raw_masks(info)) as frames:
        for index, raw in enumerate(frames):
            yield reading.grey(raw, f"mask {info.path}: frame {index}")


def _step(info: VideoInfo) -> int:
    expected = info.num_frames if info.num_frames is not None else round((info.duration_s or 0) * info.fps)
    return max(1, -(-min(expected, LOOKED_THROUGH) // LOOKED_AT))


def _choose_plane(name: str, request: MaskRequest, counted: Tally) -> tuple[str, str]:
    """(plane, why) by `request` or by what was counted. Raises VideoError where colours and alpha hold two shapes."""
    if request.channel == "alpha" and not counted.has_alpha and counted.alpha_range[1] == 0:
        raise VideoError(f"{name}: has no alpha channel; give --mask-channel luma or leave it out")
    if request.channel != "auto":
        return request.channel, "as asked"
    if counted.num_indexed == counted.num_frames and _by_index(request, counted):
        return "index", "palette"
    if not counted.has_alpha:
        # A label in one channel alone would be lost in the luma.
        dark = counted.lossless and 0 < max(counted.values("brightest")) <= LAST_LABEL
        return "brightest" if dark or counted.coloured_share >= COLOURED_SHARE else "seen", ""
    if counted.alpha_range[1] == 0 and not counted.both + counted.only_colour:
        raise VideoError(f"{name}: is transparent everywhere; give --mask-channel luma to read its colours")
    if counted.one_colour:
        return "alpha", "its colours are constant"
    differing, edited = counted.only_alpha + counted.only_colour, counted.both + counted.only_alpha
    if differing > 0.01 * max(edited + counted.only_colour, 1):
        raise VideoError(f"{name}: its colours and its alpha hold different shapes; give --mask-channel alpha or luma")
    return "alpha", "its colours agree"


def _by_index(request: MaskRequest, counted: Tally) -> bool:
    """A palette of greys is a picture of levels; one of colours, or one asked for an object, holds object numbers."""
    if request.object_id is not None:
        return True
    return request.threshold is None and counted.coloured_palette and not counted.has_alpha


def _last_label(values: NDArray[Any]) -> int:
    return LAST_DEEP_LABEL if values.dtype == np.uint16 else LAST_LABEL


def _are_labels(request: MaskRequest, counted: Tally, plane: str, values: Sequence[int]) -> bool:
    if plane == "index":
        return True
    if request.object_id is not None:
        return counted.lossless
    largest = max(values, default=0)
    if request.threshold is not None or largest == 0 or plane == "alpha" and largest >= OPAQUE:
        return False
    if counted.lossless:
        return largest <= (LAST_DEEP_LABEL if counted.deep(plane) else LAST_LABEL)
    # In a lossy file a few ones are the noise of a black frame.
    return largest == 1 and counted.largest_share(plane, 1) >= 0.001


def _check_object(name: str, request: MaskRequest, labels: bool, ids: Sequence[int], num_looked: int) -> None:
    if request.object_id is None:
        return
    if request.threshold is not None:
        raise VideoError("--mask-object names a value and --mask-threshold a range; leave one of the two out")
    if not labels:
        raise VideoError(f"{name}: a lossy file keeps no object numbers; save the mask as PNG files for --mask-object")
    if request.object_id not in ids:
        there = _listed(ids) if ids else "none"
        raise VideoError(f"{name}: no object {request.object_id} in the {num_looked} frames looked at; found: {there}")


def _check_reached(name: str, counted: Tally, plane: str, level: int) -> None:
    """A mask that is not empty but too dark would be taken for empty: refuse it."""
    largest = next((value for value in range(255, 0, -1) if max(counted.shares(plane, value, value)) > 0), 0)
    dim = largest > LAST_LABEL or max(counted.shares(plane, 8, 255)) >= 0.005
    if dim and largest < level:
        raise VideoError(
            f"{name}: nothing reaches the threshold {level}, the brightest of {counted.num_frames} frames looked at is "
            f"{largest}; give --mask-threshold {largest} or less"
        )


def _shares(counted: Tally, plane: str, labels: bool, object_id: int | None, level: int) -> Iterator[float]:
    for counts in counted.counts[plane]:
        total = counts.sum()
        if not labels:
            break
        edited = counts[1:].sum() if object_id is None else counts[object_id] if object_id < len(counts) else 0
        yield float(edited / total)
    else:
        return
    yield from counted.shares(plane, level, 255)


def _found(request: MaskRequest, counted: Tally, plane: str, labels: bool, ids: Sequence[int], why: str) -> str:
    """What was understood, in a person's words."""
    if labels:
        taken = "every one" if request.object_id is None else f"{request.object_id} alone"
        what = "palette with objects" if plane == "index" else "16-bit labels" if counted.deep(plane) else "labels"
        return f"{what} {_listed(ids) if ids else 'of none'}, {taken} is edited"
    if plane == "seen":
        return "grey levels"
    if plane == "brightest":
        return "coloured shapes on black"
    return f"shape in the {plane} channel ({why})"


def _listed(ids: Sequence[int]) -> str:
    shown = ", ".join(map(str, ids[:8]))
    return shown if len(ids) <= 8 else f"{shown} and {len(ids) - 8} more"


def _level_warnings(counted: Tally, plane: str, level: int) -> Iterator[str]:
    flat = [value for value in range(16, level) if max(counted.shares(plane, value, value)) >= 0.005]
    if flat and level > 16:
        yield f"flat areas of {_listed(flat)} are below {level} and not edited; --mask-threshold {flat[0]} edits them"
    if max(counted.shares(plane, 16, 239)) > 0.5:
        yield "over half of a frame is neither black nor white: is this a mask?"
