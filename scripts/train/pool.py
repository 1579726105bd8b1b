"""Encoded training samples of the denoiser: latents, the VACE context and words, kept and used several times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor, nn

from diffsynth_patches.tiny.text import TinyTokenizer
from hetcache.media.fill import fill_under_mask, push_pull_fill
from hetcache.media.propagate import propagate_fill
from scripts.train.ahead import Ahead
from scripts.train.autoencoder import to_unit
from scripts.train.captions import caption
from scripts.train.clips import Shape, shared_sampler
from scripts.train.fills import has_fills, piece
from scripts.train.masks import random_mask

Sample = dict[str, Any]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class PoolOptions:
    """`propagated` is the share of clips with more than one frame whose hole holds what other frames show, as far as
    they do (`fills`; computed now where there are none), `grey` that of those whose hole tells nothing; the others' is
    filled by push-pull. Encoding costs as much as training, so a sample is used about `reuse` times, with new noise,
    time and words each time.
    """

    propagated: float = 0.5
    grey: float = 0.1
    reuse: int = 3
    capacity: int = 1200


@dataclass(frozen=True)
class Drawn:
    """What a batch of `shape` needs anew, before encoding: `filled` is None where push-pull fills the hole."""

    shape: Shape
    clips: Pixels
    masks: Pixels
    filled: list[Pixels | None]
    words: list[list[str]]


def draw_masked(
    folder: Path, seed: tuple[int, ...], shape: Shape, count: int, propagated: float, grey: float = 0.0
) -> Drawn:
    """`count` clips with masks, fills and words; the same for the same seed, in any process."""
    sampler = shared_sampler(folder, seed)
    rng = sampler.rng
    clips = [sampler.sample(*shape[1:]) for _ in range(count)]
    masks = [random_mask(rng, *shape[1:]) for _ in range(count)]
    filled: list[Pixels | None] = [None] * count
    for index in range(count):
        kind = rng.random()
        if kind < propagated and shape[1] > 1:
            clips[index], masks[index], filled[index] = _seen_elsewhere(folder, rng, clips[index], masks[index])
        elif propagated <= kind < propagated + grey:
            filled[index] = fill_under_mask(clips[index], masks[index] > 0, "grey")
    words = [caption(clip, mask) for clip, mask in zip(clips, masks, strict=True)]
    return Drawn(shape, np.stack(clips), np.stack(masks), filled, words)


def _seen_elsewhere(
    folder: Path, rng: np.random.Generator, clip: Pixels, mask: Pixels
) -> tuple[Pixels, Pixels, Pixels | None]:
    """A stored (clip, mask, fill) in place of the given clip; where none is stored at all, that clip's own fill."""
    if not has_fills(folder):
        return clip, mask, propagate_fill(clip, mask > 0).frames_THWC
    stored = piece(folder, rng, *mask.shape)
    return stored if stored is not None else (clip, mask, None)


class Pool:
    """Per shape, encoded samples in memory; `batch` mixes new ones with kept ones."""

    def __init__(
        self,
        data: Path,
        seed: tuple[int, ...],
        vae: nn.Module,
        options: PoolOptions,
        device: str,
        ahead: Ahead,
    ) -> None:
        self.data, self.seed, self.vae, self.options, self.device = data, seed, vae, options, device
        self.ahead = ahead
        self.rng = np.random.default_rng(seed)
        self.samples: dict[Shape, list[Sample]] = {}
        self.planned: Counter[Shape] = Counter()
        self.drawn = 0

    def batch(self, choose: Callable[[], Shape], change: Callable[[list[Sample]], None] | None = None) -> list[Sample]:
        """As many samples as the chosen shape says; `change` may alter the new ones' targets in place."""
        drawn = self.ahead.take(draw_masked, lambda: self._next(choose()))
        fresh = self._encode(drawn)
        if change is not None:
            change(fresh)
        kept = self.samples.setdefault(drawn.shape, [])
        missing = drawn.shape[0] - len(fresh)
        old = [kept[i] for i in self.rng.integers(len(kept), size=missing)] if missing else []
        kept.extend(fresh)
        del kept[: max(0, len(kept) - self.options.capacity)]
        return fresh + old

    def _next(self, shape: Shape) -> tuple[Path, tuple[int, ...], Shape, int, float, float]:
        """What is drawn next: all of a batch at first, later the share that is not reused."""
        size = shape[0]
        count = size if self.planned[shape] < 2 * size else max(1, round(size / self.options.reuse))
        self.planned[shape] += count
        self.drawn += 1
        return self.data, (*self.seed, self.drawn), shape, count, self.options.propagated, self.options.grey

    def _encode(self, drawn: Drawn) -> list[Sample]:
        encoded = encode_sample(self.vae, drawn.clips, drawn.masks, self.device, drawn.filled)
        return [
            {"words": words, **{key: value[i] for key, value in encoded.items()}} for i, words in enumerate(drawn.words)
        ]


def encode_sample(
    vae: nn.Module, clips_u8: Pixels, masks_u8: Pixels, device: str, filled: Sequence[Pixels | None] | None = None
) -> dict[str, Tensor]:
    """Clips [B, T, H, W, 3] and masks [B, T, H, W] to latents, the VACE context and the latent mask.

    `filled` holds, per clip, the frames with the hole filled, or None for the push-pull fill.
    """
    video = to_unit(clips_u8, device)
    mask = torch.from_numpy(masks_u8).to(device).float().unsqueeze(1)
    under = torch.stack(
        [
            push_pull_fill(v.transpose(0, 1), m.transpose(0, 1)).transpose(0, 1)
            if known is None
            else to_unit(known[None], device)[0]
            for v, m, known in zip(video, mask, filled or [None] * len(video), strict=True)
        ]
    )
    with torch.no_grad(), torch.autocast(device.split(":")[0], torch.bfloat16):
        videos = torch.cat([video, under * (1 - mask), under * mask])
        latents, inactive, reactive = vae.encode(videos).chunk(3)
    fine = rearrange(mask[:, 0], "b t (h p) (w q) -> b (p q) t h w", p=8, q=8)
    size = ((fine.shape[2] + 3) // 4, *fine.shape[3:])
    coarse = F.interpolate(fine, size=size, mode="nearest-exact")
    touched = fine.amax(1, keepdim=True)
    groups = touched[:, :, 1:].unflatten(2, (-1, 4)).amax(3)
    return {
        "x": latents.bfloat16(),
        "vace": torch.cat([inactive, reactive, coarse], dim=1).bfloat16(),
        "mask": torch.cat([touched[:, :, :1], groups], dim=2),
    }


def stack(samples: list[Sample], rng: np.random.Generator, dropout: float, device: str) -> tuple[Tensor, ...]:
    """(latents, VACE context, latent mask, ids, id mask) of a batch; words are dropped at random."""
    prompts = []
    for sample in samples:
        words = [word for word in sample["words"] if rng.random() < 0.75]
        prompts.append("" if rng.random() < dropout else " ".join(words))
    ids, id_mask = TinyTokenizer()(prompts, return_mask=True)
    tensors = [torch.stack([sample[key] for sample in samples]).to(device).float() for key in ("x", "vace", "mask")]
    return *tensors, ids.to(device), id_mask.to(device)
