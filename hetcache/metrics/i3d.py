"""The Inflated 3D ConvNet of Carreira & Zisserman 2017 (arXiv:1705.07750), RGB, inference only.

Written for weights that were trained in TensorFlow: every convolution and pooling pads as TensorFlow's SAME
does (the odd pixel goes to the end), and batch normalisation has no scale and TensorFlow's epsilon. Some
PyTorch copies of the network use an epsilon of 1e-5; its figures are off by 0.2 percent.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NUM_POOLED = 1024
NUM_LOGITS = 400
INPUT_SIDE = 224
BN_EPS = 1e-3
MIN_FRAMES = 2

Triple = tuple[int, int, int]

# Channels of each Inception block: the 1x1 branch; the two 3x3 branches as (reduce, out); the pooling branch.
_MIXED: dict[str, tuple[int, int, int, int, int, int, int]] = {
    "3b": (192, 64, 96, 128, 16, 32, 32),
    "3c": (256, 128, 128, 192, 32, 96, 64),
    "4b": (480, 192, 96, 208, 16, 48, 64),
    "4c": (512, 160, 112, 224, 24, 64, 64),
    "4d": (512, 128, 128, 256, 24, 64, 64),
    "4e": (512, 112, 144, 288, 32, 64, 64),
    "4f": (528, 256, 160, 320, 32, 128, 128),
    "5b": (832, 256, 160, 320, 32, 128, 128),
    "5c": (832, 384, 192, 384, 48, 128, 128),
}
MIXED_NAMES = tuple(_MIXED)


@dataclass(frozen=True)
class I3DFeatures:
    """What one forward pass gives: `pooled` [B, 1024] (VFID) and `logits` [B, 400] (FVD), float32."""

    pooled: Tensor
    logits: Tensor


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME padding of one axis, as (before, after): the output has ceil(size / stride) cells."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _pad_same(x: Tensor, kernel: Triple, stride: Triple) -> Tensor:
    """Zero padding of [B, C, T, H, W]; zeros suit max pooling too, because it follows a ReLU."""
    padding: list[int] = []
    for size, k, s in zip(reversed(x.shape[2:]), reversed(kernel), reversed(stride), strict=True):
        padding.extend(same_padding(size, k, s))
    return F.pad(x, padding) if any(padding) else x


class _Unit(nn.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel: Triple = (kernel, kernel, kernel)
        self.stride: Triple = (stride, stride, stride)
        self.conv = nn.Conv3d(channels_in, channels_out, self.kernel, self.stride, bias=False)
        self.norm = nn.BatchNorm3d(channels_out, eps=BN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(_pad_same(x, self.kernel, self.stride))))


def _max_pool(x: Tensor, kernel: Triple, stride: Triple) -> Tensor:
    return F.max_pool3d(_pad_same(x, kernel, stride), kernel, stride)


class _Mixed(nn.Module):
    """Inception block: four branches side by side, joined along the channels."""

    def __init__(self, channels: tuple[int, int, int, int, int, int, int]) -> None:
        super().__init__()
        source, one, reduce_a, out_a, reduce_b, out_b, pooled = channels
        self.one = _Unit(source, one, 1, 1)
        self.reduce_a = _Unit(source, reduce_a, 1, 1)
        self.out_a = _Unit(reduce_a, out_a, 3, 1)
        self.reduce_b = _Unit(source, reduce_b, 1, 1)
        self.out_b = _Unit(reduce_b, out_b, 3, 1)
        self.pooled = _Unit(source, pooled, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pooled(_max_pool(x, (3, 3, 3), (1, 1, 1)))
        branches = [self.one(x), self.out_a(self.reduce_a(x)), self.out_b(self.reduce_b(x)), pooled]
        return torch.cat(branches, dim=1)


class I3D(nn.Module):
    """I3D on clips [B, 3, T, 224, 224] in [-1, 1], T >= 2: see I3DFeatures. Always in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_1a = _Unit(3, 64, 7, 2)
        self.conv_2b = _Unit(64, 64, 1, 1)
        self.conv_2c = _Unit(64, 192, 3, 1)
        self.mixed = nn.ModuleDict({name: _Mixed(channels) for name, channels in _MIXED.items()})
        self.head = nn.Conv3d(NUM_POOLED, NUM_LOGITS, 1)
        self.eval()

    def train(self, mode: bool = True) -> I3D:
        """Stays in evaluation mode: batch statistics of the clips at hand must not enter a metric."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, clips_BCTHW: Tensor) -> I3DFeatures:
        if clips_BCTHW.shape[2] < MIN_FRAMES:
            raise ValueError(f"I3D needs clips of {MIN_FRAMES} frames or more, not {clips_BCTHW.shape[2]}")
        x = _max_pool(self.conv_1a(clips_BCTHW), (1, 3, 3), (1, 2, 2))
        x = _max_pool(self.conv_2c(self.conv_2b(x)), (1, 3, 3), (1, 2, 2))
        for name, block in self.mixed.items():
            if name == "4b":
                x = _max_pool(x, (3, 3, 3), (2, 2, 2))
            elif name == "5b":
                x = _max_pool(x, (2, 2, 2), (2, 2, 2))
            x = block(x)
        # The published window is 2 x 7 x 7; a clip of 8 frames has one cell left in time.
        x = F.avg_pool3d(x, (min(2, x.shape[2]), 7, 7), stride=1)
        logits = self.head(x).mean(dim=(2, 3, 4))
        return I3DFeatures(pooled=x.mean(dim=(2, 3, 4)), logits=logits)


def preprocess(frames_THWC: Tensor) -> Tensor:
    """One clip of frames [T, H, W, 3] in 0..255 -> [1, 3, T, 224, 224] in [-1, 1], bilinear."""
    x = frames_THWC.permute(0, 3, 1, 2).to(torch.float32)
    x = F.interpolate(x, size=(INPUT_SIDE, INPUT_SIDE), mode="bilinear", align_corners=False)
    return (x / 127.5 - 1.0).permute(1, 0, 2, 3)[None]
