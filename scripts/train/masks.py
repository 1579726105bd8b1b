"""Random masks for training the embedded model."""

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
