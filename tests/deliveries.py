"""A video through our reader and writer, as a run does it, without a model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hetcache.media.result import look_of, result_planes
from hetcache.media.source import InputOptions, Source
from hetcache.media.write import write_edit


def delivered(
    video: Path,
    count: int | None = None,
    mask_HW: NDArray[np.bool_] | None = None,
    edited: Iterable[NDArray[np.uint8]] | None = None,
    feather_px: int = 0,
    lossless: bool = False,
    options: InputOptions | None = None,
) -> Path:
    """The path of the written file, `out.mp4` beside `video`. Without a mask nothing is edited."""
    mask = video.with_name("mask.png")
    out = video.with_name("out.mp4")
    size = Source.open(video, None, InputOptions(outpaint=(2, 0, 0, 0))).info
    mask_HW = np.zeros((size.height, size.width), np.bool_) if mask_HW is None else mask_HW
    Image.fromarray(mask_HW).save(mask)
    source = Source.open(video, mask, options)
    count = source.length() if count is None else count
    look = look_of(source, count, lossless)
    planes = result_planes(source, edited, source.every_mask(count), feather_px, look, count)
    assert write_edit(out, planes, source.timeline(count), look, source.info) == count
    return out
