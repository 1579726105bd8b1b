"""Classical fill of the masked area before a video reaches a VACE model: a push-pull pyramid in space and time.

Every level of the pyramid is relaxed towards a harmonic surface (each unknown value the mean of its neighbours), so
that colours run smoothly from one border of the hole to the other.

The VACE unit sends whatever lies under the mask to the model (its `reactive` half). This fill replaces it with an
interpolation of what is around it in space and, where the mask moves, of what was seen there at other times; nothing
of the original content under the mask can leak through.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

GREY = 128


def fill_under_mask(frames_THWC: NDArray[np.uint8], mask_THW: NDArray[np.bool_], fill: str) -> NDArray[np.uint8]:
    """The video that conditions a model: what lies under the mask is replaced by what the model expects there (`fill`
    is `grey`, or a classical `push_pull` fill)."""
    if fill != "push_pull":
        return np.where(mask_THW[..., None], np.uint8(GREY), frames_THWC)
    # Centred at 0, so that a mask over everything is filled with grey.
    video_TCHW = torch.from_numpy(frames_THWC).permute(0, 3, 1, 2).float() - GREY
    filled = push_pull_fill(video_TCHW, torch.from_numpy(mask_THW)[:, None]) + GREY
    return filled.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()


def push_pull_fill(video_TCHW: Tensor, mask_T1HW: Tensor) -> Tensor:
    """Video of the same shape, untouched where `mask < 0.5` and interpolated elsewhere.

    `video_TCHW` is floating point in any range; `mask_T1HW` is 1 (or above 0.5) where content is to be replaced. A
    mask that covers every pixel of every frame leaves nothing to interpolate: the result is then 0 everywhere.
    Raises ValueError on shapes that do not match or an integer video.
    """
    t, _, h, w = video_TCHW.shape
    if mask_T1HW.shape != (t, 1, h, w):
        raise ValueError(f"mask has shape {tuple(mask_T1HW.shape)}, expected {(t, 1, h, w)}")
    if not video_TCHW.is_floating_point():
        raise ValueError(f"video must be floating point, got {video_TCHW.dtype}: convert it first")
    hole_T1HW = mask_T1HW >= 0.5
    known = (~hole_T1HW).to(video_TCHW.dtype).movedim(1, 0).unsqueeze(0)
    # torch.where, not a product: a NaN or an infinity under the mask must not survive either.
    value = torch.where(hole_T1HW, 0.0, video_TCHW).movedim(1, 0).unsqueeze(0)
    filled = _pull(value, known).squeeze(0).movedim(0, 1)
    return torch.where(hole_T1HW, filled, video_TCHW)


def _pull(value_BCTHW: Tensor, known_B1THW: Tensor, sweeps: int = 4) -> Tensor:
    """Dense values from sparse ones: `value` is already multiplied by its weight `known` in 0..1."""
    size = value_BCTHW.shape[2:]
    if max(size) == 1:
        return value_BCTHW / known_B1THW.clamp_min(torch.finfo(value_BCTHW.dtype).tiny)
    coarse_value, coarse_known = _halve(value_BCTHW), _halve(known_B1THW)
    # Half of a cell known is as good as all of it: weights saturate, so that near pixels win over far ones.
    gain = (2 * coarse_known).clamp_max(1) / coarse_known.clamp_min(1e-12)
    coarse = _pull(coarse_value * gain, coarse_known * gain, sweeps=16)
    padded = tuple(s + s % 2 if s > 1 else s for s in size)
    dense = F.interpolate(coarse, size=padded, mode="trilinear", align_corners=False)
    unknown = 1 - known_B1THW
    dense = value_BCTHW + unknown * dense[..., : size[0], : size[1], : size[2]]
    for _ in range(sweeps):
        dense = value_BCTHW + unknown * _neighbour_mean(dense)
    return dense


def _neighbour_mean(x_BCTHW: Tensor) -> Tensor:
    """Mean of a value and its six neighbours in space and time; borders repeat."""
    total = x_BCTHW.clone()
    for dim in (2, 3, 4):
        size = x_BCTHW.shape[dim]
        total.narrow(dim, 1, size - 1).add_(x_BCTHW.narrow(dim, 0, size - 1))
        total.narrow(dim, 0, size - 1).add_(x_BCTHW.narrow(dim, 1, size - 1))
        total.narrow(dim, 0, 1).add_(x_BCTHW.narrow(dim, 0, 1))
        total.narrow(dim, size - 1, 1).add_(x_BCTHW.narrow(dim, size - 1, 1))
    return total.div_(7)


def _halve(x_BCTHW: Tensor) -> Tensor:
    """Mean of 2x2x2 cells; odd sides are padded with zeros (nothing known), sides of 1 stay."""
    kernel = [2 if s > 1 else 1 for s in x_BCTHW.shape[2:]]
    pad = [amount for s, k in zip(x_BCTHW.shape[:1:-1], kernel[::-1], strict=True) for amount in (0, s % 2 * (k - 1))]
    return F.avg_pool3d(F.pad(x_BCTHW, pad), kernel)
