"""Attribute words of what a clip shows inside a mask."""

from __future__ import annotations

import cv2
import numpy as np


def caption(clip_THWC: np.ndarray, mask_THW: np.ndarray) -> list[str]:
    """Attribute words (see `tiny_text.ATTRIBUTES`) of what a uint8 RGB clip shows inside the mask."""
    step = max(1, len(clip_THWC) // 5)
    frames, inside = clip_THWC[::step].astype(np.float32), mask_THW[::step] > 0
    if not inside.any():
        return []
    pixels = frames[inside]
    red, green, blue = pixels.mean(0)
    luma = frames @ np.array([0.299, 0.587, 0.114], np.float32)
    chroma = float((pixels.max(1) - pixels.min(1)).mean())
    words = [
        _bucket(float(luma[inside].mean()), (40, 90, 150, 205), ("black", "dark", "medium", "bright", "white")),
        _hue(red, green, blue),
        _bucket(red - blue, (-20, 20), ("cold", "neutral", "warm")),
    ]
    if chroma < 25 or chroma > 70:
        words.append("pale" if chroma < 25 else "colourful")
    detail = np.stack([np.abs(f - cv2.GaussianBlur(f, (0, 0), 2)) for f in luma])[inside].mean()
    words.append(_bucket(float(detail), (2, 5), ("smooth", "soft", "textured")))
    spread = float(luma[inside].std())
    if spread < 12 or spread > 45:
        words.append("uniform" if spread < 12 else "contrasted")
    if len(clip_THWC) > 1:
        pair = clip_THWC[:-1:step].astype(np.int16) - clip_THWC[1::step].astype(np.int16)
        both = mask_THW[:-1:step] > 0
        change = float(np.abs(pair[both]).mean()) if both.any() else 0.0
        words.append(_bucket(change, (1.5, 5), ("still", "slow", "moving")))
    rows = np.nonzero(inside.any((0, 2)))[0]
    middle = (rows[0] + rows[-1]) // 2
    top, bottom = inside.copy(), inside.copy()
    top[:, middle:], bottom[:, :middle] = False, False
    if top.any() and bottom.any():
        tilt = float(luma[top].mean() - luma[bottom].mean())
        if abs(tilt) > 20:
            words.append("lighter-top" if tilt > 0 else "darker-top")
    return words


def _bucket(value: float, limits: tuple[float, ...], names: tuple[str, ...]) -> str:
    return names[int(np.searchsorted(limits, value))]


def _hue(red: float, green: float, blue: float) -> str:
    high, low = max(red, green, blue), min(red, green, blue)
    if high - low < 18:
        return "grey"
    pixel = np.array([[[red, green, blue]]], np.float32) / 255
    hue = float(cv2.cvtColor(pixel, cv2.COLOR_RGB2HSV)[0, 0, 0])
    limits, names = (
        (15, 45, 70, 165, 195, 260, 345),
        ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "red"),
    )
    return _bucket(hue, limits, names)
