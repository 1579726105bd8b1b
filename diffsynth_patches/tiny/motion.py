"""Motion between the frames of one latent group: Lucas-Kanade without parameters, and warping by a flow.

A flow f [N, 2, H/8, W/8] is in pixels of the full frame, x first, one vector per cell of 8x8 pixels, so that
`target(x) = source(x + f(x))`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CELL = 8
# (pixels that become one at this level, radius of the window in cells, iterations), coarse to fine
LEVELS = ((8, 2, 4), (4, 2, 3), (2, 1, 3))


def warp(images_NCHW: Tensor, flow_N2HW: Tensor) -> Tensor:
    """The images sampled at x + flow (in their own pixels), borders repeated; float32."""
    height, width = images_NCHW.shape[2:]
    device = flow_N2HW.device
    rows = (torch.arange(height, device=device, dtype=torch.float32) * 2 + 1) / height - 1
    columns = (torch.arange(width, device=device, dtype=torch.float32) * 2 + 1) / width - 1
    here = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)
    scale = torch.tensor([2 / width, 2 / height], device=device)
    grid = here + flow_N2HW.float().permute(0, 2, 3, 1) * scale
    return F.grid_sample(images_NCHW.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)


def to_pixels(flow_N2hw: Tensor, scale: int = CELL) -> Tensor:
    """One vector per pixel, interpolated between the centres of the cells."""
    return F.interpolate(flow_N2hw.float(), scale_factor=scale, mode="bilinear", align_corners=False)


@torch.no_grad()
def lucas_kanade(target_N1HW: Tensor, source_N1HW: Tensor, limit: float = 24.0, damping: float = 4e-4) -> Tensor:
    """The flow that fetches `target` from `source` (luminance in -1..1, sides divisible by 8), at most `limit` px.

    `damping` keeps a cell without texture where its coarser level put it.
    """
    count, _, height, width = target_N1HW.shape
    flow = torch.zeros(count, 2, height // CELL, width // CELL, device=target_N1HW.device)
    for size, radius, iterations in LEVELS:
        target, source = (F.avg_pool2d(x, size) for x in (target_N1HW, source_N1HW))
        padded = F.pad(target, (1, 1, 1, 1), mode="replicate")
        along_x = (padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]) / 2
        along_y = (padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]) / 2
        cell = CELL // size
        products = torch.cat([along_x * along_x, along_x * along_y, along_y * along_y], dim=1)
        xx, xy, yy = _window(F.avg_pool2d(products, cell), radius).unbind(1)
        floor = damping + 0.02 * (xx + yy)
        xx, yy = xx + floor, yy + floor
        determinant = (xx * yy - xy * xy).unsqueeze(1)
        for _ in range(iterations):
            error = warp(source, (to_pixels(flow, cell) if cell > 1 else flow) / size) - target
            bx, by = _window(F.avg_pool2d(torch.cat([along_x * error, along_y * error], 1), cell), radius).unbind(1)
            step = torch.stack([yy * bx - xy * by, xx * by - xy * bx], dim=1) / determinant
            flow = flow - size * step.clamp(-1, 1)
        flow = _window(flow, 1).clamp(-limit, limit)
    return flow


def inverse(flow_N2hw: Tensor, iterations: int = 2) -> Tensor:
    """The flow g of the way back: g(y) = -f(y + g(y)), by fixed-point iteration."""
    back = -flow_N2hw
    for _ in range(iterations):
        back = -warp(flow_N2hw, back / CELL)
    return back


def _window(x_NCHW: Tensor, radius: int) -> Tensor:
    return F.avg_pool2d(x_NCHW, 2 * radius + 1, 1, radius, count_include_pad=False)
