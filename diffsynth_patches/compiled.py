"""The parts of a block between rotation and attention, as functions: called as they are, or compiled.

RoPE and attention stay outside: the rotation is complex and in double precision, which the compiler does not
generate code for, and attention is one fused kernel already, of whichever library is installed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffsynth.models.wan_video_dit import modulate

QKV = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
NUM_SIZES = 1024
"""Row counts that one process may compile for before torch refuses: two a window of a video, full and partial."""


def self_qkv(
    attn: Any, norm1: torch.nn.Module, x_BND: torch.Tensor, shift_B1D: torch.Tensor, scale_B1D: torch.Tensor
) -> QKV:
    """Normalised queries and keys, not yet rotated, and values of a self-attention."""
    input_BND = modulate(norm1(x_BND), shift_B1D, scale_B1D)
    return attn.norm_q(attn.q(input_BND)), attn.norm_k(attn.k(input_BND)), attn.v(input_BND)


def cross_qkv(attn: Any, norm3: torch.nn.Module, x_BND: torch.Tensor, context_BLD: torch.Tensor) -> QKV:
    """Queries of the tokens, keys and values of the prompt."""
    return attn.norm_q(attn.q(norm3(x_BND))), attn.norm_k(attn.k(context_BLD)), attn.v(context_BLD)


def mlp(
    ffn: torch.nn.Module, norm2: torch.nn.Module, x_BND: torch.Tensor, shift_B1D: torch.Tensor, scale_B1D: torch.Tensor
) -> torch.Tensor:
    out_BND: torch.Tensor = ffn(modulate(norm2(x_BND), shift_B1D, scale_B1D))
    return out_BND


def add_gated(x_BND: torch.Tensor, gate_B1D: torch.Tensor, out_BND: torch.Tensor) -> torch.Tensor:
    return x_BND + gate_B1D * out_BND


@dataclass(frozen=True)
class Regions:
    """What `DiTBlockOps` computes with, apart from RoPE and attention."""

    self_qkv: Callable[..., QKV] = self_qkv
    cross_qkv: Callable[..., QKV] = cross_qkv
    mlp: Callable[..., torch.Tensor] = mlp
    add_gated: Callable[..., torch.Tensor] = add_gated


EAGER = Regions()


@contextmanager
def compiled_regions(device: str) -> Iterator[Regions]:
    """The regions compiled: one graph per row count, shared by all layers of both stacks, whose blocks are alike.

    Raises ValueError when torch could not compile for this device.
    """
    check_compiler(device)
    functions = (self_qkv, cross_qkv, mlp, add_gated)
    # With fullgraph torch raises at the limit; without, it would go on uncompiled.
    with torch._dynamo.config.patch(recompile_limit=NUM_SIZES, accumulated_recompile_limit=4 * NUM_SIZES):
        compiled: list[Any] = [torch.compile(f, dynamic=False, fullgraph=True) for f in functions]
        yield Regions(*compiled)


def check_compiler(device: str) -> None:
    """Raise ValueError when torch could not compile for this device."""
    # Imported here: the compiler's packages take seconds to load, and few runs ask for it.
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler
    from torch.utils._triton import has_triton

    if device.startswith("cuda"):
        if not has_triton():
            raise ValueError("--compile: Triton is not installed or does not support this GPU; leave the flag out")
        return
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise ValueError(
            "--compile: no C++ compiler was found; install g++ or clang++, name one in CXX, or leave the flag out"
        ) from error
