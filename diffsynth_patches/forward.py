"""CachedForward: stands in for `pipe.model_fn`, one denoiser call at a time.

embed -> decide -> reuse, or VACE hints and DiT blocks on the rows that the decision names -> commit -> head.
Upstream evaluates the VACE blocks before its own TeaCache test, so its reused steps still pay a third of a step;
here the decision comes first.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from diffsynth.models.wan_video_dit import rope_apply, sinusoidal_embedding_1d
from einops import rearrange

from diffsynth_patches.block import BlockInputs, DiTBlockOps, computable, rope_apply_float32
from diffsynth_patches.compat import ModelArguments
from diffsynth_patches.compiled import EAGER, Regions
from hetcache.core.drift import relative_l1
from hetcache.core.flops import (
    ModelShape,
    WorkMeter,
    linear_flops,
    outside_flops,
    text_flops,
    vace_embedding_flops,
)
from hetcache.core.guidance import Computed, GuidancePair
from hetcache.core.session import CacheSession
from hetcache.core.trace import StepRecord
from hetcache.core.vocabulary import Branch, CacheManager, Compute, Decision, Grid, Hidden, Schedule, Step


class CachedForward:
    """A plain class on purpose: the pipeline is an `nn.Module` and would register a module as its child."""

    def __init__(
        self,
        pipe: Any,
        session: CacheSession,
        fast_rope: bool = False,
        pair: GuidancePair | None = None,
        regions: Regions = EAGER,
    ) -> None:
        """With `pair` the conditional call computes both branches as one batch under the conditional manager;
        `regions` are the compiled parts of a block."""
        self._session = session
        self._fast_rope = fast_rope
        self._pair = pair
        self._regions = regions
        self._arguments = ModelArguments(pipe.model_fn)
        self._vace_tokens: torch.Tensor | None = None
        self._text: dict[Branch, tuple[torch.Tensor, torch.Tensor]] = {}
        self._freqs: tuple[Grid, torch.Tensor] | None = None
        self.shape: ModelShape | None = None

    def __call__(self, **kwargs: Any) -> torch.Tensor:
        """Velocity [B, C, F, H, W] of this step and branch. Raises ValueError for arguments that only the
        upstream function supports, naming them."""
        args = self._arguments.check(kwargs)
        step = self._session.step
        if step is None:
            raise RuntimeError("pass progress_bar_cmd=session.steps to the pipeline")
        branch = Branch.COND if args["positive"] else Branch.UNCOND

        def compute(arguments: dict[str, Any]) -> Computed:
            return self._compute(arguments, step, branch)

        done = compute(args) if self._pair is None else self._pair.run(branch, step, args, compute)
        self._record(step, branch, done)
        return done.velocity

    def _compute(self, args: dict[str, Any], step: Step, branch: Branch) -> Computed:
        dit = args["dit"]
        manager, meter = self._session.manager(branch), WorkMeter()
        hidden = self._embed(args, branch, meter)
        decision = manager.decide(step, hidden)
        if decision.compute is Compute.REUSE:
            if manager.vace_on_reuse and args["vace_context"] is not None:
                # The result is dropped, so the blocks run plainly and the mode's cache does not see them.
                inputs = self._inputs(args, hidden, meter)
                self._run_vace(CacheManager(), args, hidden, hidden.x_BND, decision, inputs)
            reused = manager.reuse(hidden)
            velocity = reused if manager.reuse_level == "velocity" else self._head(dit, hidden, reused)
        else:
            x_BND = self._run_stack(manager, args, hidden, decision, meter)
            velocity = self._head(dit, hidden, x_BND)
            manager.commit(step, decision, hidden, x_BND, velocity)
            self._session.check_budget()
        return Computed(velocity, manager.outcome(decision), hidden.grid.num_tokens, meter)

    def _embed(self, args: dict[str, Any], branch: Branch, meter: WorkMeter) -> Hidden:
        dit, latents, timestep = args["dit"], args["latents"], args["timestep"]
        t_BD = dit.time_embedding(sinusoidal_embedding_1d(dit.freq_dim, timestep))
        t_mod_B6D = dit.time_projection(t_BD).unflatten(1, (6, dit.dim))
        context_BLD, is_new = self._embed_text(dit, args["context"], branch)
        x = dit.patchify(latents, None)
        grid = Grid(*x.shape[2:])
        x_BND = rearrange(x, "b c f h w -> b (f h w) c").contiguous()
        if self.shape is None:
            vace = args["vace"] if args["vace_context"] is not None else None
            self.shape = model_shape(dit, vace, context_BLD.shape[1])
        meter.flops += outside_flops(self.shape, grid.num_tokens) * x_BND.shape[0]
        if is_new:
            meter.flops += text_flops(self.shape) * x_BND.shape[0]
        return Hidden(x_BND, t_BD, t_mod_B6D, context_BLD, latents, grid)

    def _embed_text(self, dit: Any, context: torch.Tensor, branch: Branch) -> tuple[torch.Tensor, bool]:
        """(text tokens [B, L, D], were they embedded now?): a branch's prompt is the same at every step."""
        known = self._text.get(branch)
        if known is not None and known[0] is context:
            return known[1], False
        self._text[branch] = (context, dit.text_embedding(context))
        return self._text[branch][1], True

    def _run_stack(
        self, manager: CacheManager, args: dict[str, Any], hidden: Hidden, decision: Decision, meter: WorkMeter
    ) -> torch.Tensor:
        dit, vace = args["dit"], args["vace"]
        x = hidden.x_BND
        inputs = self._inputs(args, hidden, meter)
        if decision.plan is not None:
            inputs = inputs.at(decision.plan.rows_A)
            x = x.index_select(1, decision.plan.rows_A)
        hints = None
        if args["vace_context"] is not None:
            hints = manager.hints(hidden, decision)
            if hints is None:
                hints = self._run_vace(manager, args, hidden, x, decision, inputs)
                manager.keep_hints(hints, decision)
        num_layers = len(dit.blocks)
        for layer, block in enumerate(dit.blocks):
            x = manager.run_block(DiTBlockOps(computable(block), "dit", layer, num_layers, inputs), x, decision)
            self._session.check_budget()
            if hints is not None and layer in vace.vace_layers_mapping:
                x = x + hints[vace.vace_layers_mapping[layer]] * args["vace_scale"]
        return manager.merge(hidden, x, decision)

    def _inputs(self, args: dict[str, Any], hidden: Hidden, meter: WorkMeter) -> BlockInputs:
        freqs_N1E = self._rope(args["dit"], hidden)
        rope = rope_apply_float32 if self._fast_rope else rope_apply
        inputs = BlockInputs(hidden.context_BLD, hidden.t_mod_B6D, freqs_N1E, meter, rope=rope, regions=self._regions)
        if self._regions is not EAGER and "compile_relative_error" not in self._session.facts:
            self._note_compile_error(args["dit"], hidden.x_BND, inputs)
        return inputs

    def _run_vace(
        self,
        manager: CacheManager,
        args: dict[str, Any],
        hidden: Hidden,
        x_BAD: torch.Tensor,
        decision: Decision,
        inputs: BlockInputs,
    ) -> list[torch.Tensor]:
        """Hints of the computed rows, one per VACE layer. Upstream restacks all hints at every block; this loop
        keeps a list, with identical results."""
        vace = args["vace"]
        c = self._embed_vace(vace, args["vace_context"], hidden, inputs.meter).expand_as(hidden.x_BND)
        if decision.plan is not None:
            c = c.index_select(1, decision.plan.rows_A)
        hints: list[torch.Tensor] = []
        num_layers, dim = len(vace.vace_blocks), x_BAD.shape[2]
        for layer, wrapped in enumerate(vace.vace_blocks):
            block = computable(wrapped)
            if layer == 0:
                c = block.before_proj(c) + x_BAD
                inputs.meter.flops += linear_flops(c.shape[1], dim, dim) * c.shape[0]
            c = manager.run_block(DiTBlockOps(block, "vace", layer, num_layers, inputs), c, decision)
            self._session.check_budget()
            hints.append(block.after_proj(c))
            inputs.meter.flops += linear_flops(c.shape[1], dim, dim) * c.shape[0]
        return hints

    def _embed_vace(self, vace: Any, vace_context: torch.Tensor, hidden: Hidden, meter: WorkMeter) -> torch.Tensor:
        """The VACE condition as tokens [1, N, D]: the same at every step, so embedded once per video."""
        if self._vace_tokens is None:
            num_tokens = hidden.x_BND.shape[1]
            tokens = [vace.vace_patch_embedding(u.unsqueeze(0)).flatten(2).transpose(1, 2) for u in vace_context]
            padded = [torch.cat([u, u.new_zeros(1, num_tokens - u.size(1), u.size(2))], dim=1) for u in tokens]
            self._vace_tokens = torch.cat(padded)
            assert self.shape is not None
            meter.flops += vace_embedding_flops(self.shape, num_tokens)
        return self._vace_tokens

    def _rope(self, dit: Any, hidden: Hidden) -> torch.Tensor:
        """RoPE rows [N, 1, head_dim / 2], complex128 (complex64 if fast): the same at every step, built once."""
        if self._freqs is None or self._freqs[0] != hidden.grid:
            f, h, w = hidden.grid.frames, hidden.grid.height, hidden.grid.width
            freqs = torch.cat(
                [
                    dit.freqs[0][:f].view(f, 1, 1, -1).expand(f, h, w, -1),
                    dit.freqs[1][:h].view(1, h, 1, -1).expand(f, h, w, -1),
                    dit.freqs[2][:w].view(1, 1, w, -1).expand(f, h, w, -1),
                ],
                dim=-1,
            ).reshape(f * h * w, 1, -1)
            freqs = freqs.to(hidden.x_BND.device)
            if self._fast_rope:
                freqs = self._fast_freqs(dit, hidden.x_BND, freqs)
            self._freqs = (hidden.grid, freqs)
        return self._freqs[1]

    def _fast_freqs(self, dit: Any, x_BND: torch.Tensor, freqs: torch.Tensor) -> torch.Tensor:
        """The table in complex64; the difference it makes on this video's tokens goes into the run's notes."""
        fast, num_heads = freqs.to(torch.complex64), computable(dit.blocks[0]).self_attn.num_heads
        exact = rope_apply(x_BND, freqs, num_heads)
        error = (rope_apply_float32(x_BND, fast, num_heads) - exact).float().norm() / exact.float().norm()
        self._session.facts["fast_rope_relative_error"] = float(error)
        return fast

    def _note_compile_error(self, dit: Any, x_BND: torch.Tensor, inputs: BlockInputs) -> None:
        """The difference that compiling makes in the first block's change of this video's tokens, for the notes."""
        block = computable(dit.blocks[0])

        def change(regions: Regions) -> torch.Tensor:
            ops = DiTBlockOps(block, "dit", 0, 1, replace(inputs, meter=WorkMeter(), regions=regions))
            return ops.full(x_BND).float() - x_BND.float()

        exact = change(EAGER)
        error = (change(self._regions) - exact).norm() / exact.norm()
        self._session.facts["compile_relative_error"] = float(error)

    def _head(self, dit: Any, hidden: Hidden, x_BND: torch.Tensor) -> torch.Tensor:
        grid = hidden.grid
        return dit.unpatchify(dit.head(x_BND, hidden.t_BD), (grid.frames, grid.height, grid.width))

    def _record(self, step: Step, branch: Branch, done: Computed) -> None:
        decision, meter = done.decision, done.meter
        active = {Compute.FULL: done.num_tokens, Compute.REUSE: 0}.get(
            decision.compute, decision.plan.num_active if decision.plan is not None else done.num_tokens
        )
        record = StepRecord(
            step.index,
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
        self._session.trace.append(record, meter, decision.plan)


def static_schedule(pipe: Any, timesteps: torch.Tensor) -> Schedule:
    """The static signals of all steps at once: one embedding of all timesteps, one synchronisation."""
    dit = pipe.dit
    cast = timesteps.to(dtype=pipe.torch_dtype, device=pipe.device)
    with torch.no_grad():
        e_TD = dit.time_embedding(sinusoidal_embedding_1d(dit.freq_dim, cast))
        signals = {"e": e_TD.float(), "e0": dit.time_projection(e_TD).float()}
        changes = {
            name: [relative_l1(value[i], value[i - 1]) for i in range(1, len(value))] for name, value in signals.items()
        }
        rel_l1 = {name: (0.0, *(torch.stack(c).tolist() if c else [])) for name, c in changes.items()}
    return Schedule(tuple(float(t) for t in timesteps), rel_l1)


def model_shape(dit: Any, vace: Any, text_len: int) -> ModelShape:
    """The dimensions of a DiT with its VACE branch (None: without one)."""
    return ModelShape(
        dim=dit.dim,
        ffn_dim=computable(dit.blocks[0]).ffn_dim,
        num_layers=len(dit.blocks),
        num_vace_layers=len(vace.vace_blocks) if vace is not None else 0,
        text_len=text_len,
        text_dim=dit.text_embedding[0].in_features,
        in_channels=dit.in_dim,
        out_channels=dit.head.head.out_features // math.prod(dit.patch_size),
        vace_in_channels=vace.vace_in_dim if vace is not None else 0,
        patch_volume=math.prod(dit.patch_size),
    )
