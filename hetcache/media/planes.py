"""Pictures as the planes of a video file: read as they are stored, and the edit put into them.

What the mask and its feather do not touch goes from the source's planes to the output's without a change: no other
matrix, no other chroma, no 8 bit.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hetcache.media import ffmpeg as ff
from hetcache.media.colour import Colour
from hetcache.media.pixels import PixelFormat
from hetcache.media.probe import VideoInfo
from hetcache.media.read import trim

Planes = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]
"""Luma [H, W] and two chroma planes [H / rows, W / columns], uint8 or (10 bit) uint16."""


def empty_planes(pixels: PixelFormat, height: int, width: int) -> Planes:
    """Planes of any values."""
    dtype = np.uint8 if pixels.bits == 8 else np.uint16
    chroma = height // pixels.rows, width // pixels.columns
    return np.empty((height, width), dtype), np.empty(chroma, dtype), np.empty(chroma, dtype)


def iter_planes(info: VideoInfo, pixels: PixelFormat, count: int) -> Generator[Planes, None, None]:
    """The first `count` frames of a video file in the format `pixels`, upright; where that is the source's own, its
    values to the bit. Ends early with the file."""
    colour = info.colour
    span = f"in_range={colour.range}:out_range={colour.range}"
    matrix = f"in_color_matrix={colour.scale_matrix}:out_color_matrix={colour.scale_matrix}"
    flags = "flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
    args = [*ff.base_args(), "-max_pixels", str(ff.MAX_SIDE**2), *ff.input_args(info.path), "-map", "0:V:0"]
    filters = [trim(0, count), f"scale={matrix}:{span}:interl={int(info.interlaced)}:{flags}", f"format={pixels.name}"]
    args += ["-vf", ",".join(filters), "-fps_mode", "passthrough", "-c:v", "rawvideo", "-f", "rawvideo", "-"]
    shapes = [plane.shape for plane in empty_planes(pixels, info.height, info.width)]
    dtype = np.dtype("u1" if pixels.bits == 8 else "<u2")
    sizes = [shape[0] * shape[1] * dtype.itemsize for shape in shapes]
    with ff.spawn(args, feed=False) as (process, _):
        assert process.stdout is not None
        while len(data := process.stdout.read(sum(sizes))) == sum(sizes):
            bounds = np.cumsum([0, *sizes])
            y, u, v = (
                np.frombuffer(data[a:b], dtype).reshape(shape)
                for a, b, shape in zip(bounds, bounds[1:], shapes, strict=False)
            )
            yield y, u, v


def to_planes(rgb_HWC: NDArray[Any], pixels: PixelFormat, colour: Colour, interlaced: bool = False) -> Planes:
    """RGB [H, W, 3], uint8 or float in 0..1, as planes (of RGB: G, B, R). Chroma lies on the left
    sample of its pair, and halfway between two rows (of one field, if interlaced), as in MPEG-2 and later."""
    if interlaced and pixels.rows > 1:
        return _woven(*(to_planes(rgb_HWC[field::2], pixels, colour) for field in (0, 1)))
    rgb: NDArray[Any] = rgb_HWC.astype(np.float32)
    if rgb_HWC.dtype == np.uint8:
        rgb = rgb / np.float32(255)
    if pixels.family == "rgb":
        r, g, b = (_quantised(255 * rgb[..., channel], 255, np.uint8) for channel in range(3))
        return g, b, r
    red, blue = colour.weights
    luma = red * rgb[..., 0] + (1 - red - blue) * rgb[..., 1] + blue * rgb[..., 2]
    chroma = (rgb[..., 2] - luma) / (2 * (1 - blue)), (rgb[..., 0] - luma) / (2 * (1 - red))
    top = (1 << pixels.bits) - 1
    scale = 1 << (pixels.bits - 8)
    grey, span, zero = (128 * scale, top, 0) if colour.range == "pc" else (128 * scale, 224 * scale, 16 * scale)
    gain = top if colour.range == "pc" else 219 * scale
    dtype = np.uint8 if pixels.bits == 8 else np.uint16
    u, v = (_quantised(grey + span * _fewer(c, pixels), top, dtype) for c in chroma)
    return _quantised(zero + gain * luma, top, dtype), u, v


def blend(source: Planes, edit: Planes, alpha_HW: NDArray[np.float32], pixels: PixelFormat, interlaced: bool) -> Planes:
    """The edit where `alpha` is 1, the source where it is 0, to the bit. A chroma sample has the mean alpha of the
    pixels that it covers."""
    if interlaced and pixels.rows > 1:
        fields = [blend(_field(source, f), _field(edit, f), alpha_HW[f::2], pixels, interlaced=False) for f in (0, 1)]
        return _woven(*fields)
    height, width = alpha_HW.shape
    cells = alpha_HW.reshape(height // pixels.rows, pixels.rows, width // pixels.columns, pixels.columns)
    coarse_HW = cells.mean(axis=(1, 3))
    y, u, v = (_mixed(old, new, w) for old, new, w in zip(source, edit, (alpha_HW, coarse_HW, coarse_HW), strict=True))
    return y, u, v


def paste(canvas: Planes, picture: Planes, top: int, left: int, pixels: PixelFormat) -> None:
    """Put `picture` into `canvas` at a place that is a whole number of chroma samples."""
    for plane, part, rows, columns in zip(
        canvas, picture, (1, pixels.rows, pixels.rows), (1, *[pixels.columns] * 2), strict=True
    ):
        y, x = top // rows, left // columns
        plane[y : y + part.shape[0], x : x + part.shape[1]] = part


def _mixed(old: NDArray[Any], new: NDArray[Any], weight: NDArray[np.float32]) -> NDArray[Any]:
    result = np.array(old)
    touched = weight > 0
    before = old[touched].astype(np.float32)
    result[touched] = np.rint(before + weight[touched] * (new[touched].astype(np.float32) - before)).astype(old.dtype)
    return result


def _quantised(values: NDArray[Any], top: int, dtype: type) -> NDArray[Any]:
    levels: NDArray[Any] = np.rint(values).clip(0, top).astype(dtype)
    return levels


def _fewer(chroma_HW: NDArray[Any], pixels: PixelFormat) -> NDArray[Any]:
    if pixels.columns == 2:
        padded = np.pad(chroma_HW, ((0, 0), (1, 1)), mode="edge")
        chroma_HW = (padded[:, :-2:2] + 2 * padded[:, 1:-1:2] + padded[:, 2::2]) / 4
    if pixels.rows == 2:
        chroma_HW = (chroma_HW[::2] + chroma_HW[1::2]) / 2
    return chroma_HW


def _field(planes: Planes, field: int) -> Planes:
    y, u, v = (plane[field::2] for plane in planes)
    return y, u, v


def _woven(first: Planes, second: Planes) -> Planes:
    woven = []
    for even, odd in zip(first, second, strict=True):
        plane = np.empty((len(even) + len(odd), even.shape[1]), even.dtype)
        plane[::2], plane[1::2] = even, odd
        woven.append(plane)
    return woven[0], woven[1], woven[2]
