"""VFID and FVD: Frechet distances between sets of videos, of the features that I3D sees in a clip of each."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import torch

from hetcache.metrics.frechet import MIN_CLIPS, frechet_distance, too_few_clips
from hetcache.metrics.i3d import I3D, preprocess
from hetcache.metrics.i3d_weights import load_i3d
from hetcache.metrics.metric import Choices, Features, Frames, Loaded, Regions, SetMetric

GREY = 128
"""What a clip shows outside a region when I3D sees that region alone."""


class I3DMeter:
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

    def features(self, model: I3D, device: str) -> Features:
        """{region: {"pooled": [1024], "logits": [400]}}; a region that no sampled frame has is left out."""
        found: Features = {}
        for name in self._visible & self._clips.keys():
            features = model(torch.cat(self._clips[name], dim=2).to(device))
            found[name] = {
                "pooled": features.pooled[0].cpu().numpy(),
                "logits": features.logits[0].cpu().numpy(),
            }
        return found


def _load(choices: Choices) -> Loaded:
    i3d, checkpoint = load_i3d(choices.i3d_checkpoint, choices.device)
    return Loaded(i3d, "i3d", asdict(checkpoint), f"I3D weights: {checkpoint.layout}, {checkpoint.path}")


VFID = SetMetric(
    "vfid",
    "VFID",
    "Frechet distance of 1024-d I3D features, pooled before the classifier, one clip per video",
    load=_load,
    fetch="i3d",
    meter=I3DMeter,
    feature="pooled",
    distance=frechet_distance,
    min_videos=MIN_CLIPS,
    doubt=too_few_clips,
)
FVD = SetMetric(
    "fvd",
    "FVD",
    "Frechet distance of the 400-d I3D logits, one clip per video",
    family="vfid",
    load=_load,
    fetch="i3d",
    meter=I3DMeter,
    feature="logits",
    distance=frechet_distance,
    min_videos=MIN_CLIPS,
    doubt=too_few_clips,
)
