"""Both branches of guidance as one batch of 2: computed at the conditional call, handed out one after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

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

    `negative` are the keyword arguments of the unconditional call: the pipeline makes them before its loop.
    """

    def __init__(self) -> None:
        self.negative: dict[str, Any] = {}
        self._context: tuple[torch.Tensor, torch.Tensor] | None = None
        self._held: tuple[Step, Computed] | None = None

    def run(
        self, branch: Branch, step: Step, args: dict[str, Any], compute: Callable[[dict[str, Any]], Computed]
    ) -> Computed:
        """The branch's half of the step. Raises RuntimeError when the unconditional call does not follow the
        conditional one of the same step."""
        if branch is Branch.COND:
            both = compute(self._batched(args))
            self._held = step, _half(both, 1)
            return _half(both, 0)
        if self._held is None or self._held[0] is not step:
            raise RuntimeError("the unconditional branch was called before the conditional one of its step")
        half, self._held = self._held[1], None
        return half

    def _batched(self, args: dict[str, Any]) -> dict[str, Any]:
        latents, context = args["latents"], args["context"]
        if self._context is None or self._context[0] is not context:
            self._context = context, torch.cat([context, self.negative["context"]])
        return {**args, "latents": latents.expand(2, *latents.shape[1:]), "context": self._context[1]}


def _half(both: Computed, row: int) -> Computed:
    meter = replace(both.meter, flops=both.meter.flops // 2)
    return replace(both, velocity=both.velocity[row : row + 1], meter=meter)
