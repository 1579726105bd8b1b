"""The embedded model's autoencoder, Wan's latent contract: one texture and a motion per group of four frames.

1 + 4k frames become 1 + k latent frames, 8x smaller in space, 16 channels. The first frame stands alone, each later
latent frame holds four. The encoder aligns three of them to the second (`motion.lucas_kanade`, nothing learnt) and
codes the aligned 4x8x8 patches together with their motion; the decoder draws the aligned frames and moves each to its
place. On the latent grid a linear path (started from a PCA of patches and motion) carries most of it and residual
convolutions add what the neighbourhood tells; a network at quarter resolution crosses the patches' borders.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .motion import CELL, inverse, lucas_kanade, to_pixels, warp

SPACE = 8
TIME = 4
PATCH_VALUES = 3 * TIME * SPACE * SPACE
REFERENCE = 1  # the frame of a group that the others are aligned to
MOVING = [0, 2, 3]
FLOW_VALUES = 2 * len(MOVING)
FINE = 2  # the decoder corrects the motion on a grid this much finer than the latents': objects end between cells


class GridBlock(nn.Module):
    """Residual block on [B*T, C, h, w]: 3x3 convolution in space, then three taps in time."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.space = nn.Conv2d(width, width, 3, padding=1)
        # As a 1x1 convolution: on some processors twice as fast as the same matrix product.
        self.time = nn.Conv2d(width, 3 * width, 1)

    def forward(self, x_NCHW: Tensor, batch: int) -> Tensor:
        taps = self.time(F.gelu(self.space(x_NCHW), approximate="tanh")).unflatten(0, (batch, -1))
        before, now, after = taps.chunk(3, dim=2)
        out = x_NCHW.unflatten(0, (batch, -1)) + now
        out[:, 1:] += before[:, :-1]
        out[:, :-1] += after[:, 1:]
        out_NCHW: Tensor = out.flatten(0, 1)
        return out_NCHW


class GridNet(nn.Module):
    """A linear map plus a residual convolutional stack on the latent grid; `features` more outputs beside it."""

    def __init__(self, in_dim: int, width: int, depth: int, out_dim: int, features: int = 0) -> None:
        super().__init__()
        self.linear = nn.Conv2d(in_dim, out_dim, 1)
        self.stem = nn.Conv2d(in_dim, width, 1)
        self.blocks = nn.ModuleList([GridBlock(width) for _ in range(depth)])
        self.head = nn.Conv2d(width, out_dim, 1)
        self.features = nn.Conv2d(width, features, 1) if features else None

    def forward(self, x_NCHW: Tensor, batch: int) -> tuple[Tensor, Tensor | None]:
        y = self.stem(x_NCHW)
        for block in self.blocks:
            y = block(y, batch)
        y = F.gelu(y, approximate="tanh")
        return self.linear(x_NCHW) + self.head(y), self.features(y) if self.features is not None else None


class QuarterRefiner(nn.Module):
    """Residual network at quarter resolution on whole frames, told by features of the decoder."""

    def __init__(self, width: int, depth: int, features: int) -> None:
        super().__init__()
        self.inp = nn.Conv2d(48 + features, width, 3, padding=1)
        self.mid = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1) for _ in range(depth)])
        self.out = nn.Conv2d(width, 48, 3, padding=1)

    def forward(self, x_NCHW: Tensor, features_NCHW: Tensor) -> Tensor:
        y = torch.cat([F.pixel_unshuffle(x_NCHW, 4), features_NCHW.to(x_NCHW.dtype)], dim=1)
        y = F.relu(self.inp(y.contiguous(memory_format=torch.channels_last)))
        for layer in self.mid:
            y = F.relu(y + layer(y))
        return x_NCHW + F.pixel_shuffle(self.out(y), 4)


class TinyAutoencoder(nn.Module):
    """Encoder, decoder and the latent normalisation. Videos are [B, 3, 1 + 4k, H, W] in -1..1."""

    def __init__(
        self,
        z_dim: int = 16,
        width: int = 192,
        encoder_depth: int = 3,
        decoder_depth: int = 6,
        refine_width: int = 64,
        refine_depth: int = 2,
        features: int = 16,
    ) -> None:
        super().__init__()
        self.z_dim, self.features = z_dim, features
        self.encoder = GridNet(PATCH_VALUES + FLOW_VALUES, width, encoder_depth, z_dim)
        beside = features * TIME * 4 + FLOW_VALUES * FINE**2
        self.decoder = GridNet(z_dim, width, decoder_depth, PATCH_VALUES + FLOW_VALUES, beside)
        self.refiner = QuarterRefiner(refine_width, refine_depth, features)
        self.mean: Tensor
        self.std: Tensor
        self.flow_gain: Tensor
        self.register_buffer("mean", torch.zeros(z_dim))
        self.register_buffer("std", torch.ones(z_dim))
        self.register_buffer("flow_gain", torch.tensor(1.0))  # weight of a pixel of motion against pixel values

    def encode(self, video_BCTHW: Tensor) -> Tensor:
        """Normalised latents [B, z, 1 + k, H/8, W/8]. ValueError when the shape does not divide."""
        batch = video_BCTHW.shape[0]
        z = self.encoder(self.align(video_BCTHW).to(video_BCTHW.dtype), batch)[0]
        z = z.unflatten(0, (batch, -1)).transpose(1, 2)
        latents_BCTHW: Tensor = (z - _channels(self.mean)) / _channels(self.std)
        return latents_BCTHW

    def decode(self, latents_BCTHW: Tensor) -> Tensor:
        """Video [B, 3, 1 + 4k, H, W], not clamped."""
        batch = latents_BCTHW.shape[0]
        z = (latents_BCTHW * _channels(self.std) + _channels(self.mean)).transpose(1, 2).flatten(0, 1)
        values, beside = self.decoder(z.contiguous(memory_format=torch.channels_last), batch)
        features, fine = beside.split([self.features * TIME * 4, FLOW_VALUES * FINE**2], dim=1)
        frames = self._place(values, fine, batch)
        count = frames.shape[1]
        out = self.refiner(frames.flatten(0, 1).to(values.dtype), self._per_frame(features, batch))
        out_BCTHW: Tensor = out.unflatten(0, (batch, count)).transpose(1, 2)
        return out_BCTHW

    @torch.no_grad()
    def align(self, video_BCTHW: Tensor) -> Tensor:
        """What the encoder reads: patches of the aligned groups and their motion, [B * (1 + k), 774, H/8, W/8].

        The first frame fills its group by repetition and has no motion.
        """
        check_video_shape(video_BCTHW)
        video = torch.cat([video_BCTHW[:, :, :1].expand(-1, -1, TIME - 1, -1, -1), video_BCTHW], dim=2).float()
        groups = video.transpose(1, 2).unflatten(1, (-1, TIME))  # [B, 1 + k, 4, 3, H, W]
        batch, count = groups.shape[:2]
        height, width = groups.shape[-2:]
        flows = torch.zeros(batch, count, len(MOVING), 2, height // SPACE, width // SPACE, device=groups.device)
        aligned = groups.clone()
        if count > 1:
            luma = groups[:, 1:].mean(3, keepdim=True)
            reference = luma[:, :, [REFERENCE] * len(MOVING)].flatten(0, 2)
            flow = lucas_kanade(luma[:, :, MOVING].flatten(0, 2), reference)
            moved = warp(groups[:, 1:, MOVING].flatten(0, 2), to_pixels(inverse(flow)))
            aligned[:, 1:, MOVING] = moved.unflatten(0, (batch, count - 1, len(MOVING)))
            flows[:, 1:] = flow.unflatten(0, (batch, count - 1, len(MOVING)))
        patches = F.pixel_unshuffle(aligned.transpose(2, 3).flatten(2, 3).flatten(0, 1), SPACE)
        motion = flows.flatten(2, 3).flatten(0, 1) * self.flow_gain.float()
        return torch.cat([patches, motion], dim=1).contiguous(memory_format=torch.channels_last)

    def _place(self, values_NCHW: Tensor, fine_NCHW: Tensor, batch: int) -> Tensor:
        """Decoded aligned groups to frames [B, 1 + 4k, 3, H, W], each moved to its place; the first is an average.

        The motion is that of the cells, corrected by `fine` in quarters of cells.
        """
        base = F.pixel_shuffle(values_NCHW[:, :PATCH_VALUES].contiguous(), SPACE).unflatten(0, (batch, -1))
        base = base.unflatten(2, (3, TIME)).transpose(2, 3)  # [B, 1 + k, 4, 3, H, W]
        first, rest = base[:, 0].mean(1, keepdim=True).float(), base[:, 1:].float()
        if rest.shape[1]:
            flow = to_pixels(self._vectors(values_NCHW[:, PATCH_VALUES:], batch))
            flow = flow + to_pixels(self._vectors(F.pixel_shuffle(fine_NCHW.contiguous(), FINE), batch), CELL // FINE)
            moved = warp(rest[:, :, MOVING].flatten(0, 2), flow).unflatten(0, (batch, -1, len(MOVING)))
            still = rest[:, :, REFERENCE]
            rest = torch.stack([moved[:, :, 0], still, moved[:, :, 1], moved[:, :, 2]], dim=2)
        return torch.cat([first, rest.flatten(1, 2)], dim=1)

    def _vectors(self, motion_NCHW: Tensor, batch: int) -> Tensor:
        """Decoded motion of all groups but the first, in pixels: [B * k * 3, 2, h, w]."""
        flow = (motion_NCHW.float() / self.flow_gain.float()).unflatten(0, (batch, -1))[:, 1:]
        vectors: Tensor = flow.unflatten(2, (len(MOVING), 2)).flatten(0, 2)
        return vectors

    def _per_frame(self, features_NCHW: Tensor, batch: int) -> Tensor:
        """The decoder's features at quarter resolution, one set per frame: [B * (1 + 4k), F, H/4, W/4]."""
        x = F.pixel_shuffle(features_NCHW.contiguous(), 2).unflatten(0, (batch, -1))
        x = x.unflatten(2, (self.features, TIME)).transpose(2, 3)
        return torch.cat([x[:, 0, :1], x[:, 1:].flatten(1, 2)], dim=1).flatten(0, 1)


def check_video_shape(video_BCTHW: Tensor) -> None:
    """ValueError unless the video has 1 + 4k frames and sides divisible by 8."""
    t, height, width = video_BCTHW.shape[2:]
    if t % TIME != 1 or height % SPACE or width % SPACE:
        raise ValueError(f"got {t} frames of {height}x{width}; need 4k + 1 frames and sides divisible by {SPACE}")


def _channels(values_C: Tensor) -> Tensor:
    return values_C.view(1, -1, 1, 1, 1)
