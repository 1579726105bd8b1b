"""Both branches of guidance as one batch of 2: computed at the conditional call, handed out one after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from hetcache.core.denoiser import Call
from hetcache.core.flops import WorkMeter
from hetcache.core.vocabulary import Branch, Decision, Step


@dataclass(frozen=True)
class Computed:
    """What one denoiser call produced: `velocity` [B, C, F, H, W], and how, for the trace."""

    velocity: torch.Tensor
    decision: Decision
    num_tokens: int
    meter: WorkMeter


class GuidancePair:
    """Row 0 of the batch is the conditional branch, row 1 the unconditional one.

    `negative` is the unconditional call's `Call.context`: the pipeline makes it before its loop, and the adapter sets
    it here.
    """

    def __init__(self) -> None:
        self.negative: torch.Tensor | None = None
        self._context: tuple[torch.Tensor, torch.Tensor] | None = None
        self._held: tuple[Step, Computed] | None = None

    def run(self, step: Step, call: Call, compute: Callable[[Call], Computed]) -> Computed:
        """The half of the step that belongs to the call's branch. Raises RuntimeError when the unconditional call does
        not follow the conditional one of the same step."""
        if call.branch is Branch.COND:
            both = compute(self._batched(call))
            self._held = step, _half(both, 1)
            return _half(both, 0)
        if self._held is None or self._held[0] is not step:
            raise RuntimeError("the unconditional branch was called before the conditional one of its step")
        half, self._held = self._held[1], None
        return half

    def _batched(self, call: Call) -> Call:
        if self._context is None or self._context[0] is not call.context:
            assert self.negative is not None, "the adapter says what the unconditional branch is called with"
            self._context = call.context, torch.cat([call.context, self.negative])
        latents = call.latents_BCFHW.expand(2, *call.latents_BCFHW.shape[1:])
        image = call.image_context
        if image is not None:
            image = image.expand(2, *image.shape[1:])
        return replace(call, latents_BCFHW=latents, context=self._context[1], image_context=image)


def _half(both: Computed, row: int) -> Computed:
    meter = replace(both.meter, flops=both.meter.flops // 2)
    return replace(both, velocity=both.velocity[row : row + 1], meter=meter)
