"""Pyramid Attention Broadcast (arXiv 2408.12588): reuse a module's last output iff c mod range != 0 inside a window.

c counts the computed forwards. Wan has one joint self-attention over space and time, mapped to PAB's "spatial"
attention (range 2), and a cross-attention (range 5); broadcasting the MLP of the first blocks is optional. Outputs
are cached before their gate, per branch, stack and layer. The plan follows from the schedule.

The paper's window is given in timesteps for schedules without shift. At shift 5 the raw window 100-800 holds only
21 of 50 steps, all late ones, so the default window is a fraction of the steps; `--pab-timesteps` takes a raw one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from hetcache.core.drift import REUSED_BY_COMPOSITION
from hetcache.core.flops import (
    ModelShape,
    cross_attention_flops,
    mlp_flops,
    repeated_step_flops,
    self_attention_flops,
)
from hetcache.core.lead import Decider
from hetcache.core.mode import Dial, MakeManager, Mode, RunContext
from hetcache.core.settings import check_settings, setting
from hetcache.core.store import FeatureStore
from hetcache.core.vocabulary import BlockOps, Branch, CacheManager, Compute, Decision, Hidden, Schedule, Step, sublayer

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class PabConfig:
    """Settings of `--mode pab`; each field is the CLI flag of the same name."""

    pab_self_range: int = setting(2, "self-attention is computed every so many steps of the window; 1 = every step")
    pab_cross_range: int = setting(5, "cross-attention is computed every so many steps of the window")
    pab_mlp_range: int = setting(1, "MLP of the first blocks is computed every so many steps of the window")
    pab_mlp_blocks: int = setting(5, "DiT blocks, from the first, whose MLP is broadcast")
    pab_window_start: float = setting(0.15, "the window's start, as a fraction of the steps")
    pab_window_end: float = setting(0.85, "the window's end, as a fraction of the steps")
    pab_timesteps: str | None = setting(
        None, "the window in raw timesteps instead, for example 100-800", shown="the fractions"
    )

    def __post_init__(self) -> None:
        check_settings(self)
        for name in ("pab_self_range", "pab_cross_range", "pab_mlp_range"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1 (computed at every step)")
        if self.pab_mlp_blocks < 0:
            raise ValueError(f"--pab-mlp-blocks must not be negative, not {self.pab_mlp_blocks}")
        if not 0.0 <= self.pab_window_start <= self.pab_window_end <= 1.0:
            raise ValueError("--pab-window-start and --pab-window-end must rise from 0 to 1")
        self.raw_window()

    def raw_window(self) -> tuple[float, float] | None:
        """(low, high) of `pab_timesteps`. Raises ValueError when it cannot be read."""
        if self.pab_timesteps is None:
            return None
        low, dash, high = self.pab_timesteps.partition("-")
        try:
            window = float(low), float(high)
        except ValueError:
            dash = ""
        if not dash or window[0] >= window[1]:
            raise ValueError(f"--pab-timesteps must look like 100-800, low first, not {self.pab_timesteps!r}")
        return window

    @property
    def ranges(self) -> dict[str, int]:
        return {"self_attn": self.pab_self_range, "cross_attn": self.pab_cross_range, "mlp": self.pab_mlp_range}


def plan_pab(schedule: Schedule, config: PabConfig) -> list[Decision]:
    """What every step broadcasts, before the run. Steps that a composition skips are reused and not counted."""
    raw, num_steps = config.raw_window(), schedule.num_steps
    decisions: list[Decision] = []
    count = 0
    for index, timestep in enumerate(schedule.timesteps):
        if index in schedule.skipped:
            decisions.append(Decision(Compute.REUSE, REUSED_BY_COMPOSITION))
            continue
        if raw is not None:
            inside = raw[0] < timestep < raw[1]
        else:
            inside = config.pab_window_start * num_steps <= index < config.pab_window_end * num_steps
        cached = frozenset(name for name, reach in config.ranges.items() if inside and count % reach)
        if cached:
            reason = "broadcast " + ", ".join(name for name in config.ranges if name in cached)
            decisions.append(Decision(Compute.BLOCKS, reason, cached_sublayers=cached))
        else:
            decisions.append(Decision(Compute.FULL, "computed in the window" if inside else "outside the window"))
        count += 1
    return decisions


def pab_step_flops(decision: Decision, config: PabConfig, shape: ModelShape, num_tokens: int) -> int:
    """FLOPs of one denoiser call: a full step less what it broadcasts."""
    total = repeated_step_flops(shape, num_tokens)
    num_blocks = shape.num_layers + shape.num_vace_layers
    if "self_attn" in decision.cached_sublayers:
        total -= num_blocks * self_attention_flops(num_tokens, num_tokens, num_tokens, shape.dim)
    if "cross_attn" in decision.cached_sublayers:
        total -= num_blocks * cross_attention_flops(num_tokens, shape.text_len, shape.dim)
    if "mlp" in decision.cached_sublayers:
        num_mlp = min(config.pab_mlp_blocks, shape.num_layers)
        total -= num_mlp * mlp_flops(num_tokens, shape.dim, shape.ffn_dim)
    return total


class Broadcast(CacheManager):
    """One CFG branch: the last computed attention outputs of every block of both stacks. Its decider has a plan, so
    that only what the next computed step takes is kept."""

    def __init__(self, config: PabConfig, decider: Decider, branch: Branch) -> None:
        assert decider.decisions, "what is kept follows from the plan"
        self._config = config
        self._decider = decider
        self._branch = branch
        self._wanted = _wanted_next(decider.decisions)
        self._step_index = 0
        self._broadcasts = dict.fromkeys(config.ranges, 0)
        self.store = FeatureStore()

    def decide(self, step: Step, hidden: Hidden) -> Decision:
        self._step_index = step.index
        return self._decider.decide(self._branch, step, hidden)

    def run_block(self, ops: BlockOps, x_BND: torch.Tensor, decision: Decision) -> torch.Tensor:
        if not decision.cached_sublayers and not self._wanted[self._step_index]:
            return ops.full(x_BND)
        x_BND = ops.add_self_attn(x_BND, self._output(ops, "self_attn", x_BND, decision))
        x_BND = ops.add_cross_attn(x_BND, self._output(ops, "cross_attn", x_BND, decision))
        return ops.add_mlp(x_BND, self._output(ops, "mlp", x_BND, decision))

    def release(self) -> None:
        self.store.clear()

    @property
    def cache_bytes(self) -> int:
        return self.store.peak_nbytes

    def notes(self) -> dict[str, Any]:
        return {"broadcasts": dict(self._broadcasts)}

    def _output(self, ops: BlockOps, name: str, x_BND: torch.Tensor, decision: Decision) -> torch.Tensor:
        eligible = name != "mlp" or (ops.stack == "dit" and ops.layer < self._config.pab_mlp_blocks)
        if eligible and name in decision.cached_sublayers:
            self._broadcasts[name] += 1
            return self.store.get(ops.stack, ops.layer, name)
        out_BND = sublayer(ops, name, x_BND)
        if eligible and name in self._wanted[self._step_index]:
            self.store.put(ops.stack, ops.layer, name, out_BND)
        return out_BND


def _wanted_next(decisions: Sequence[Decision]) -> list[frozenset[str]]:
    """What the next computed step takes from the cache, per step: only that is kept."""
    wanted, following = [], frozenset[str]()
    for decision in reversed(decisions):
        wanted.append(following)
        if decision.compute is not Compute.REUSE:
            following = decision.cached_sublayers
    return wanted[::-1]


def plan(schedule: Schedule, config: PabConfig, context: RunContext, branch: Branch) -> list[Decision]:
    return plan_pab(schedule, config)


def cache(config: PabConfig, context: RunContext) -> MakeManager:
    return partial(Broadcast, config)


def partial_flops(
    decision: Decision, config: PabConfig, context: RunContext, shape: ModelShape, num_tokens: int
) -> int:
    return pab_step_flops(decision, config, shape, num_tokens)


MODE = Mode(
    "pab",
    "pyramid attention broadcast",
    "arXiv 2408.12588",
    PabConfig,
    plan,
    cache=cache,
    dial=Dial("pab_self_range", 64, 1, whole=True),
    partial_flops=partial_flops,
)
