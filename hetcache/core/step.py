"""One denoiser call under a cache: embed, decide, then compute all tokens, some tokens or none.

For every pipeline library: an adapter gives a `Denoiser` and turns its library's call into a `Call`. A mode without a
cache reproduces the library's own function bit for bit. The decision comes before the VACE blocks, which other caches
run on reused steps too: a third of a step. What a computed step runs, and how far, is the manager's `run_stack`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from hetcache.core.block import BlockInputs
from hetcache.core.denoiser import Call, Denoiser
from hetcache.core.drift import relative_l1
from hetcache.core.flops import (
    ModelShape,
    WorkMeter,
    full_step_flops,
    outside_flops,
    text_flops,
    vace_embedding_flops,
)
from hetcache.core.guidance import Computed, GuidancePair, RankedGuidance
from hetcache.core.session import CacheSession
from hetcache.core.trace import StepRecord
from hetcache.core.vocabulary import Branch, CacheManager, Compute, Decision, Grid, Hidden, Schedule, Step
from hetcache.core.walk import StackWalk
from hetcache.files import UserError


class CachedForward:
    """The denoiser of one video under `session`'s managers. With a `GuidancePair` the conditional call computes both
    branches as one batch under the conditional manager; the session's ranks share the work where there are several,
    and their `RankedGuidance` gathers it. A plain class on purpose: a pipeline may be an `nn.Module`, which would take
    a module for its child."""

    def __init__(
        self,
        denoiser: Denoiser[Any],
        session: CacheSession,
        pair: GuidancePair | RankedGuidance | None = None,
    ) -> None:
        self._denoiser = denoiser
        self._session = session
        self._pair = pair
        self._ranks = session.ranks
        self._condition: torch.Tensor | None = None
        self._text: dict[Branch, tuple[torch.Tensor, torch.Tensor]] = {}
        self._rope: tuple[Grid, Any] | None = None
        self._noted = False
        self.shape: ModelShape | None = None

    def __call__(self, call: Call) -> torch.Tensor:
        """Velocity [B, C, F, H, W] of the call at the session's step."""
        step = self._session.step
        assert step is not None, "the session is at no step: begin() and advance() come first"

        def compute(call: Call) -> Computed:
            return self._compute(call, step)

        done = compute(call) if self._pair is None else self._pair.run(step, call, compute)
        self._record(step, call.branch, done)
        return done.velocity

    def _compute(self, call: Call, step: Step) -> Computed:
        manager, meter = self._session.manager(call.branch, call.reference_frames), WorkMeter()
        hidden = self._embed(call, meter)
        check_tokens(manager.num_tokens, hidden.grid, call.reference_frames)
        decision = self._ranks.agree(
            self._session.position, manager.decide(step, hidden), manager.shares_decisions, hidden.x_BND
        )
        if decision.plan is not None:
            check_tokens(decision.plan.num_tokens, hidden.grid, call.reference_frames)
        if decision.compute is Compute.REUSE:
            if manager.vace_on_reuse and call.condition is not None:
                # The result is dropped, so the blocks run plainly and the mode's cache does not see them.
                self._walk(CacheManager(), call, hidden, decision, meter).hints()
            reused = manager.reuse(step, hidden)
            velocity = reused if manager.reuse_level == "velocity" else self._denoiser.head(hidden, reused)
        else:
            x_BND = self._run_stack(manager, step, call, hidden, decision, meter)
            velocity = self._denoiser.head(hidden, x_BND)
            manager.commit(step, decision, hidden, x_BND, velocity)
            self._session.check_budget()
        return Computed(velocity, manager.outcome(decision), hidden.grid.num_tokens, meter)

    def _embed(self, call: Call, meter: WorkMeter) -> Hidden:
        context_BLD, is_new = self._embed_text(call)
        hidden = self._denoiser.embed(call, context_BLD)
        if self.shape is None:
            self.shape = self._denoiser.shape(call)
        batch, num_tokens = hidden.x_BND.shape[:2]
        meter.flops += outside_flops(self.shape, num_tokens) * batch
        if is_new:
            meter.flops += text_flops(self.shape) * batch
        return hidden

    def _embed_text(self, call: Call) -> tuple[torch.Tensor, bool]:
        """(text tokens [B, L, D], were they embedded now?): a branch's prompt is the same at every step."""
        known = self._text.get(call.branch)
        if known is not None and known[0] is call.context:
            return known[1], False
        self._text[call.branch] = (call.context, self._denoiser.embed_text(call))
        return self._text[call.branch][1], True

    def _embed_condition(self, call: Call, hidden: Hidden, meter: WorkMeter) -> torch.Tensor:
        """The VACE condition as tokens [B, N, D]: the same at every step, so embedded once per video."""
        if self._condition is None:
            self._condition = self._denoiser.embed_condition(call, hidden)
            assert self.shape is not None
            meter.flops += vace_embedding_flops(self.shape, hidden.x_BND.shape[1])
        return self._condition.expand_as(hidden.x_BND)

    def _inputs(self, hidden: Hidden, decision: Decision, meter: WorkMeter) -> BlockInputs:
        """What the blocks share at this step, restricted to the rows that are computed here."""
        if self._rope is None or self._rope[0] != hidden.grid:
            self._rope = hidden.grid, self._denoiser.rope(hidden)
        inputs: BlockInputs = self._denoiser.inputs(hidden, self._rope[1], meter)
        if not self._noted:
            self._noted = True
            self._session.facts.update(self._denoiser.deviations(hidden, inputs))
        rows_A = None if decision.plan is None else decision.plan.rows_A
        if rows_A is not None:
            inputs = inputs.at(rows_A)
        num_rows = hidden.grid.num_tokens if rows_A is None else len(rows_A)
        share = self._ranks.share(num_rows, rows_A, hidden.x_BND.device)
        return inputs if share is None else replace(inputs.at(share.mine), share=share)

    def _walk(
        self, manager: CacheManager, call: Call, hidden: Hidden, decision: Decision, meter: WorkMeter
    ) -> StackWalk:
        def embed_condition() -> torch.Tensor:
            return self._embed_condition(call, hidden, meter)

        return StackWalk(
            self._denoiser,
            manager,
            call,
            hidden,
            decision,
            self._inputs(hidden, decision, meter),
            None if call.condition is None else embed_condition,
            self._session.check_budget,
        )

    def _run_stack(
        self, manager: CacheManager, step: Step, call: Call, hidden: Hidden, decision: Decision, meter: WorkMeter
    ) -> torch.Tensor:
        walk = self._walk(manager, call, hidden, decision, meter)
        share = walk.inputs.share
        if share is not None and not manager.splits_rows:
            raise UserError(
                f"--parallel {self._ranks.kind}: this mode's blocks choose rows of their own, which cannot be shared "
                "out among processes; use --parallel cfg, or another --mode"
            )
        x_BAD = manager.run_stack(walk, step, hidden, decision)
        return manager.merge(step, hidden, x_BAD if share is None else share.all_rows(x_BAD), decision)

    def _record(self, step: Step, branch: Branch, done: Computed) -> None:
        decision, meter = done.decision, done.meter
        active = {Compute.FULL: done.num_tokens, Compute.REUSE: 0}.get(
            decision.compute, decision.plan.num_active if decision.plan is not None else done.num_tokens
        )
        record = StepRecord(
            self._session.position,
            step.timestep,
            branch,
            decision.compute,
            decision.reason,
            decision.signal,
            decision.threshold,
            active,
            meter.flops,
            meter.blocks["dit"],
            meter.blocks["vace"],
        )
        assert self.shape is not None
        uncached = full_step_flops(self.shape, done.num_tokens)
        self._session.trace.append(record, meter, decision.plan, done.num_tokens, uncached)


def check_tokens(num_tokens: int | None, grid: Grid, reference_frames: int) -> None:
    """Raise UserError when the mode was told of another number of tokens than the denoiser has. None is any number."""
    if num_tokens is None or num_tokens == grid.num_tokens:
        return
    reference = f", {reference_frames} of them of reference images" if reference_frames else ""
    raise UserError(
        f"the mask has {num_tokens} tokens and the denoiser {grid.num_tokens} ({grid.frames} latent frames of "
        f"{grid.height}x{grid.width}{reference}): the mask must have the frames, height and width of the call "
        "(those of vace_reference_image or reference_images are counted without it)"
    )


def static_schedule(denoiser: Denoiser[Any], timesteps: torch.Tensor) -> Schedule:
    """The static signals of all steps at once: one embedding of all timesteps, one synchronisation."""
    with torch.no_grad():
        changes = {
            name: [relative_l1(value[i], value[i - 1]) for i in range(1, len(value))]
            for name, value in denoiser.signals(timesteps).items()
        }
        rel_l1 = {name: (0.0, *(torch.stack(c).tolist() if c else [])) for name, c in changes.items()}
    return Schedule(tuple(float(t) for t in timesteps), rel_l1)
