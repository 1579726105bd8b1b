"""Random masks and automatic captions for training the embedded model."""

from __future__ import annotations

import cv2
import numpy as np


def random_mask(rng: np.random.Generator, frames: int, height: int, width: int) -> np.ndarray:
    """Boxes, ellipses, blobs and strokes, still or moving: uint8 [T, H, W] of 0 and 1, 3 to 45 % of the area."""
    for _ in range(20):
        mask = _one(rng, frames, height, width)
        if rng.random() < 0.2:
            mask |= _one(rng, frames, height, width)
        if 0.03 <= mask.mean() <= 0.45:
            return mask
    mask = np.zeros((frames, height, width), np.uint8)
    mask[:, height // 4 : -height // 4, width // 4 : -width // 4] = 1
    return mask


def _one(rng: np.random.Generator, frames: int, height: int, width: int) -> np.ndarray:
    kind = rng.choice(["box", "ellipse", "blob", "strokes"], p=[0.35, 0.15, 0.35, 0.15])
    size = np.sqrt(rng.uniform(0.04, 0.42)) * np.exp(rng.normal(0, 0.25) * np.array([1, -1]))
    h, w = np.clip((size * [height, width]).astype(int), 12, [height, width])
    canvas = np.zeros((h, w), np.uint8)
    if kind == "box":
        canvas[:] = 1
    elif kind == "ellipse":
        cv2.ellipse(canvas, (w // 2, h // 2), (w // 2, h // 2), 0, 0, 360, 1, -1)
    elif kind == "blob":
        noise = cv2.resize(rng.random((4, 4)).astype(np.float32), (w, h), interpolation=cv2.INTER_CUBIC)
        yy, xx = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j]
        canvas[noise - 0.55 * (xx**2 + yy**2) > 0.08] = 1
    else:
        points = (rng.random((rng.integers(3, 9), 2)) * [w, h]).astype(np.int32)
        cv2.polylines(canvas, [points], False, 1, int(rng.integers(8, max(10, min(h, w) // 3))))
    centre = rng.uniform(0.15, 0.85, 2) * [width, height]
    if rng.random() < 0.25:
        centre = np.array([width, height]) / 2
    moving = frames > 1 and rng.random() < 0.55
    velocity = rng.normal(0, 1.6, 2) if moving else np.zeros(2)
    pulse, phase = (rng.uniform(0, 0.15), rng.uniform(0, 6)) if moving else (0.0, 0.0)
    mask = np.zeros((frames, height, width), np.uint8)
    for t in range(frames):
        if t and not moving:
            mask[t] = mask[0]
            continue
        s = 1 + pulse * np.sin(phase + 0.4 * t)
        shift = centre + velocity * (t - frames / 2) - s * np.array([w, h]) / 2
        mask[t] = cv2.warpAffine(
            canvas, np.array([[s, 0, shift[0]], [0, s, shift[1]]]), (width, height), flags=cv2.INTER_NEAREST
        )
    return mask


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
