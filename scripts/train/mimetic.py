"""The denoiser's initialisation: a network that copies its condition and looks at neighbouring tokens."""

from __future__ import annotations

import math

import torch
from diffsynth.models.wan_video_dit import DiTBlock, WanModel
from diffsynth.models.wan_video_vace import VaceWanModel


def mimetic_init(dit: WanModel, vace: VaceWanModel) -> None:
    """Start from a network that copies its condition and looks at neighbouring tokens.

    Self-attention logits depend on relative position wherever q and k have a common part, because the rotary
    embedding turns it by the position: biases with a phase shift make heads that attend one token to the left, right,
    above, below, before or after. The residual stream carries the noisy latents in its first 64 channels and the
    condition in the next 64, and the head starts as their difference, a crude velocity.
    """
    with torch.no_grad():
        _copy_paths(dit, vace)
        blocks = [*dit.blocks, *vace.vace_blocks]
        for index, block in enumerate(blocks):
            sign = 1 if index % 2 else -1
            offsets = [(0, -1, 0), (0, 1, 0)] if index % 2 else [(0, 0, -1), (0, 0, 1)]
            offsets.append((sign, 0, 0))
            _local_heads(block, dit, offsets[: block.num_heads - 1])
            for layer in (block.self_attn.o, block.cross_attn.o, block.ffn[2]):
                layer.weight.mul_(0.5)
                layer.bias.zero_()
            block.modulation.zero_()
            block.modulation[:, [2, 5]] = 0.5
        dit.time_projection[1].weight.mul_(0.1)
        dit.time_projection[1].bias.zero_()


def _copy_paths(dit: WanModel, vace: VaceWanModel) -> None:
    z, n = dit.in_dim, dit.in_dim * 4
    for embedding in (dit.patch_embedding, vace.vace_patch_embedding):
        embedding.weight.mul_(0.3)
        embedding.bias.zero_()
    dit.head.head.weight.mul_(0.1)
    dit.head.head.bias.zero_()
    dit.head.modulation.zero_()
    for block in vace.vace_blocks:
        block.after_proj.weight.mul_(0.3)
        block.after_proj.bias.zero_()
    first = vace.vace_blocks[0]
    first.before_proj.weight.copy_(torch.eye(dit.dim))
    first.before_proj.bias.zero_()
    if 2 * n > dit.dim:  # a toy: no room for latents and condition side by side
        return
    for row in range(n):
        place, channel = divmod(row, z)
        dy, dx = divmod(place, 2)
        for embedding in (dit.patch_embedding, vace.vace_patch_embedding):
            embedding.weight[row] = 0
            embedding.weight[n + row] = 0
        dit.patch_embedding.weight[row, channel, 0, dy, dx] = 1
        vace.vace_patch_embedding.weight[n + row, [channel, z + channel], 0, dy, dx] = 1
    eye = torch.eye(n)
    dit.head.head.weight[:, :n] += eye
    dit.head.head.weight[:, n : 2 * n] -= eye
    first.after_proj.weight.mul_(0.3)
    first.after_proj.weight[n : 2 * n, n : 2 * n] += eye


def _local_heads(block: DiTBlock, dit: WanModel, offsets: list[tuple[int, int, int]]) -> None:
    attn, dim = block.self_attn, block.dim // block.num_heads
    thirds = (dim - 2 * (dim // 3), dim // 3, dim // 3)
    attn.q.bias.zero_()
    attn.k.bias.zero_()
    for head, offset in enumerate(offsets):
        start = head * dim
        attn.q.weight[start : start + dim].mul_(0.3)
        attn.k.weight[start : start + dim].mul_(0.3)
        attn.norm_q.weight[start : start + dim] = 0.3
        attn.norm_k.weight[start : start + dim] = 0.3
        for axis, size in enumerate(thirds):
            omega = torch.angle(dit.freqs[axis][1]).tolist()
            for pair, target in enumerate((5.0, 3.0, 1.5)[: size // 2]):
                row = start + 2 * pair
                gain = math.sqrt(target * math.sqrt(dim) / 2)
                phase = omega[pair] * offset[axis]
                attn.q.bias[row : row + 2] = math.sqrt(2) * torch.tensor([math.cos(phase), math.sin(phase)])
                attn.k.bias[row : row + 2] = math.sqrt(2) * torch.tensor([1.0, 0.0])
                attn.norm_q.weight[row : row + 2] = gain
                attn.norm_k.weight[row : row + 2] = gain
            start += size
