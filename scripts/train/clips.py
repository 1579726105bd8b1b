"""Training clips for the embedded model: real clips, photographs under a virtual camera, moving cut-outs."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


Shape = tuple[int, int, int, int]  # clips, frames, height, width


def draw(folder: Path, seed: tuple[int, ...], shape: Shape) -> Pixels:
    """A batch [B, T, H, W, 3] from the arrays of a folder; the same for the same seed, in any process."""
    sampler = shared_sampler(folder, seed)
    return np.stack([sampler.sample(*shape[1:]) for _ in range(shape[0])])


def shared_sampler(folder: Path, seed: tuple[int, ...]) -> ClipSampler:
    """This process's sampler of the folder, set to a seed."""
    sampler = _open(folder)
    sampler.rng = np.random.default_rng(seed)
    return sampler


@cache
def _open(folder: Path) -> ClipSampler:
    return ClipSampler(folder, np.random.default_rng(0))


class ClipSampler:
    """Draws uint8 clips [T, H, W, 3] from the arrays of a folder (`arrays`). Deterministic for a given `rng`.

    Of a few places at random the busiest is taken: pictures are mostly sky, and sky is soon learnt.
    """

    def __init__(self, folder: Path, rng: np.random.Generator, photo_share: float = 0.4):
        self.rng = rng
        self.photo_share = photo_share
        self.videos = [np.load(f, mmap_mode="r") for f in sorted(folder.glob("v_*.npy"))]
        self.photos = [np.load(f, mmap_mode="r") for f in sorted(folder.glob("p_*.npy"))]
        self.sprites = [np.load(f, mmap_mode="r") for f in sorted(folder.glob("s_*.npy"))]
        if not self.videos and not self.photos:
            raise ValueError(f"{folder} holds no v_*.npy or p_*.npy; run `python -m scripts.train prepare` first")

    def sample(self, frames: int, height: int, width: int) -> Pixels:
        rng = self.rng
        fits = [v for v in self.videos if v.shape[1] >= height and v.shape[2] >= width and len(v) >= frames]
        if fits and (not self.photos or rng.random() > self.photo_share):
            clip = self._from_video(fits[rng.integers(len(fits))], frames, height, width)
        else:
            clip = self._from_photo(frames, height, width)
        if frames > 1 and rng.random() < 0.25 or frames == 1 and rng.random() < 0.15:
            clip = self._add_sprite(clip)
        return self._augment(clip)

    def _from_video(self, video: Pixels, frames: int, height: int, width: int) -> Pixels:
        rng = self.rng
        stride = int(rng.choice([s for s in (1, 1, 1, 2, 3) if (frames - 1) * s + 1 <= len(video)]))
        start = rng.integers(len(video) - (frames - 1) * stride)
        zoom = rng.uniform(1.0, min(1.4, video.shape[1] / height, video.shape[2] / width)) if rng.random() < 0.4 else 1
        h, w = int(height * zoom), int(width * zoom)
        places = [(rng.integers(video.shape[1] - h + 1), rng.integers(video.shape[2] - w + 1)) for _ in range(3)]
        middle = video[start + (frames - 1) * stride // 2]
        top, left = max(places, key=lambda place: busy(middle[place[0] : place[0] + h, place[1] : place[1] + w]))
        stop = start + (frames - 1) * stride + 1
        clip = np.ascontiguousarray(video[start:stop:stride, top : top + h, left : left + w])
        if zoom > 1:
            clip = np.stack([cv2.resize(f, (width, height), interpolation=cv2.INTER_AREA) for f in clip])
        return clip[::-1] if rng.random() < 0.5 else clip

    def _from_photo(self, frames: int, height: int, width: int) -> Pixels:
        rng = self.rng
        photo = self.photos[rng.integers(len(self.photos))][0]
        limit = min(photo.shape[0] / height, photo.shape[1] / width)
        zoom = rng.uniform(min(0.9, limit), min(2.2, limit))
        speed = 0.0 if rng.random() < 0.25 else rng.gamma(1.5, 2.2)
        direction = rng.uniform(0, 2 * np.pi)
        velocity = speed * np.array([np.cos(direction), np.sin(direction)])
        jitter = np.cumsum(rng.normal(0, 0.15 * speed, (frames, 2)), axis=0)
        spin, grow = (rng.normal(0, 0.003), rng.normal(0, 0.004)) if speed and rng.random() < 0.6 else (0.0, 0.0)
        angle = rng.normal(0, 0.1)
        reach = np.array([max(photo.shape[1] - width * zoom, 1), max(photo.shape[0] - height * zoom, 1)])
        half = np.array([width, height]) * zoom / 2
        places = [half + rng.uniform(0, 1, 2) * reach for _ in range(4)]
        centre = max(places, key=lambda place: busy(_box(photo, place, half)))
        middle = (frames - 1) / 2
        clip = np.empty((frames, height, width, 3), np.uint8)
        for t in range(frames):
            a, s = angle + spin * (t - middle), zoom * np.exp(grow * (t - middle))
            c = centre + velocity * (t - middle) + jitter[t]
            m = np.array([[s * np.cos(a), -s * np.sin(a)], [s * np.sin(a), s * np.cos(a)]])
            shift = c - m @ np.array([width / 2, height / 2])
            clip[t] = cv2.warpAffine(
                photo,
                np.c_[m, shift],
                (width, height),
                borderMode=cv2.BORDER_REFLECT_101,
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            )
        return clip

    def _add_sprite(self, clip: Pixels) -> Pixels:
        rng = self.rng
        frames, height, width = clip.shape[:3]
        sprite = self._sprite()
        size = rng.uniform(0.2, 0.6) * height / sprite.shape[0]
        position = rng.uniform(0.1, 0.9, 2) * [width, height]
        velocity = rng.normal(0, 3.0, 2) if rng.random() < 0.8 else np.zeros(2)
        angle, spin = rng.normal(0, 0.2), rng.normal(0, 0.01)
        half = np.array([sprite.shape[1], sprite.shape[0]]) / 2
        clip = clip.copy()
        for t in range(frames):
            a = angle + spin * t
            m = size * np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
            shift = position + velocity * (t - frames / 2) - m @ half
            layer = cv2.warpAffine(sprite, np.c_[m, shift], (width, height), flags=cv2.INTER_AREA)
            alpha = layer[..., 3:].astype(np.float32) / 255
            clip[t] = (clip[t] * (1 - alpha) + layer[..., :3] * alpha + 0.5).astype(np.uint8)
        return clip

    def _sprite(self) -> Pixels:
        rng = self.rng
        if self.sprites and (rng.random() < 0.5 or not self.photos):
            return np.ascontiguousarray(self.sprites[rng.integers(len(self.sprites))])
        photo = self.photos[rng.integers(len(self.photos))][0]
        top, left = rng.integers(photo.shape[0] - 95), rng.integers(photo.shape[1] - 95)
        blob = cv2.resize(rng.random((5, 5)).astype(np.float32), (96, 96), interpolation=cv2.INTER_CUBIC)
        yy, xx = np.mgrid[-1:1:96j, -1:1:96j]
        alpha = np.clip((blob + 1.0 - 1.4 * np.sqrt(xx**2 + yy**2) - 0.3) * 12, 0, 1)
        return np.dstack([photo[top : top + 96, left : left + 96], (alpha * 255).astype(np.uint8)])

    def _augment(self, clip: Pixels) -> Pixels:
        rng = self.rng
        if rng.random() < 0.5:
            clip = clip[:, :, ::-1]
        if rng.random() < 0.5:
            clip = recolour(clip, rng)
        return np.ascontiguousarray(clip)


def recolour(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Another exposure, white balance and gamma, the same for all pixels."""
    gain = np.exp(rng.normal(0, 0.12) + rng.normal(0, 0.05, 3))
    table = 255 * np.clip((np.arange(256)[:, None] / 255) ** np.exp(rng.normal(0, 0.12)) * gain, 0, 1)
    table = table.astype(np.uint8)
    return np.stack([table[:, c][pixels[..., c]] for c in range(3)], -1)


def busy(image_HWC: Pixels) -> float:
    """Mean change from pixel to pixel: how much there is to code."""
    green = image_HWC[::4, :, 1].astype(np.int16)
    return float(np.abs(green[:, 1:] - green[:, :-1]).mean())


def _box(image_HWC: Pixels, centre_xy: NDArray[np.float64], half_xy: NDArray[np.float64]) -> Pixels:
    left, top = np.maximum(centre_xy - half_xy, 0).astype(int)
    right, bottom = (centre_xy + half_xy).astype(int)
    return image_HWC[top:bottom, left:right]
