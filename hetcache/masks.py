"""Masks [T, H, W] bool, True = edit: read, grown, feathered, resized, and the composite they govern."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import distance_transform_edt

from hetcache.video_ffmpeg import VideoError
from hetcache.video_read import StrPath, iter_frames, largest_4k_plus_1, probe

Mask = NDArray[np.bool_]
Extend = Literal["error", "hold", "loop"]


def read_mask(
    path: StrPath,
    count: int,
    size: tuple[int, int],
    threshold: int = 128,
    invert: bool = False,
    extend: Extend = "error",
    start: int = 0,
) -> Mask:
    """Read `count` masks as [T, H, W] bool, True where the pixel is white (= edit), from frame `start`.

    `size` = (height, width) of the video. Grey is 0.299 R + 0.587 G + 0.114 B; a mask of another size is
    stretched to the video's with an antialiasing filter, and a pixel is True where grey >= `threshold` (1 to
    255); `invert` then swaps. An image holds for all frames. A video or folder shorter than asked is a
    VideoError unless `extend` is "hold" (the last mask stays) or "loop" (it begins again).
    """
    if not 1 <= threshold <= 255:
        raise VideoError(f"mask threshold {threshold}: must be from 1 to 255")
    if count < 1:
        raise ValueError(f"count {count} must be positive")
    info = probe(path, "mask")
    if info.kind == "image":
        frame = next(iter_frames(path, what="mask"))
        return np.repeat(_binary(frame, size, threshold, invert)[None], count, axis=0)
    # A loop needs the first frames too, and a held mask the last one, which may lie before `start`.
    first = start if extend == "error" else 0
    stream = iter_frames(path, first, start + count - first, what="mask")
    masks = [_binary(frame, size, threshold, invert) for frame in islice(stream, start + count - first)]
    if len(masks) < start + count - first:
        masks = _extended(masks, start + count, extend, path, asked=count)
    return np.stack(masks[start - first :])


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
        distance = _distance(mask, px)
        ramp = np.where(distance <= px, 1.0 - distance / (px + 1.0), 0.0)
        alpha[index] = ramp * ramp * (3.0 - 2.0 * ramp)
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
    resized = np.empty((len(mask_THW), height, width), np.bool_)
    for index, mask in enumerate(mask_THW):
        grid = torch.from_numpy(np.ascontiguousarray(mask)).to(torch.float32)[None]
        resized[index] = F.adaptive_max_pool2d(grid, (height, width))[0].numpy() > 0
    return resized


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


def _binary(frame: NDArray[np.uint8], size: tuple[int, int], threshold: int, invert: bool) -> Mask:
    grey = Image.fromarray(frame).convert("L")
    if frame.shape[:2] != size:
        grey = grey.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    white: Mask = np.asarray(grey) >= threshold
    return ~white if invert else white


def _extended(masks: list[Mask], count: int, extend: Extend, path: StrPath, asked: int) -> list[Mask]:
    if not masks:
        raise VideoError(f"mask {path}: has no frame there; give a mask as long as the video")
    if extend == "error":
        fits = largest_4k_plus_1(len(masks))
        raise VideoError(
            f"mask {Path(path)}: {asked} frames asked, {len(masks)} there;"
            f" use --frames {fits} or fewer, or --mask-extend hold|loop"
        )
    if extend == "hold":
        return masks + [masks[-1]] * (count - len(masks))
    if extend == "loop":
        return [masks[index % len(masks)] for index in range(count)]
    raise VideoError(f"mask extension {extend!r}: must be error, hold or loop")


def _distance(mask: Mask, px: int) -> NDArray[np.float64]:
    """Distance of every pixel to the nearest True one, exact up to `px` and more than `px` beyond."""
    far = np.full(mask.shape, np.inf)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if rows.size == 0:
        return far
    # Masks are mostly small: only their box, grown by px, needs the transform.
    box = (
        slice(max(rows[0] - px, 0), rows[-1] + px + 1),
        slice(max(columns[0] - px, 0), columns[-1] + px + 1),
    )
    far[box] = distance_transform_edt(~mask[box])
    return far
