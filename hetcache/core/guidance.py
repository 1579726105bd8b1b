"""Both branches of guidance at the conditional call, handed out one after the other: as one batch of 2, or each on
other processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from hetcache.core.denoiser import Call
from hetcache.core.flops import WorkMeter
from hetcache.core.ranks import BRANCHES, Ranks
from hetcache.core.vocabulary import Branch, Decision, Step

if TYPE_CHECKING:
    from hetcache.core.session import CacheSession


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


class RankedGuidance:
    """What several processes compute of a step, put together: every rank has both velocities and the account of all
    work. With cfg, a rank computes its own branch at the conditional call and holds the other until it is asked for.

    `negative` as in `GuidancePair`.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.negative: torch.Tensor | None = None
        self._ranks = ranks
        self._held: tuple[Step, dict[Branch, Computed]] | None = None
        self._flops = [0] * ranks.size

    def run(self, step: Step, call: Call, compute: Callable[[Call], Computed]) -> Computed:
        """The call's branch of the step. Raises RuntimeError as `GuidancePair`'s, RankError without the others."""
        if self._ranks.branch is None:
            return self._gathered(call.branch, compute(call))[call.branch]
        if call.branch is Branch.COND:
            if self._ranks.branch is Branch.UNCOND:
                assert self.negative is not None, "the adapter says what the unconditional branch is called with"
                call = replace(call, branch=Branch.UNCOND, context=self.negative)
            self._held = step, self._gathered(call.branch, compute(call))
            return self._held[1][Branch.COND]
        if self._held is None or self._held[0] is not step:
            raise RuntimeError("the unconditional branch was called before the conditional one of its step")
        done, self._held = self._held[1][Branch.UNCOND], None
        return done

    def finish(self, session: CacheSession) -> None:
        """Behind the loop: what the other ranks know of the run, for its record."""
        ranks = self._ranks
        told = ranks.gather((session.cache_bytes, session.notes()))
        for _, notes in told[1:]:
            for branch in BRANCHES:
                session.facts.setdefault(branch.value, notes.get(branch.value, {}))
        session.cache_bytes_elsewhere = sum(used for used, _ in told) - session.cache_bytes
        session.facts["parallel"] = {
            "kind": ranks.kind,
            "ranks": ranks.size,
            "flops_per_rank": list(self._flops),
            "cache_bytes_per_rank": [used for used, _ in told],
        }

    def _gathered(self, branch: Branch, done: Computed) -> dict[Branch, Computed]:
        """By branch, with the work of all ranks that shared it."""
        ranks, decision = self._ranks, done.decision
        told = ranks.gather((replace(decision, plan=None), done.num_tokens, done.meter))
        for rank, (_, _, meter) in enumerate(told):
            self._flops[rank] += meter.flops
        velocities = {branch: done.velocity}
        if ranks.branch is not None:
            velocities = dict(zip(BRANCHES, ranks.both(done.velocity), strict=True))
        found = {}
        for each, velocity in velocities.items():
            ours = [told[rank] for rank in range(ranks.size) if ranks.branch_of(rank) in (None, each)]
            other, num_tokens, meter = ours[0]
            # Branches that compute some tokens share which.
            other = replace(other, plan=decision.plan if other.compute is decision.compute else None)
            work = replace(meter, flops=sum(theirs.flops for _, _, theirs in ours))
            found[each] = Computed(velocity, other, num_tokens, work)
        return found
