"""Analytic FLOPs of a Wan-VACE denoiser from shapes alone (2 FLOPs per multiply-accumulate, no torch).

Counted: matrix products of projections, attention, FFN, patch embeddings, head and text MLP. Not counted: norms,
activations, RoPE, softmax, the scheduler, VAE and text encoder.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ModelShape:
    """Dimensions that the FLOPs of one forward depend on."""

    dim: int
    ffn_dim: int
    num_layers: int
    num_vace_layers: int
    text_len: int
    text_dim: int = 4096
    in_channels: int = 16
    out_channels: int = 16
    vace_in_channels: int = 96
    patch_volume: int = 4
    image_len: int = 0
    image_dim: int = 0

    @property
    def context_len(self) -> int:
        """What every token attends to in cross-attention: the prompt's tokens and an image's."""
        return self.text_len + self.image_len


def self_attention_flops(q_rows: int, fresh_rows: int, k_rows: int, dim: int) -> int:
    """Q and O projections of q_rows, K and V projections of fresh_rows, attention of q_rows over k_rows."""
    return 4 * q_rows * dim**2 + 4 * fresh_rows * dim**2 + 4 * q_rows * k_rows * dim


def cross_attention_flops(q_rows: int, text_len: int, dim: int) -> int:
    """Q and O projections, text K and V projections, attention over the text tokens."""
    return 4 * q_rows * dim**2 + 4 * text_len * dim**2 + 4 * q_rows * text_len * dim


def mlp_flops(rows: int, dim: int, ffn_dim: int) -> int:
    return 4 * rows * dim * ffn_dim


def linear_flops(rows: int, in_dim: int, out_dim: int) -> int:
    return 2 * rows * in_dim * out_dim


def block_flops(shape: ModelShape, rows: int, k_rows: int) -> int:
    """One transformer block on `rows` tokens whose queries attend to `k_rows` keys."""
    return (
        self_attention_flops(rows, rows, k_rows, shape.dim)
        + cross_attention_flops(rows, shape.context_len, shape.dim)
        + mlp_flops(rows, shape.dim, shape.ffn_dim)
    )


def vace_projection_flops(shape: ModelShape, rows: int) -> int:
    """`after_proj` of every VACE layer and `before_proj` of the first."""
    return linear_flops(rows, shape.dim, shape.dim) * (shape.num_vace_layers + 1)


def outside_flops(shape: ModelShape, num_tokens: int) -> int:
    """What every step pays, also a reused one: patch embedding and head."""
    patch = linear_flops(num_tokens, shape.in_channels * shape.patch_volume, shape.dim)
    return patch + linear_flops(num_tokens, shape.dim, shape.out_channels * shape.patch_volume)


def text_flops(shape: ModelShape) -> int:
    """The MLPs of the prompt and of an image's features: the same at every step, so the caching forward pays them once
    per branch and video."""
    text = linear_flops(shape.text_len, shape.text_dim, shape.dim) + linear_flops(shape.text_len, shape.dim, shape.dim)
    image = linear_flops(shape.image_len, shape.image_dim, shape.image_dim)
    return text + image + linear_flops(shape.image_len, shape.image_dim, shape.dim)


def vace_embedding_flops(shape: ModelShape, num_tokens: int) -> int:
    """The VACE condition's patch embedding: paid once per video."""
    return linear_flops(num_tokens, shape.vace_in_channels * shape.patch_volume, shape.dim)


def full_step_flops(shape: ModelShape, num_tokens: int) -> int:
    """One uncached forward of one CFG branch."""
    num_blocks = shape.num_layers + shape.num_vace_layers
    total = outside_flops(shape, num_tokens) + text_flops(shape)
    total += num_blocks * block_flops(shape, num_tokens, num_tokens)
    if shape.num_vace_layers:
        total += vace_projection_flops(shape, num_tokens) + vace_embedding_flops(shape, num_tokens)
    return total


def repeated_step_flops(shape: ModelShape, num_tokens: int) -> int:
    """A full step without what a video pays only once: the embeddings of the prompt and of the VACE condition."""
    once = text_flops(shape) + (vace_embedding_flops(shape, num_tokens) if shape.num_vace_layers else 0)
    return full_step_flops(shape, num_tokens) - once


def partial_step_flops(
    shape: ModelShape, num_tokens: int, num_active: int, cached_kv: bool = True, vace_rows: bool = True
) -> int:
    """A compact step of `num_active` tokens; `vace_rows` False adds cached hints instead of running VACE."""
    k_rows = num_tokens if cached_kv else num_active
    num_blocks = shape.num_layers + (shape.num_vace_layers if vace_rows else 0)
    total = outside_flops(shape, num_tokens) + num_blocks * block_flops(shape, num_active, k_rows)
    if vace_rows and shape.num_vace_layers:
        total += vace_projection_flops(shape, num_active)
    return total


def cache_bytes(shape: ModelShape, num_tokens: int, cached_kv: bool, vace_rows: bool, bytes_per_value: int) -> int:
    """What HetCache keeps per CFG branch: the stack residual, K and V of every cached layer, VACE hints."""
    num_tensors = 1
    if cached_kv:
        num_tensors += 2 * (shape.num_layers + (shape.num_vace_layers if vace_rows else 0))
    if not vace_rows:
        num_tensors += shape.num_vace_layers
    return num_tensors * num_tokens * shape.dim * bytes_per_value


def velocity_bytes(shape: ModelShape, num_tokens: int, bytes_per_value: int) -> int:
    """One model output [1, C, F, H, W]."""
    return num_tokens * shape.patch_volume * shape.out_channels * bytes_per_value


@dataclass
class WorkMeter:
    """What one denoiser call really ran; the block operations add to it as they are called (host integers)."""

    flops: int = 0
    blocks: dict[str, int] = field(default_factory=lambda: {"dit": 0, "vace": 0})
    sublayers: dict[str, int] = field(default_factory=lambda: {"self_attn": 0, "cross_attn": 0, "mlp": 0})

    def add(self, other: WorkMeter) -> None:
        self.flops += other.flops
        for mine, theirs in ((self.blocks, other.blocks), (self.sublayers, other.sublayers)):
            for name, count in theirs.items():
                mine[name] += count
