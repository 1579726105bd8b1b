"""Meters that take the frames of one comparison batch by batch and keep a few numbers per frame."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from hetcache.metrics.frame import (
    SSIM_MARGIN,
    masked_mean,
    mean_psnr,
    nan_mean,
    psnr_from_mse,
    squared_error,
    ssim_map,
)
from hetcache.metrics.i3d import I3D, preprocess
from hetcache.metrics.perceptual import Lpips

Frames = NDArray[np.uint8]
Regions = Mapping[str, NDArray[np.bool_]]
GREY = 128
"""What a clip shows outside a region when I3D sees that region alone."""


class FrameMeter:
    """PSNR, SSIM and LPIPS of frame pairs, whole ("all") and in each region; the mean over frames."""

    def __init__(self, metrics: frozenset[str], lpips: Lpips | None) -> None:
        self._metrics = metrics
        self._lpips = lpips
        self._values: dict[str, dict[str, list[float]]] = {}
        self.num_frames = 0

    def update(self, pred: Frames, reference: Frames, regions: Regions) -> None:
        """Add frame pairs [T, H, W, 3] and the mask [T, H, W] of each region."""
        self.num_frames += len(pred)
        for index, (a, b) in enumerate(zip(pred, reference, strict=True)):
            error = squared_error(a, b) if "psnr" in self._metrics else None
            similarity = ssim_map(a, b) if "ssim" in self._metrics else None
            for name in ("all", *regions):
                inside = None if name == "all" else regions[name][index]
                if error is not None:
                    self._add(name, "psnr", psnr_from_mse(masked_mean(error, inside)))
                if similarity is not None:
                    self._add(name, "ssim", masked_mean(similarity, inside, SSIM_MARGIN))
        if self._lpips is not None:
            for name, distances in self._lpips.distances(pred, reference, regions).items():
                for value in distances:
                    self._add(name, "lpips", value)

    def result(self) -> dict[str, dict[str, float]]:
        """{region: {metric: mean over frames}}, with the number of identical frames beside a PSNR."""
        means: dict[str, dict[str, float]] = {}
        for name, metrics in self._values.items():
            means[name] = {key: (mean_psnr if key == "psnr" else nan_mean)(values) for key, values in metrics.items()}
            if "psnr" in metrics:
                means[name]["identical_frames"] = sum(map(math.isinf, metrics["psnr"]))
        return means

    def _add(self, region: str, metric: str, value: float) -> None:
        self._values.setdefault(region, {}).setdefault(metric, []).append(value)


class ClipMeter:
    """Keeps the sampled frames of one video, at I3D's size, whole and with all but one region greyed out.

    Samples `num_samples` frames evenly from the first to the last of `num_frames` (with repeats in a shorter
    video).
    """

    def __init__(self, num_frames: int, num_samples: int) -> None:
        places = np.rint(np.linspace(0, num_frames - 1, num_samples)).astype(int)
        self._repeats = {int(place): int(np.sum(places == place)) for place in np.unique(places)}
        self._clips: dict[str, list[torch.Tensor]] = {}
        self._visible: set[str] = {"all"}
        self._seen = 0

    def update(self, frames: Frames, regions: Regions) -> None:
        """Add frames [T, H, W, 3] in order, and the mask [T, H, W] of each region."""
        for index, frame in enumerate(frames):
            repeats = self._repeats.get(self._seen, 0)
            self._seen += 1
            if not repeats:
                continue
            for name in ("all", *regions):
                shown = frame
                if name != "all":
                    inside = regions[name][index]
                    shown = np.where(inside[..., None], frame, np.uint8(GREY))
                    if inside.any():
                        self._visible.add(name)
                clip = self._clips.setdefault(name, [])
                clip += [preprocess(torch.from_numpy(shown)[None])] * repeats

    def features(self, model: I3D, device: str) -> dict[str, dict[str, NDArray[np.float32]]]:
        """{region: {"pooled": [1024], "logits": [400]}}; a region that no sampled frame has is left out."""
        found: dict[str, dict[str, NDArray[np.float32]]] = {}
        for name in self._visible & self._clips.keys():
            features = model(torch.cat(self._clips[name], dim=2).to(device))
            found[name] = {
                "pooled": features.pooled[0].cpu().numpy(),
                "logits": features.logits[0].cpu().numpy(),
            }
        return found
