"""Masks [T, H, W] bool, True = edit: read, grown, feathered, resized, and the composite they govern."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import distance_transform_edt

from hetcache.files import StrPath
from hetcache.media.ffmpeg import MAX_SIDE, VideoError
from hetcache.media.mask_pace import Pace
from hetcache.media.mask_reading import MaskReading, MaskRequest, iter_grey, read_rules
from hetcache.media.options import Extend
from hetcache.media.read import VideoInfo, probe, too_few

Mask = NDArray[np.bool_]


def read_mask(
    path: StrPath,
    count: int,
    size: tuple[int, int],
    threshold: int | None = None,
    invert: bool = False,
    extend: Extend = "error",
    start: int = 0,
    reading: MaskReading | None = None,
    pace: Pace | None = None,
) -> Mask:
    """Read `count` masks as [T, H, W] bool, True where the pixel is edited, from frame `start`.

    `size` = (height, width) of the video. `reading` says what a pixel's value means; without one it is decided here
    by read_rules() and `threshold`: grey of `threshold` (128) or more is edited, labels and palettes everywhere but
    in 0. A mask of another size is stretched to the video's with an antialiasing filter; `invert` then swaps. An image
    holds for all frames; `pace` maps frames of another rate. A video or folder shorter than asked is a VideoError
    unless `extend` is "hold" (the last mask stays) or "loop" (it begins again).
    """
    if count < 1 or start < 0:
        raise ValueError(f"count {count} must be positive and start {start} not negative")
    with closing(iter_mask(path, size, threshold, invert, extend, reading, pace)) as stream:
        masks = list(islice(stream, start, start + count))
    if len(masks) < count:
        raise VideoError(too_few(f"mask {path}", len(masks), count, start) + ", or --mask-extend hold|loop")
    return np.stack(masks)


def iter_mask(
    path: StrPath,
    size: tuple[int, int],
    threshold: int | None = None,
    invert: bool = False,
    extend: Extend = "error",
    reading: MaskReading | None = None,
    pace: Pace | None = None,
) -> Generator[Mask, None, None]:
    """Yield masks [H, W] bool from the first on, by the rules of read_mask(), in memory that does not grow.

    Without end for an image and for `extend` "hold" and "loop"; else as many as there are.
    """
    if extend not in ("error", "hold", "loop"):
        raise VideoError(f"mask extension {extend!r}: must be error, hold or loop")
    reading = reading or read_rules(path, MaskRequest(threshold=threshold))
    masks = _extended(probe(path, "mask"), reading, size, invert, extend)
    with closing(masks):
        yield from masks if pace is None else pace.spread(masks)


def _extended(
    info: VideoInfo, reading: MaskReading, size: tuple[int, int], invert: bool, extend: Extend
) -> Generator[Mask, None, None]:
    mask = None
    while True:
        with closing(iter_grey(info, reading)) as frames:
            for grey in frames:
                mask = _binary(grey, size, reading.level, invert)
                yield mask
        if mask is None:
            raise VideoError(f"mask {info.path}: has no frame that can be read; re-encode it")
        while info.kind == "image" or extend == "hold":
            yield mask
        if extend == "error":
            return


def dilate_mask(mask_THW: Mask, px: int) -> Mask:
    """Grow True by `px` pixels in every direction (a disc); 0 returns a copy, a negative `px` shrinks."""
    if px < 0:
        return ~dilate_mask(~mask_THW, -px)
    if px == 0:
        return np.array(mask_THW)
    grown = np.zeros(mask_THW.shape, np.bool_)
    for index, mask in enumerate(mask_THW):
        grown[index] = _distance(mask, px) <= px
    return grown


def feather_mask(mask_THW: Mask, px: int) -> NDArray[np.float32]:
    """Opacity [T, H, W] float32: 1 in the mask, falling smoothly to 0 at `px` pixels outside, 0 beyond."""
    if px < 0:
        raise VideoError(f"mask feather {px}: cannot be negative")
    if px == 0:
        return mask_THW.astype(np.float32)

    alpha = np.zeros(mask_THW.shape, np.float32)
    for index, mask in enumerate(mask_THW):
        box = _box_around(mask, px)
        if box is not None:
            distance = distance_transform_edt(~mask[box])
            ramp = np.where(distance <= px, 1.0 - distance / (px + 1.0), 0.0)
            alpha[index][box] = ramp * ramp * (3.0 - 2.0 * ramp)
    return alpha


def resize_frames(frames_THWC: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize [T, H, W, 3] uint8 to `height` x `width`: bicubic, antialiased when smaller."""
    if frames_THWC.shape[1:3] == (height, width):
        return np.array(frames_THWC)
    resized = np.empty((len(frames_THWC), height, width, 3), np.uint8)
    for index, frame in enumerate(frames_THWC):
        resized[index] = np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC))
    return resized


def resize_mask(mask_THW: Mask, height: int, width: int) -> Mask:
    """Resize [T, H, W] bool by the any-pixel rule: True where any True pixel touches the new pixel's area.

    So no part of a mask is ever lost, however thin; at borders the mask grows by up to one new pixel.
    """
    if mask_THW.shape[1:] == (height, width):
        return np.array(mask_THW)
    return _any_within(_any_within(mask_THW, 1, height), 2, width)


def composite(
    source_THWC: NDArray[np.uint8], edited_THWC: NDArray[np.uint8], mask_THW: Mask, feather_px: int = 0
) -> NDArray[np.uint8]:
    """The edit inside the mask, the source outside, blended over `feather_px` pixels outside its border.

    All [T, H, W(, 3)] of one size. Further than `feather_px` from the mask the result is the source, bit for
    bit; inside the mask it is the edit.
    """
    if source_THWC.shape != edited_THWC.shape or source_THWC.shape[:3] != mask_THW.shape:
        raise ValueError(f"shapes differ: {source_THWC.shape}, {edited_THWC.shape}, {mask_THW.shape}")
    result = np.array(source_THWC)
    for index in range(len(result)):
        alpha = feather_mask(mask_THW[index : index + 1], feather_px)[0]
        touched = alpha > 0
        weight = alpha[touched][:, None]
        source = source_THWC[index][touched].astype(np.float32)
        edited = edited_THWC[index][touched].astype(np.float32)
        result[index][touched] = np.rint(source + weight * (edited - source)).astype(np.uint8)
    return result


def outpainted_size(sides: tuple[int, int, int, int], height: int, width: int) -> tuple[int, int]:
    """(height, width) after adding (left, top, right, bottom) pixels. VideoError: negative, all zero, or too large."""
    left, top, right, bottom = sides
    shown = f"--outpaint {left},{top},{right},{bottom}"
    if min(sides) < 0 or max(sides) == 0:
        raise VideoError(f"{shown}: give the pixels to add on the left, top, right and bottom, at least one over 0")
    new_height, new_width = top + height + bottom, left + width + right
    if max(new_height, new_width) > MAX_SIDE:
        raise VideoError(f"{shown}: {new_width}x{new_height} is over {MAX_SIDE} pixels a side; add fewer pixels")
    return new_height, new_width


def outpaint(
    frames_THWC: NDArray[np.uint8], left: int, top: int, right: int, bottom: int
) -> tuple[NDArray[np.uint8], Mask]:
    """Widen the picture by so many pixels a side: (frames, mask), the border mid-grey and True in the mask.

    Mid-grey is what the model reads as "nothing known". VideoError: see outpainted_size().
    """
    num_frames, height, width, _ = frames_THWC.shape
    new_height, new_width = outpainted_size((left, top, right, bottom), height, width)
    frames = np.full((num_frames, new_height, new_width, 3), 128, np.uint8)
    mask = np.ones((num_frames, new_height, new_width), np.bool_)
    frames[:, top : top + height, left : left + width] = frames_THWC
    mask[:, top : top + height, left : left + width] = False
    return frames, mask


def _any_within(mask_THW: Mask, axis: int, size: int) -> Mask:
    """Resize one axis to `size`: True where any True pixel lies in or reaches into the new one."""
    old = mask_THW.shape[axis]
    index = np.arange(size)
    bounds = np.stack([index * old // size, -((index + 1) * -old // size)], axis=1)
    # One row of False behind the last: reduceat wants even the final bound to be an index.
    padding = [(0, int(each == axis)) for each in range(mask_THW.ndim)]
    reduced = np.logical_or.reduceat(np.pad(mask_THW, padding), bounds.ravel(), axis=axis)
    return np.take(reduced, 2 * index, axis=axis)


def _binary(grey: NDArray[np.uint8], size: tuple[int, int], level: int, invert: bool) -> Mask:
    if grey.shape != size:
        grey = np.asarray(Image.fromarray(grey).resize((size[1], size[0]), Image.Resampling.BILINEAR))
    white: Mask = grey >= level
    return ~white if invert else white


def _distance(mask: Mask, px: int) -> NDArray[np.float64]:
    """Distance of every pixel to the nearest True one, exact up to `px` and more than `px` beyond."""
    far = np.full(mask.shape, np.inf)
    box = _box_around(mask, px)
    if box is not None:
        far[box] = distance_transform_edt(~mask[box])
    return far


def _box_around(mask: Mask, px: int) -> tuple[slice, slice] | None:
    """Rows and columns of the mask grown by `px`, None for an empty one. Masks are mostly small: only there distances
    matter."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if rows.size == 0:
        return None
    return (
        slice(max(rows[0] - px, 0), rows[-1] + px + 1),
        slice(max(columns[0] - px, 0), columns[-1] + px + 1),
    )
