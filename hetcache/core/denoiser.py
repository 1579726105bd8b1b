"""What a pipeline library provides: `Call`, a denoiser call in words that all share; `Denoiser`, the model in parts.

`hetcache.core.step.CachedForward` puts the parts together under a mode. An adapter translates its library's call into a
`Call`, and its transformer into a `Denoiser`; nothing else of it is seen from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch

from hetcache.core.block import BlockInputs
from hetcache.core.flops import ModelShape, WorkMeter
from hetcache.core.vocabulary import BlockOps, Branch, Hidden


@dataclass(frozen=True, eq=False)
class Call:
    """One denoiser call: one step of one branch, or of both where the batch holds both.

    `latents_BCFHW` is the model's input, `timestep` what the library gives it, `context` the text encoder's output
    [B, L, C] before the model's own text MLP. `condition` feeds the VACE blocks (None: they do not run) and `scales`
    are the factors of their hints, one each. `image_context` [B, L, C] are an image's features that go before the
    prompt, before the model's own MLP for them. The first `reference_frames` latent frames are reference images.
    """

    branch: Branch
    latents_BCFHW: torch.Tensor
    timestep: torch.Tensor
    context: torch.Tensor
    condition: Any = None
    scales: tuple[float | torch.Tensor, ...] = ()
    image_context: torch.Tensor | None = None
    reference_frames: int = 0


Inputs = TypeVar("Inputs", bound=BlockInputs)


class Denoiser(Protocol[Inputs]):
    """A transformer of DiT blocks, with VACE blocks beside it or without. Stateless but for its weights: what is the
    same at every step is kept by the caller, which asks for it once.

    `hint_after` maps a DiT layer to the hint that is added behind it. Stacks are named `dit` and `vace`.
    """

    num_layers: int
    num_hints: int
    hint_after: Mapping[int, int]

    def shape(self, call: Call) -> ModelShape:
        """The dimensions that the FLOPs of this call depend on."""
        ...

    def signals(self, timesteps: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """By name, the static signals (`e`, `e0`) of all steps of a run at once, [T, ...] float32."""
        ...

    def embed_text(self, call: Call) -> torch.Tensor:
        """The prompt as tokens [B, L, D], behind those of `image_context`."""
        ...

    def embed(self, call: Call, context_BLD: torch.Tensor) -> Hidden:
        """Latents as tokens, timestep as embedding and modulation."""
        ...

    def embed_condition(self, call: Call, hidden: Hidden) -> torch.Tensor:
        """The VACE condition as tokens [1 or B, N, D]."""
        ...

    def rope(self, hidden: Hidden) -> Any:
        """The rotary table of all tokens; only the block inputs know what it looks like."""
        ...

    def inputs(self, hidden: Hidden, rope: Any, meter: WorkMeter) -> Inputs: ...

    def deviations(self, hidden: Hidden, inputs: Inputs) -> dict[str, float]:
        """How far options of this denoiser move it from the library's own on this video, for the run's notes; empty
        for one that computes the same bits. Asked once a video."""
        ...

    def block(self, stack: str, layer: int, inputs: Inputs) -> AbstractContextManager[BlockOps]:
        """One block, with its weights at hand inside the context."""
        ...

    def before_vace(self, ops: Any, c_BND: torch.Tensor, x_BND: torch.Tensor) -> torch.Tensor:
        """What enters the first VACE block, `ops`: the projected condition with the tokens."""
        ...

    def after_vace(self, ops: Any, c_BND: torch.Tensor) -> torch.Tensor:
        """The hint of a VACE block from what it put out."""
        ...

    def head(self, hidden: Hidden, x_BND: torch.Tensor) -> torch.Tensor:
        """Velocity [B, C, F, H, W] from the tokens behind the stack."""
        ...
