"""Clips for evaluation, never trained on: NAME.mp4 with NAME_mask.mp4, or one clip with masks.mp4."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Clip:
    name: str
    frames_THWC: Pixels
    mask_THW: NDArray[np.bool_]


def find_clips(folders: list[Path], frames: int, height: int, width: int) -> list[Clip]:
    """The first `frames` frames of every clip in the folders, scaled to the size. SystemExit names what lacks."""
    clips = []
    for folder in folders:
        pairs = [(p.with_name(p.stem.removesuffix("_mask") + p.suffix), p) for p in sorted(folder.glob("*_mask.mp4"))]
        if not pairs and (folder / "masks.mp4").is_file():
            pairs = [(p, folder / "masks.mp4") for p in sorted(folder.glob("*.mp4")) if p.name != "masks.mp4"][:1]
        for video, mask in pairs:
            rgb = _read(video, frames, height, width)
            clips.append(Clip(video.stem, rgb, _read(mask, frames, height, width)[..., 0] > 127))
    if not clips:
        raise SystemExit(f"no NAME.mp4 with NAME_mask.mp4 in {', '.join(map(str, folders))}")
    return clips


def _read(path: Path, frames: int, height: int, width: int) -> Pixels:
    capture = cv2.VideoCapture(str(path))
    out: list[Pixels] = []
    while len(out) < frames:
        ok, frame = capture.read()
        if not ok:
            raise SystemExit(f"{path} has {len(out)} frames, {frames} are needed")
        out.append(cv2.resize(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), (width, height), interpolation=cv2.INTER_AREA))
    return np.stack(out)


def write_watched(clips: list[Clip], folder: Path) -> None:
    """NAME.npy and NAME_mask.npy for `--watch`: what a training run measures itself on."""
    folder.mkdir(parents=True, exist_ok=True)
    for clip in clips:
        np.save(folder / f"{clip.name}.npy", clip.frames_THWC)
        np.save(folder / f"{clip.name}_mask.npy", clip.mask_THW.astype(np.uint8))
