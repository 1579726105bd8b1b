"""The training forward pass of the embedded model.

`forward` computes what DiffSynth's `model_fn_wan_video` computes (a test compares them) from the same modules, with
batches, one time per sample, real-valued rotary embeddings in the working precision and no restacking of VACE hints:
several times faster to train with on a CPU under bfloat16 autocast.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffsynth.models.wan_video_dit import DiTBlock, WanModel, sinusoidal_embedding_1d
from diffsynth.models.wan_video_vace import VaceWanModel
from einops import rearrange
from torch import Tensor


def forward(
    dit: WanModel,
    vace: VaceWanModel,
    latents_BCTHW: Tensor,
    timestep_B: Tensor,
    context_BLD: Tensor,
    vace_context_BCTHW: Tensor,
    block_fn=None,
) -> Tensor:
    """Velocity [B, 16, T, H, W]; `timestep_B` in 0..1000."""
    run = block_fn or block_forward
    t = dit.time_embedding(sinusoidal_embedding_1d(dit.freq_dim, timestep_B))
    modulation = dit.time_projection(t).unflatten(1, (6, dit.dim)).float()
    context = dit.text_embedding(context_BLD)
    f, h, w = latents_BCTHW.shape[2], latents_BCTHW.shape[3] // 2, latents_BCTHW.shape[4] // 2
    x = _patchify(dit.patch_embedding, latents_BCTHW)
    c = _patchify(vace.vace_patch_embedding, vace_context_BCTHW)
    cos, sin = rotary_table(dit, f, h, w, x.dtype, x.device)
    hints, start = {}, x
    for layer, block in zip(vace.vace_layers, vace.vace_blocks, strict=True):
        if layer == 0:
            c = block.before_proj(c) + start
        c = run(block, c, context, modulation, cos, sin)
        hints[layer] = block.after_proj(c)
    for layer, block in enumerate(dit.blocks):
        x = run(block, x, context, modulation, cos, sin)
        if layer in hints:
            x = x + hints[layer]
    shift, scale = (dit.head.modulation.float() + t.unsqueeze(1)).chunk(2, dim=1)
    x = dit.head.head(_modulated_norm(x, shift, scale, dit.head.norm.eps))
    return dit.unpatchify(x, (f, h, w))


def block_forward(
    block: DiTBlock, x_BND: Tensor, context_BLD: Tensor, modulation_B6D: Tensor, cos_N: Tensor, sin_N: Tensor
) -> Tensor:
    """One DiT block, equal to `DiTBlock.forward` up to rounding."""
    shift1, scale1, gate1, shift2, scale2, gate2 = (block.modulation + modulation_B6D).to(x_BND.dtype).chunk(6, dim=1)
    attn, cross = block.self_attn, block.cross_attn
    y = _modulated_norm(x_BND, shift1, scale1, block.norm1.eps)
    q = _rotate(_heads(_rms(attn.q(y), attn.norm_q), block.num_heads), cos_N, sin_N)
    k = _rotate(_heads(_rms(attn.k(y), attn.norm_k), block.num_heads), cos_N, sin_N)
    y = attention(q, k, _heads(attn.v(y), block.num_heads))
    x = x_BND + gate1 * attn.o(y.transpose(1, 2).flatten(2))
    y = F.layer_norm(x, (x.shape[-1],), block.norm3.weight.to(x.dtype), block.norm3.bias.to(x.dtype), block.norm3.eps)
    q = _heads(_rms(cross.q(y), cross.norm_q), block.num_heads)
    k = _heads(_rms(cross.k(context_BLD), cross.norm_k), block.num_heads)
    y = attention(q, k, _heads(cross.v(context_BLD), block.num_heads))
    x = x + cross.o(y.transpose(1, 2).flatten(2))
    return x + gate2 * block.ffn(_modulated_norm(x, shift2, scale2, block.norm2.eps))


class _Attention(torch.autograd.Function):
    """Softmax attention [B, N, D] that keeps its weights: on a CPU in bfloat16 2.7x faster than SDPA with gradients."""

    @staticmethod
    def forward(ctx, q_BND, k_BMD, v_BMD):
        scaled = q_BND * q_BND.shape[-1] ** -0.5
        weights = torch.bmm(scaled, k_BMD.transpose(1, 2).contiguous()).softmax(-1)
        ctx.save_for_backward(scaled, k_BMD, v_BMD, weights)
        return torch.bmm(weights, v_BMD)

    @staticmethod
    def backward(ctx, grad_BND):
        scaled, k, v, weights = ctx.saved_tensors
        grad_v = torch.bmm(weights.transpose(1, 2), grad_BND)
        grad_weights = torch.bmm(grad_BND, v.transpose(1, 2).contiguous())
        grad_logits = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
        grad_q = torch.bmm(grad_logits, k) * scaled.shape[-1] ** -0.5
        return grad_q, torch.bmm(grad_logits.transpose(1, 2), scaled), grad_v


def attention(q_BHND: Tensor, k_BHMD: Tensor, v_BHMD: Tensor) -> Tensor:
    """Attention [B, H, N, D]; SDPA where no gradient is wanted, on a GPU, and for long sequences."""
    if not q_BHND.requires_grad or q_BHND.is_cuda or q_BHND.shape[2] > 1600:
        return F.scaled_dot_product_attention(q_BHND, k_BHMD, v_BHMD)
    q, k, v = (x.flatten(0, 1).contiguous() for x in (q_BHND, k_BHMD, v_BHMD))
    return _Attention.apply(q, k, v).unflatten(0, q_BHND.shape[:2])


def rotary_table(
    dit: WanModel, f: int, h: int, w: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """cos and signed sin tables [N, head_dim] for interleaved pairs."""
    freqs = torch.cat(
        [
            dit.freqs[0][:f].view(f, 1, 1, -1).expand(f, h, w, -1),
            dit.freqs[1][:h].view(1, h, 1, -1).expand(f, h, w, -1),
            dit.freqs[2][:w].view(1, 1, w, -1).expand(f, h, w, -1),
        ],
        dim=-1,
    ).reshape(f * h * w, -1)
    cos = freqs.real.repeat_interleave(2, dim=-1)
    sin = torch.stack([-freqs.imag, freqs.imag], dim=-1).flatten(1)
    return cos.to(device, dtype), sin.to(device, dtype)


def _patchify(conv: torch.nn.Conv3d, x_BCTHW: Tensor) -> Tensor:
    """The patch embedding as one matrix product: [B, C, T, 2h, 2w] to [B, T h w, D]."""
    x = rearrange(x_BCTHW, "b c t (h p) (w q) -> b (t h w) (c p q)", p=2, q=2)
    return F.linear(x, conv.weight.flatten(1), conv.bias)


def _modulated_norm(x_BND: Tensor, shift_B1D: Tensor, scale_B1D: Tensor, eps: float) -> Tensor:
    y = F.layer_norm(x_BND, (x_BND.shape[-1],), eps=eps)
    return torch.addcmul(shift_B1D.to(y.dtype), y, 1 + scale_B1D.to(y.dtype))


def _rms(x_BND: Tensor, norm: torch.nn.Module) -> Tensor:
    scale = torch.rsqrt(x_BND.float().square().mean(-1, keepdim=True) + norm.eps)
    return x_BND * scale.to(x_BND.dtype) * norm.weight.to(x_BND.dtype)


def _heads(x_BND: Tensor, num_heads: int) -> Tensor:
    return x_BND.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def _rotate(x_BHND: Tensor, cos_N: Tensor, sin_N: Tensor) -> Tensor:
    swapped = x_BHND.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return x_BHND * cos_N + swapped * sin_N
