"""The embedded model's video autoencoder: Wan's latent contract, all heavy work at 1/8 resolution.

1 + 4k frames become 1 + k latent frames, 8x smaller in space, 16 channels. The first frame stands alone (it is
repeated four times), each later latent frame holds four frames. A linear path (started from a PCA of 4x8x8 patches)
carries most of the picture; residual convolutions on the latent grid add what the neighbourhood tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SPACE = 8
TIME = 4
PATCH_VALUES = 3 * TIME * SPACE * SPACE


class SpaceTimeBlock(nn.Module):
    """Residual block on [B, T, H, W, C]: 3x3 convolution in space, then three taps in time."""

    def __init__(self, width: int):
        super().__init__()
        self.space = nn.Conv2d(width, width, 3, padding=1)
        self.time = nn.Linear(width, 3 * width)

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        y = self.space(x_BTHWC.flatten(0, 1).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        y = F.gelu(y, approximate="tanh").unflatten(0, x_BTHWC.shape[:2])
        # One matrix product for the taps t - 1, t, t + 1: faster on a CPU than a 1-D convolution.
        before, now, after = self.time(y).chunk(3, dim=-1)
        before = F.pad(before[:, :-1], (0, 0, 0, 0, 0, 0, 1, 0))
        after = F.pad(after[:, 1:], (0, 0, 0, 0, 0, 0, 0, 1))
        out_BTHWC: Tensor = x_BTHWC + before + now + after
        return out_BTHWC


class PatchNet(nn.Module):
    """A linear map plus a residual convolutional stack, [B, T, H, W, C_in] to [B, T, H, W, C_out]."""

    def __init__(self, in_dim: int, width: int, depth: int, out_dim: int):
        super().__init__()
        self.linear = nn.Linear(in_dim, out_dim)
        self.stem = nn.Linear(in_dim, width)
        self.blocks = nn.Sequential(*[SpaceTimeBlock(width) for _ in range(depth)])
        self.head = nn.Linear(width, out_dim)

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        out_BTHWC: Tensor = self.linear(x_BTHWC) + self.head(
            F.gelu(self.blocks(self.stem(x_BTHWC)), approximate="tanh")
        )
        return out_BTHWC


class PixelRefiner(nn.Module):
    """Small residual network at half resolution that crosses the borders of the 8-pixel patches."""

    def __init__(self, width: int):
        super().__init__()
        self.inp = nn.Conv2d(12, width, 3, padding=1)
        self.mid = nn.Conv2d(width, width, 3, padding=1)
        self.out = nn.Conv2d(width, 12, 3, padding=1)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        y = F.relu(self.mid(F.relu(self.inp(F.pixel_unshuffle(x_NCHW, 2)))))
        return x_NCHW + F.pixel_shuffle(self.out(y), 2)


class TinyAutoencoder(nn.Module):
    """Encoder, decoder and the latent normalisation. Videos are [B, 3, 1 + 4k, H, W] in -1..1."""

    def __init__(
        self, z_dim: int = 16, width: int = 192, encoder_depth: int = 3, decoder_depth: int = 5, refine_width: int = 32
    ):
        super().__init__()
        self.z_dim = z_dim
        self.encoder = PatchNet(PATCH_VALUES, width, encoder_depth, z_dim)
        self.decoder = PatchNet(z_dim, width, decoder_depth, PATCH_VALUES)
        self.refiner = PixelRefiner(refine_width)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(z_dim))
        self.register_buffer("std", torch.ones(z_dim))

    def encode(self, video_BCTHW: Tensor) -> Tensor:
        """Normalised latents [B, z, 1 + k, H/8, W/8]. ValueError when the shape does not divide."""
        z = self.encoder(to_patches(video_BCTHW)).permute(0, 4, 1, 2, 3)
        latents_BCTHW: Tensor = (z - _channels(self.mean)) / _channels(self.std)
        return latents_BCTHW

    def decode(self, latents_BCTHW: Tensor) -> Tensor:
        """Video [B, 3, 1 + 4k, H, W], not clamped."""
        z = latents_BCTHW * _channels(self.std) + _channels(self.mean)
        video = from_patches(self.decoder(z.permute(0, 2, 3, 4, 1)))
        b, _, t = video.shape[:3]
        frames = self.refiner(video.transpose(1, 2).flatten(0, 1))
        out_BCTHW: Tensor = frames.unflatten(0, (b, t)).transpose(1, 2)
        return out_BCTHW


class Autoencoder(Protocol):
    """What `TinyVideoVAE` wraps; a module too."""

    z_dim: int
    mean: Tensor

    def encode(self, video_BCTHW: Tensor) -> Tensor: ...

    def decode(self, latents_BCTHW: Tensor) -> Tensor: ...


class TinyVideoVAE(nn.Module):
    """Drop-in for DiffSynth's `WanVideoVAE`: same attributes, same `encode` and `decode` calls.

    Tiling arguments are accepted and not needed: the whole video is processed at once, which is the exact result.
    """

    upsampling_factor = SPACE

    def __init__(self, model: Autoencoder):
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


def to_patches(video_BCTHW: Tensor) -> Tensor:
    """[B, 3, 1 + 4k, 8h, 8w] to [B, 1 + k, h, w, 768]; the first frame fills its group by repetition."""
    check_video_shape(video_BCTHW)
    height, width = video_BCTHW.shape[3:]
    video = torch.cat([video_BCTHW[:, :, :1].expand(-1, -1, TIME - 1, -1, -1), video_BCTHW], dim=2)
    b, c, t4 = video.shape[:3]
    video = video.reshape(b, c, t4 // TIME, TIME, height // SPACE, SPACE, width // SPACE, SPACE)
    return video.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(b, t4 // TIME, height // SPACE, width // SPACE, PATCH_VALUES)


def check_video_shape(video_BCTHW: Tensor) -> None:
    """ValueError unless the video has 1 + 4k frames and sides divisible by 8."""
    t, height, width = video_BCTHW.shape[2:]
    if t % TIME != 1 or height % SPACE or width % SPACE:
        raise ValueError(f"got {t} frames of {height}x{width}; need 4k + 1 frames and sides divisible by {SPACE}")


def from_patches(patches_BTHWC: Tensor) -> Tensor:
    """Inverse of `to_patches`; the first group is averaged into its one frame."""
    b, t, h, w, _ = patches_BTHWC.shape
    video = patches_BTHWC.reshape(b, t, h, w, 3, TIME, SPACE, SPACE).permute(0, 4, 1, 5, 2, 6, 3, 7)
    video = video.reshape(b, 3, t * TIME, h * SPACE, w * SPACE)
    return torch.cat([video[:, :, :TIME].mean(2, keepdim=True), video[:, :, TIME:]], dim=2)


def _channels(values_C: Tensor) -> Tensor:
    return values_C.view(1, -1, 1, 1, 1)
