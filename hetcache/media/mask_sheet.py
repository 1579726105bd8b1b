"""A picture of a mask over its video: a few frames side by side, the mask tinted and outlined."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import binary_erosion

TINT_RGB = (255, 40, 40)
TINT_WEIGHT = 0.45
OUTLINE_RGB = (255, 255, 0)
MAX_FRAMES = 6
FRAME_WIDTH = 320
CAPTION_HEIGHT = 16
COLUMNS = 3


def mask_sheet(
    frames_THWC: NDArray[np.uint8], mask_THW: NDArray[np.bool_], numbers: Sequence[int] | None = None
) -> Image.Image:
    """Up to six frames, evenly spread from the first to the last, each with its number (by default its place) and its
    mask's share."""
    count = min(MAX_FRAMES, len(frames_THWC))
    picked = np.unique(np.linspace(0, len(frames_THWC) - 1, count).round().astype(int))
    height, width = frames_THWC.shape[1:3]
    scale = min(1.0, FRAME_WIDTH / width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    columns = min(COLUMNS, len(picked))
    rows = -(-len(picked) // columns)
    sheet = Image.new("RGB", (columns * size[0], rows * (size[1] + CAPTION_HEIGHT)))
    draw = ImageDraw.Draw(sheet)
    for place, index in enumerate(picked):
        left, top = place % columns * size[0], place // columns * (size[1] + CAPTION_HEIGHT)
        caption = f"frame {index if numbers is None else numbers[index]}: {mask_THW[index].mean():.1%}"
        draw.text((left + 2, top + 2), caption, fill=(255, 255, 255))
        picture = tinted(frames_THWC[index], mask_THW[index], max(1, round(1 / scale)))
        sheet.paste(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR), (left, top + CAPTION_HEIGHT))
    return sheet


def tinted(frame: NDArray[np.uint8], mask: NDArray[np.bool_], outline_px: int = 1) -> NDArray[np.uint8]:
    """[H, W, 3] uint8 with the mask [H, W] tinted and its inner border of `outline_px` drawn; the rest as it is."""
    result = np.array(frame)
    blended = frame[mask] * (1 - TINT_WEIGHT) + np.array(TINT_RGB) * TINT_WEIGHT
    result[mask] = blended.round().astype(np.uint8)
    inside = binary_erosion(mask, iterations=outline_px, border_value=1)
    result[mask & ~inside] = OUTLINE_RGB
    return result
