"""The embedded model's autoencoder with the interface of DiffSynth's `WanVideoVAE`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .autoencoder import SPACE, TinyAutoencoder


class TinyVideoVAE(nn.Module):
    """Drop-in for DiffSynth's `WanVideoVAE`: same attributes, same `encode` and `decode` calls.

    Tiling arguments are accepted and not needed: the whole video is processed at once, which is the exact result.
    """

    upsampling_factor = SPACE

    def __init__(self, model: TinyAutoencoder):
        super().__init__()
        self.model = model
        self.z_dim = model.z_dim

    def encode(
        self,
        videos: Tensor | Sequence[Tensor],
        device: torch.device | str,
        tiled: bool = False,
        tile_size: tuple[int, int] = (34, 34),
        tile_stride: tuple[int, int] = (18, 16),
    ) -> Tensor:
        """Videos [B, 3, 1 + 4k, H, W] (or a list of [3, 1 + 4k, H, W]) in -1..1 to [B, z, 1 + k, H/8, W/8]."""
        video = videos if isinstance(videos, Tensor) else torch.stack(list(videos))
        weight = self.model.mean
        return self.model.encode(video.to(device=device, dtype=weight.dtype)).to(video.dtype)

    def decode(
        self,
        hidden_states: Tensor | Sequence[Tensor],
        device: torch.device | str,
        tiled: bool = False,
        tile_size: tuple[int, int] = (34, 34),
        tile_stride: tuple[int, int] = (18, 16),
    ) -> Tensor:
        """Latents [B, z, 1 + k, h, w] to videos [B, 3, 1 + 4k, 8h, 8w], clamped to -1..1."""
        latents = hidden_states if isinstance(hidden_states, Tensor) else torch.stack(list(hidden_states))
        weight = self.model.mean
        video = self.model.decode(latents.to(device=device, dtype=weight.dtype))
        return video.clamp_(-1, 1).to(latents.dtype)
