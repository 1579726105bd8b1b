"""Clips that anyone can make again: procedural scenes with motion, detail and occlusion, and a mask for each.

`write_clips(folder)` writes NAME/00000.png and NAME_mask/00000.png of every scene, drawn from fixed seeds with NumPy
and OpenCV alone: no camera footage, nothing to license. They are no photographs; they have what matters to a cache:
detail at all scales, edges, several motions at once, and things that disappear behind others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

FRAMES, HEIGHT, WIDTH = 33, 240, 416
SUBPIXELS = 4
"""Bits of a fraction of a pixel with which OpenCV draws discs, so that they move smoothly."""

Frames = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Picture = NDArray[np.float32]


def noise(rng: np.random.Generator, height: int, width: int, coarsest: int = 6, falloff: float = 0.55) -> Picture:
    """[H, W] from 0 to 1: smooth noise of many scales, from `coarsest` cells across down to single pixels."""
    total, weight, amplitude, cells = np.zeros((height, width), np.float32), 0.0, 1.0, coarsest
    while cells < width:
        grid = rng.random((max(2, round(cells * height / width)), cells), dtype=np.float32)
        total += amplitude * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        weight += amplitude
        amplitude, cells = amplitude * falloff, cells * 2
    low, high = float(total.min()), float(total.max())
    return ((total - low) / (high - low)).astype(np.float32)


def surface(seed: int, height: int, width: int, palette: list[tuple[int, int, int]], edges: int = 4) -> Picture:
    """[H, W, 3] from 0 to 255: patches of the palette's colours with sharp borders, shaded by finer noise."""
    rng = np.random.default_rng(seed)
    patches = np.minimum((noise(rng, height, width) * edges * 1.2).astype(int), edges - 1)
    colours = np.asarray(palette, np.float32)[patches % len(palette)]
    shade = 0.55 + 0.8 * noise(rng, height, width, 24, 0.75)
    grain = rng.normal(0, 4, (height, width, 1)).astype(np.float32)
    return np.clip(colours * shade[..., None] + grain, 0, 255).astype(np.float32)


def bricks(seed: int, height: int, width: int, brick: int = 36) -> Picture:
    """[H, W, 3]: a wall, each stone with a tone of its own."""
    rng = np.random.default_rng(seed)
    wall = surface(seed + 1, height, width, [(150, 95, 70), (165, 110, 85), (140, 90, 75)])
    for row, top in enumerate(range(0, height, brick // 2)):
        for left in range(-(row % 2) * brick // 2, width, brick):
            stone = slice(top, top + brick // 2), slice(max(left, 0), left + brick)
            wall[stone] *= 0.7 + 0.5 * rng.random()
            wall[top : top + 2, stone[1]] = wall[stone[0], max(left, 0) : max(left, 0) + 2] = (190, 185, 175)
    return np.clip(wall, 0, 255).astype(np.float32)


def view(canvas: Picture, centre: tuple[float, float], zoom: float = 1.0, degrees: float = 0.0) -> Picture:
    """[HEIGHT, WIDTH, 3]: what a camera sees of the canvas around `centre` (x, y)."""
    matrix = cv2.getRotationMatrix2D(centre, degrees, zoom)
    matrix[:, 2] += WIDTH / 2 - centre[0], HEIGHT / 2 - centre[1]
    seen = cv2.warpAffine(canvas, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return seen.astype(np.float32)


def disc(centre: tuple[float, float], radius: float) -> Picture:
    """[HEIGHT, WIDTH] from 0 to 1, its border smooth."""
    one, layer = 1 << SUBPIXELS, np.zeros((HEIGHT, WIDTH), np.uint8)
    at = round(centre[0] * one), round(centre[1] * one)
    cv2.circle(layer, at, round(radius * one), 255, -1, cv2.LINE_AA, SUBPIXELS)
    return (layer / np.float32(255)).astype(np.float32)


def laid_over(frame: Picture, picture: Picture, alpha: Picture) -> Picture:
    return (frame * (1 - alpha[..., None]) + picture * alpha[..., None]).astype(np.float32)


def box(centre: tuple[float, float], height: int, width: int) -> Mask:
    """[HEIGHT, WIDTH]: a rectangle around `centre` (x, y), cut off at the picture's border."""
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    left, top = round(centre[0] - width / 2), round(centre[1] - height / 2)
    mask[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)] = True
    return mask


def pan(t: int) -> tuple[Picture, Mask]:
    """The camera passes over rocky ground, 4 pixels a frame; a still box in the picture, 12 %."""
    ground = surface(11, 320, 620, [(96, 110, 70), (140, 120, 90), (80, 84, 88), (170, 160, 130)], 6)
    centre = (WIDTH / 2 + 4.0 * t, 160 + 6 * math.sin(t / 5))
    return view(ground, centre), box((260, 130), 96, 124)


def balls(t: int) -> tuple[Picture, Mask]:
    """A still camera, three balls that pass each other and a post; the mask goes with one of them, 4 %."""
    frame = surface(21, HEIGHT, WIDTH, [(70, 100, 120), (110, 140, 150), (60, 80, 70)], 5)
    ways = [
        ((60 + 8.5 * t, 150 + 30 * math.sin(t / 6)), 30, 22, [(200, 60, 50), (230, 200, 60)]),
        ((370 - 6.0 * t, 90 + 2.0 * t), 24, 23, [(60, 160, 90), (240, 240, 230)]),
        ((210 + 60 * math.cos(t / 7), 60 + 40 * math.sin(t / 7)), 20, 24, [(90, 70, 190), (220, 120, 200)]),
    ]
    for (x, y), radius, seed, palette in reversed(ways):
        # The texture turns with the ball as it rolls.
        skin = view(surface(seed, HEIGHT, WIDTH, palette, 6), (WIDTH / 2, HEIGHT / 2), 1.0, 4.0 * t)
        shift = np.array([[1, 0, x - WIDTH / 2], [0, 1, y - HEIGHT / 2]], np.float64)
        skin = cv2.warpAffine(skin, shift, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT).astype(np.float32)
        frame = laid_over(frame, skin, disc((x, y), radius))
    post = surface(25, HEIGHT, WIDTH, [(120, 90, 60), (90, 70, 50)], 4)
    frame = laid_over(frame, post, box((250, 120), HEIGHT, 22).astype(np.float32))
    return frame, disc(ways[0][0], 36) > 0


def zoom(t: int) -> tuple[Picture, Mask]:
    """The camera nears a wall and turns; a still ellipse in the picture, 33 %."""
    seen = view(bricks(31, 480, 832), (416 + 1.5 * t, 240), 0.9 + 0.012 * t, 0.25 * t)
    ellipse = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.ellipse(ellipse, (WIDTH // 2, HEIGHT // 2), (132, 80), 0, 0, 360, 1, -1)
    return seen, ellipse > 0


def water(t: int) -> tuple[Picture, Mask]:
    """Waves that bend a bed of pebbles, and a raft that drifts; a box that moves with the raft, 20 %."""
    bed = surface(41, HEIGHT, WIDTH, [(60, 110, 130), (90, 140, 140), (50, 90, 110), (130, 150, 130)], 8)
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    waves = np.sin(x / 23 + t / 3) * 3 + np.sin((x + 2 * y) / 37 - t / 4) * 4
    seen = cv2.remap(
        bed, x + waves, y + 0.6 * waves + np.float32(0.8 * t), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )
    frame = np.clip(seen * (1 + 0.05 * waves[..., None]), 0, 255).astype(np.float32)
    centre = (150 + 3.5 * t, 110 + 14 * math.sin(t / 6))
    raft = surface(42, HEIGHT, WIDTH, [(170, 120, 70), (200, 160, 100)], 4)
    return laid_over(frame, raft, box(centre, 70, 110).astype(np.float32)), box(centre, 128, 156)


SCENES: dict[str, Callable[[int], tuple[Picture, Mask]]] = {"pan": pan, "balls": balls, "zoom": zoom, "water": water}


def make(name: str, count: int = FRAMES) -> tuple[Frames, Mask]:
    """(frames [T, H, W, 3], mask [T, H, W]) of a scene."""
    pairs = [SCENES[name](t) for t in range(count)]
    frames = np.stack([np.clip(np.rint(frame), 0, 255).astype(np.uint8) for frame, _ in pairs])
    return frames, np.stack([mask for _, mask in pairs])


def write_clips(folder: Path) -> None:
    """Every scene that is not there yet: a folder of PNG files each for the frames and for the mask."""
    for name in SCENES:
        done = folder / name / f"{FRAMES - 1:05d}.png"
        if done.is_file():
            continue
        frames, mask = make(name)
        for kind, pictures in (
            (f"{name}_mask", np.repeat(mask[..., None] * np.uint8(255), 3, axis=3)),
            (name, frames),
        ):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            for index, picture in enumerate(pictures):
                cv2.imwrite(str(folder / kind / f"{index:05d}.png"), picture[..., ::-1])
