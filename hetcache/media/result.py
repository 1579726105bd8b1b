"""The result of an edit as the planes of its file: the source's own outside the mask and its feather."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hetcache.media import hdr
from hetcache.media.colour import Colour
from hetcache.media.encode import Look
from hetcache.media.ffmpeg import VideoError
from hetcache.media.masks import feather_mask
from hetcache.media.options import LONG_CRF, SHORT_CRF, SHORT_FRAMES
from hetcache.media.pixels import PixelFormat, written_format
from hetcache.media.planes import Planes, blend, empty_planes, iter_planes, paste, to_planes
from hetcache.media.probe import VideoInfo
from hetcache.media.read import iter_frames
from hetcache.media.source import Source


def look_of(source: Source, num_frames: int, lossless: bool = False) -> Look:
    """How an edit of `source` is written. Raises VideoError where `lossless` cannot be kept."""
    info, pixels = source.info, source.info.pixels
    height, width = source.size
    colour = info.colour
    if lossless and pixels.family == "yuv" and pixels.bits > 10:
        raise VideoError(f"--lossless: {info.path} has {pixels.bits} bit a channel and H.264 keeps 10; leave it out")
    if pixels.family == "yuv" and not pixels.alpha:
        written = written_format(pixels, height, width, _offsets(source))
    elif lossless:
        written = PixelFormat("gbrp", "rgb")
    else:
        written = written_format(pixels, height, width)
    if colour.matrix == "gbr" and written.family == "yuv":
        primaries, transfer = (
            tag if tag not in ("unknown", "reserved") else "bt709" for tag in (colour.primaries, colour.transfer)
        )
        colour = Colour("bt709", primaries, transfer)
    crf = None if lossless else SHORT_CRF if num_frames <= SHORT_FRAMES else LONG_CRF
    fields = info.fields if info.interlaced else "progressive"
    static_hdr = info.static_hdr if colour.hdr and written.family == "yuv" else None
    return Look(written, colour, crf, info.pixel_aspect, fields, static_hdr)


def notes_of(source: Source, look: Look) -> list[str]:
    """What is done to this source's pictures that a person might not expect, by the stated rules."""
    info, pixels, notes = source.info, source.info.pixels, []
    if info.interlaced:
        notes.append(f"interlaced, {info.fields} field first: edited as it is, frame by frame, and written interlaced")
    if info.colour.hdr:
        notes.append(
            f"HDR ({info.colour.hdr}): the model sees it tone-mapped to SDR, its edit goes back by the same curve, and "
            "the background stays HDR as it is"
        )
    elif info.colour.primaries == "bt2020":
        notes.append("BT.2020 colours: the model takes them for BT.709's, the output is tagged as the source")
    if info.dynamic_hdr is not None:
        notes.append(f"{info.dynamic_hdr}: what it says frame by frame is left out, players take the file as plain HDR")
    if info.static_hdr is not None:
        kept = "kept" if look.static_hdr is not None else "left out, because the output is not HDR"
        notes.append(f"HDR10 metadata ({info.static_hdr.describe()}): {kept}")
    if pixels.bits > 8 and pixels.family == "yuv":
        kept = (
            f"its {look.pixels.bits}" if look.pixels.bits == pixels.bits else f"{look.pixels.bits} of its {pixels.bits}"
        )
        notes.append(f"{pixels.bits} bit: the edit is made in 8 bit, the background keeps {kept}")
    elif pixels.bits > 8 and info.kind == "video":
        notes.append(f"{pixels.bits} bit of {pixels.name}: written in 8 bit")
    if pixels.alpha:
        notes.append("transparency is laid over black")
    if (
        pixels.family == "yuv"
        and not pixels.alpha
        and (pixels.columns, pixels.rows) != (look.pixels.columns, look.pixels.rows)
    ):
        notes.append(f"written as {look.pixels.name}: H.264 has no {pixels.name} of this size or kind")
    return notes


def result_planes(
    source: Source,
    edited: Iterable[NDArray[np.uint8]] | None,
    masks: Iterable[NDArray[np.bool_]],
    feather_px: int,
    look: Look,
    count: int,
) -> Generator[Planes, None, None]:
    """`count` frames of the canvas as planes of `look`, in memory that does not grow: `edited` [H, W, 3] in the masks
    [H, W] and blended over `feather_px` pixels around them, the source elsewhere. `edited` None: nothing is edited.
    Raises VideoError when the source ends early."""
    interlaced = look.fields != "progressive"
    edits: Iterator[NDArray[np.uint8] | None] = iter(edited) if edited is not None else iter([None] * count)
    found = 0
    with closing(_background(source.info, look, count)) as background:
        for planes, edit, mask in zip(background, edits, masks, strict=False):
            found += 1
            if source.options.outpaint is not None:
                planes = _widened(source, planes, look)
            if edit is None or not mask.any():
                yield planes
                continue
            yield _blended(planes, edit, feather_mask(mask[None], feather_px)[0], look, source.info.colour, interlaced)
    if found < count:
        raise ended(source, found, count)


def ended(source: Source, found: int, expected: int) -> VideoError:
    """The error when fewer frames can be decoded than were counted before the run."""
    return VideoError(
        f"video {source.video}: ends after {found} of {expected} frames, it is damaged or has changed: re-encode it, "
        f"or go on with --frames {found} --resume"
    )


def _background(info: VideoInfo, look: Look, count: int) -> Generator[Planes, None, None]:
    if info.kind == "video" and info.pixels.family == "yuv" and not info.pixels.alpha:
        yield from iter_planes(info, look.pixels, count)
        return
    with closing(iter_frames(info, count=count)) as frames:
        for frame in islice(frames, count):
            yield to_planes(frame, look.pixels, look.colour)


def _blended(
    planes: Planes, edit: NDArray[np.uint8], alpha_HW: NDArray[np.float32], look: Look, colour: Colour, interlaced: bool
) -> Planes:
    """`edit` is converted only in the box that the mask and its feather touch."""
    pixels = look.pixels
    rows, columns = np.flatnonzero(alpha_HW.any(1)), np.flatnonzero(alpha_HW.any(0))
    # Multiples of 4: whole chroma samples of both fields.
    top, left = rows[0] // 4 * 4, columns[0] // 4 * 4
    bottom, right = (-(-(int(last) + 1) // 4) * 4 for last in (rows[-1], columns[-1]))
    inside = np.s_[top : min(bottom, len(alpha_HW)), left : min(right, alpha_HW.shape[1])]
    painted: NDArray[Any] = edit[inside]
    if colour.hdr:
        painted = hdr.from_sdr(painted, colour)
    y, u, v = (np.array(plane) for plane in planes)
    result = y, u, v
    boxes = [inside, *[_chroma_box(inside, pixels)] * 2]
    old_y, old_u, old_v = (plane[box] for plane, box in zip(result, boxes, strict=True))
    mixed = blend(
        (old_y, old_u, old_v), to_planes(painted, pixels, look.colour, interlaced), alpha_HW[inside], pixels, interlaced
    )
    for plane, box, values in zip(result, boxes, mixed, strict=True):
        plane[box] = values
    return result


def _chroma_box(box: tuple[slice, slice], pixels: PixelFormat) -> tuple[slice, slice]:
    rows, columns = box
    return (
        slice(rows.start // pixels.rows, -(-rows.stop // pixels.rows)),
        slice(columns.start // pixels.columns, -(-columns.stop // pixels.columns)),
    )


def _widened(source: Source, planes: Planes, look: Look) -> Planes:
    """The source's planes in the canvas of an outpainting."""
    height, width = source.size
    top, left = _offsets(source)
    canvas = empty_planes(look.pixels, height, width)
    for plane in canvas:
        plane[:] = 1 << (look.pixels.bits - 1)
    paste(canvas, planes, top, left, look.pixels)
    return canvas


def _offsets(source: Source) -> tuple[int, int]:
    """(top, left) of the video in the canvas."""
    sides = source.options.outpaint
    return (0, 0) if sides is None else (sides[1], sides[0])
