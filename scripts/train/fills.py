"""Clips with a hole filled from what other frames show, made beforehand: `propagate_fill` is too slow to wait for.

`f_NNNNN.npy` holds uint8 [T, H, W, 7]: the clip, the clip with its hole filled, and the mask (0 or 1). A training
sample is a piece of one in space and time, mirrored, reversed and recoloured: the fill then still is what other frames
showed, some of them outside the piece, as the windows of a long video have it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hetcache.files import atomic_output
from hetcache.media.propagate import propagate_fill
from scripts.train.clips import ClipSampler, recolour
from scripts.train.masks import random_mask

Pixels = NDArray[np.uint8]
Filled = tuple[Pixels, Pixels, Pixels]  # clip [T, H, W, 3], mask [T, H, W], the clip filled

# Frames, height, width and how often: most of the time goes into the large ones.
SIZES = (((33, 160, 256), 0.45), ((33, 128, 208), 0.35), ((33, 240, 416), 0.2))
# A fill that found less of its hole than this in other frames is push-pull by another name.
LEAST_SEEN = 0.15
MASKED = (0.03, 0.5)


def make_fills(data: Path, count: int, seed: int = 0) -> int:
    """Adds to the folder's `f_*.npy` until there are `count`; returns how many are new."""
    sampler = ClipSampler(data, np.random.default_rng(0))
    made = 0
    for index in range(count):
        path = data / f"f_{index:05d}.npy"
        if path.exists():
            continue
        sampler.rng = np.random.default_rng((5, seed, index))
        with atomic_output(path) as temporary, temporary.open("wb") as file:
            np.save(file, _one(sampler))
        made += 1
    return made


def _one(sampler: ClipSampler) -> Pixels:
    rng = sampler.rng
    while True:
        shape = SIZES[rng.choice(len(SIZES), p=[share for _, share in SIZES])][0]
        clip, mask = sampler.sample(*shape), random_mask(rng, *shape)
        filled = propagate_fill(clip, mask > 0)
        if filled.seen_THW[mask > 0].astype(bool).mean() >= LEAST_SEEN:
            return np.concatenate([clip, filled.frames_THWC, mask[..., None]], axis=-1)


def piece(
    folder: Path, rng: np.random.Generator, frames: int, height: int, width: int, tries: int = 8
) -> Filled | None:
    """A piece of that shape, of a clip drawn at random; None where no clip has one with a mask of a fair size."""
    stored = [a for a in _open(folder) if a.shape[0] >= frames and a.shape[1] >= height and a.shape[2] >= width]
    for _ in range(tries if stored else 0):
        array = stored[rng.integers(len(stored))]
        starts = [
            rng.integers(have - want + 1) for have, want in zip(array.shape, (frames, height, width), strict=False)
        ]
        cut = tuple(slice(start, start + want) for start, want in zip(starts, (frames, height, width), strict=True))
        if MASKED[0] <= array[cut][..., 6].mean() <= MASKED[1]:
            return _varied(np.ascontiguousarray(array[cut]), rng)
    return None


def _varied(cut_THW7: Pixels, rng: np.random.Generator) -> Filled:
    if rng.random() < 0.5:
        cut_THW7 = cut_THW7[:, :, ::-1]
    if rng.random() < 0.5:
        cut_THW7 = cut_THW7[::-1]
    pixels = np.stack([cut_THW7[..., :3], cut_THW7[..., 3:6]])
    if rng.random() < 0.5:
        pixels = recolour(pixels, rng)
    return np.ascontiguousarray(pixels[0]), np.ascontiguousarray(cut_THW7[..., 6]), np.ascontiguousarray(pixels[1])


def has_fills(folder: Path) -> bool:
    return bool(_open(folder))


@cache
def _open(folder: Path) -> list[Pixels]:
    return [np.load(path, mmap_mode="r") for path in sorted(folder.glob("f_*.npy"))]
