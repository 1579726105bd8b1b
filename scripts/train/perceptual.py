"""LPIPS with a gradient: the training loss beside the squared error, so that texture survives.

The trunk and the heads are those of `hetcache.metrics` (`python -m hetcache.metrics lpips`), read from the file
itself, so that a machine without the lpips package can train.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from hetcache.metrics.lpips import fetched_trunk

# (stride, padding, whether a 3x3 max pooling comes first) of AlexNet's five convolutions
_LAYERS = ((4, 2, False), (1, 2, True), (1, 1, True), (1, 1, False), (1, 1, False))


class PerceptualLoss(nn.Module):
    """LPIPS v0.1 with AlexNet of frames [N, 3, H, W] in -1..1; the gradient flows to the first of the two."""

    def __init__(self, file: Path | None = None) -> None:
        super().__init__()
        path = file or fetched_trunk("alex")
        if not path.is_file():
            raise FileNotFoundError(f"no LPIPS trunk at {path}: run `python -m hetcache.metrics lpips`")
        weights = load_file(path)
        self.kernels = [weights[f"AlexNet_0/Conv_{i}/kernel"].permute(3, 2, 0, 1).contiguous() for i in range(5)]
        self.biases = [weights[f"AlexNet_0/Conv_{i}/bias"] for i in range(5)]
        self.heads = [weights[f"NetLinLayer_{i}/Conv_0/kernel"].reshape(1, -1, 1, 1) for i in range(5)]
        self.shift = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
        self.scale = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)

    def to_device(self, device: str) -> PerceptualLoss:
        """Moves the constants, which are no parameters, in place."""
        for name in ("kernels", "biases", "heads"):
            setattr(self, name, [tensor.to(device) for tensor in getattr(self, name)])
        self.shift, self.scale = self.shift.to(device), self.scale.to(device)
        return self

    def forward(self, made_NCHW: Tensor, true_NCHW: Tensor) -> Tensor:
        """One distance per frame [N]."""
        with torch.no_grad():
            wanted = self._features(true_NCHW)
        total = torch.zeros(len(made_NCHW), device=made_NCHW.device)
        for made, true, head in zip(self._features(made_NCHW), wanted, self.heads, strict=True):
            # The epsilon under the root keeps the gradient finite where a pixel has no feature at all.
            a = made.float() * torch.rsqrt(made.float().square().sum(1, keepdim=True) + 1e-8)
            b = true.float() * torch.rsqrt(true.float().square().sum(1, keepdim=True) + 1e-8)
            total = total + ((a - b).square() * head).sum(1).mean((1, 2))
        return total

    def _features(self, x_NCHW: Tensor) -> list[Tensor]:
        x = (x_NCHW - self.shift) / self.scale
        features = []
        for kernel, bias, (stride, padding, pooled) in zip(self.kernels, self.biases, _LAYERS, strict=True):
            x = F.max_pool2d(x, 3, 2) if pooled else x
            x = F.relu(F.conv2d(x, kernel, bias, stride=stride, padding=padding))
            features.append(x)
        return features
