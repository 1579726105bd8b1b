"""Training clips for the embedded model: real clips, photographs under a virtual camera, moving sprites.

`prepare` decodes folders of videos, photographs and cut-outs (PNG with alpha) once into uint8 arrays:
`v_*.npy` clips [T, H, W, 3], `p_*.npy` photographs [1, H, W, 3], `s_*.npy` sprites [H, W, 4].
`ClipSampler` then draws random crops of any size from them.
"""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np

VIDEO_HEIGHTS = (256, 160)
PHOTO_HEIGHTS = (384, 900)
SPRITE_HEIGHT = 160


def prepare(folders: list[Path], out: Path, skip_frames: dict[str, int] | None = None) -> int:
    """Decodes every readable file below `folders` into `out`; returns how many arrays were written.

    `skip_frames` maps a file name to the number of leading frames to leave out (kept for other uses).
    """
    out.mkdir(parents=True, exist_ok=True)
    written = 0
    for path in sorted(p for folder in folders for p in folder.rglob("*") if p.is_file()):
        stem = re.sub(r"\W+", "_", path.stem)[:32]
        if path.suffix.lower() in {".mp4", ".avi", ".mov", ".mkv", ".webm"}:
            frames = _read_video(path)[(skip_frames or {}).get(path.name, 0) :]
            for height in VIDEO_HEIGHTS if len(frames) else ():
                np.save(out / f"v_{stem}_{height}.npy", np.stack([_shrink(f, height) for f in frames]))
                written += 1
        elif path.suffix.lower() in {".jpg", ".jpeg", ".png", ".webp"}:
            written += _prepare_image(path, out, stem)
    return written


def _prepare_image(path: Path, out: Path, stem: str) -> int:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None or image.ndim != 3 or image.dtype != np.uint8 or min(image.shape[:2]) < 64:
        return 0
    if image.shape[2] == 4 and (image[..., 3] < 128).mean() > 0.05:
        sprite = _shrink(cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA), SPRITE_HEIGHT)
        np.save(out / f"s_{stem}.npy", sprite)
        return 1
    if min(image.shape[:2]) < 240:
        return 0
    image = cv2.cvtColor(image[..., :3], cv2.COLOR_BGR2RGB)
    heights = [h for h in PHOTO_HEIGHTS if h == PHOTO_HEIGHTS[0] or image.shape[0] >= h]
    for height in heights:
        np.save(out / f"p_{stem}_{height}.npy", _shrink(image, height)[None])
    return len(heights)


def _read_video(path: Path) -> list[np.ndarray]:
    capture, frames = cv2.VideoCapture(str(path)), []
    while True:
        ok, frame = capture.read()
        if not ok:
            return frames
        frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))


def _shrink(image: np.ndarray, height: int) -> np.ndarray:
    if image.shape[0] <= height:
        return image
    return cv2.resize(image, (round(image.shape[1] * height / image.shape[0]), height), interpolation=cv2.INTER_AREA)


class ClipSampler:
    """Draws uint8 clips [T, H, W, 3]. Deterministic for a given `rng`."""

    def __init__(self, folder: Path, rng: np.random.Generator, photo_share: float = 0.4):
        self.rng = rng
        self.photo_share = photo_share
        self.videos = [np.load(f, mmap_mode="r") for f in sorted(folder.glob("v_*.npy"))]
        self.photos = [np.load(f, mmap_mode="r") for f in sorted(folder.glob("p_*.npy"))]
        self.sprites = [np.load(f, mmap_mode="r") for f in sorted(folder.glob("s_*.npy"))]
        if not self.videos and not self.photos:
            raise ValueError(f"{folder} holds no v_*.npy or p_*.npy; run the prepare step first")

    def sample(self, frames: int, height: int, width: int) -> np.ndarray:
        rng = self.rng
        fits = [v for v in self.videos if v.shape[1] >= height and v.shape[2] >= width and len(v) >= frames]
        if fits and (not self.photos or rng.random() > self.photo_share):
            clip = self._from_video(fits[rng.integers(len(fits))], frames, height, width)
        else:
            clip = self._from_photo(frames, height, width)
        if frames > 1 and rng.random() < 0.25 or frames == 1 and rng.random() < 0.15:
            clip = self._add_sprite(clip)
        return self._augment(clip)

    def _from_video(self, video: np.ndarray, frames: int, height: int, width: int) -> np.ndarray:
        rng = self.rng
        stride = int(rng.choice([s for s in (1, 1, 1, 2, 3) if (frames - 1) * s + 1 <= len(video)]))
        start = rng.integers(len(video) - (frames - 1) * stride)
        zoom = rng.uniform(1.0, min(1.4, video.shape[1] / height, video.shape[2] / width)) if rng.random() < 0.4 else 1
        h, w = int(height * zoom), int(width * zoom)
        top, left = rng.integers(video.shape[1] - h + 1), rng.integers(video.shape[2] - w + 1)
        stop = start + (frames - 1) * stride + 1
        clip = np.ascontiguousarray(video[start:stop:stride, top : top + h, left : left + w])
        if zoom > 1:
            clip = np.stack([cv2.resize(f, (width, height), interpolation=cv2.INTER_AREA) for f in clip])
        return clip[::-1] if rng.random() < 0.5 else clip

    def _from_photo(self, frames: int, height: int, width: int) -> np.ndarray:
        rng = self.rng
        photo = self.photos[rng.integers(len(self.photos))][0]
        limit = min(photo.shape[0] / height, photo.shape[1] / width)
        zoom = rng.uniform(min(0.8, limit), min(1.6, limit))
        speed = 0.0 if rng.random() < 0.25 else rng.gamma(1.5, 1.5)
        direction = rng.uniform(0, 2 * np.pi)
        velocity = speed * np.array([np.cos(direction), np.sin(direction)])
        jitter = np.cumsum(rng.normal(0, 0.15 * speed, (frames, 2)), axis=0)
        spin, grow = (rng.normal(0, 0.003), rng.normal(0, 0.004)) if speed and rng.random() < 0.6 else (0.0, 0.0)
        angle = rng.normal(0, 0.1)
        reach = np.array([max(photo.shape[1] - width * zoom, 1), max(photo.shape[0] - height * zoom, 1)])
        centre = np.array([width, height]) * zoom / 2 + rng.uniform(0, 1, 2) * reach
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

    def _add_sprite(self, clip: np.ndarray) -> np.ndarray:
        rng = self.rng
        frames, height, width = clip.shape[:3]
        sprite = self._sprite()
        size = rng.uniform(0.2, 0.6) * height / sprite.shape[0]
        position = rng.uniform(0.1, 0.9, 2) * [width, height]
        velocity = rng.normal(0, 2.0, 2) if rng.random() < 0.8 else np.zeros(2)
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

    def _sprite(self) -> np.ndarray:
        rng = self.rng
        if self.sprites and (rng.random() < 0.5 or not self.photos):
            return np.ascontiguousarray(self.sprites[rng.integers(len(self.sprites))])
        photo = self.photos[rng.integers(len(self.photos))][0]
        top, left = rng.integers(photo.shape[0] - 95), rng.integers(photo.shape[1] - 95)
        blob = cv2.resize(rng.random((5, 5)).astype(np.float32), (96, 96), interpolation=cv2.INTER_CUBIC)
        yy, xx = np.mgrid[-1:1:96j, -1:1:96j]
        alpha = np.clip((blob + 1.0 - 1.4 * np.sqrt(xx**2 + yy**2) - 0.3) * 12, 0, 1)
        return np.dstack([photo[top : top + 96, left : left + 96], (alpha * 255).astype(np.uint8)])

    def _augment(self, clip: np.ndarray) -> np.ndarray:
        rng = self.rng
        if rng.random() < 0.5:
            clip = clip[:, :, ::-1]
        if rng.random() < 0.5:
            gain = np.exp(rng.normal(0, 0.12) + rng.normal(0, 0.05, 3))
            table = 255 * np.clip((np.arange(256)[:, None] / 255) ** np.exp(rng.normal(0, 0.12)) * gain, 0, 1)
            table = table.astype(np.uint8)
            clip = np.stack([table[:, c][clip[..., c]] for c in range(3)], -1)
        return np.ascontiguousarray(clip)
