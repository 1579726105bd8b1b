"""TaylorSeer (arXiv 2503.06923): between computed steps F(t + k) = sum_i dF^i k^i / i!, i up to the order.

dF^i are the finite differences of F over the computed steps, divided by the steps between them. F is the residual of
the whole block stack (`stack`: a reused step runs no block) or, as published, the output of every block's
self-attention, cross-attention and MLP before its gate (`module`: the gates are fresh, (order + 1) * 3 tensors a block
are kept). Which steps are computed follows from the schedule: every N-th as published, or where the calibrated change
of the residual has added up to a threshold.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from hetcache.core.drift import ChangeEstimator
from hetcache.core.flops import ModelShape, outside_flops, vace_projection_flops
from hetcache.core.lead import Decider
from hetcache.core.mode import Dial, MakeManager, Mode, RunContext
from hetcache.core.settings import check_settings, setting
from hetcache.core.store import FeatureStore
from hetcache.core.taylor import MAX_ORDER, TaylorResidual, TaylorSeries
from hetcache.core.vocabulary import BlockOps, Branch, CacheManager, Compute, Decision, Hidden, Schedule, Step, sublayer

if TYPE_CHECKING:
    import torch

MODULES = ("self_attn", "cross_attn", "mlp")
DRIFT_DIAL = Dial("taylorseer_thresh", 64.0)


@dataclass(frozen=True)
class TaylorSeerConfig:
    """Settings of `--mode taylorseer`; each field is the CLI flag of the same name."""

    taylorseer_order: int = setting(
        1, "order of the forecast; 0 reuses what was computed last", choices=tuple(range(MAX_ORDER + 1))
    )
    taylorseer_level: str = setting(
        "stack",
        "what is forecast: the whole 'stack', or every 'module' as published, at 3 (order + 1) tensors a block",
        choices=("stack", "module"),
    )
    taylorseer_plan: str = setting(
        "interval",
        "which steps are computed: every N-th ('interval'), or by the calibrated change since the last one ('drift')",
        choices=("interval", "drift"),
    )
    taylorseer_interval: int = setting(5, "N: every so many steps are computed; 1 = every step")
    taylorseer_thresh: float = setting(
        0.1, "with --taylorseer-plan drift: a step is forecast iff the change added up since the last one is below it"
    )
    taylorseer_first: int = setting(1, "steps from the first that are always computed")
    taylorseer_last: bool = setting(True, "compute the last step too")

    def __post_init__(self) -> None:
        check_settings(self)
        for name in ("taylorseer_interval", "taylorseer_first"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(self, name)}")
        if self.taylorseer_thresh < 0:
            raise ValueError(f"--taylorseer-thresh must not be negative, not {self.taylorseer_thresh}")


def plan_taylorseer(schedule: Schedule, config: TaylorSeerConfig, estimator: ChangeEstimator | None) -> list[Decision]:
    """The decision of every step, before the run. `estimator` is None for a plan by interval."""
    changes = None if estimator is None else estimator.changes(schedule, "e0")
    last = schedule.num_steps - 1 if config.taylorseer_last else schedule.num_steps
    decisions: list[Decision] = []
    num_forecast, change = 0, 0.0
    for index in range(schedule.num_steps):
        if changes is None:
            limit: float | None = None
            signal, due = None, num_forecast >= config.taylorseer_interval - 1
        else:
            limit, change = config.taylorseer_thresh, change + changes[index]
            signal, due = change, change >= limit
        if index < config.taylorseer_first or index >= last:
            decisions.append(Decision(Compute.FULL, "last step" if index >= last else "first steps"))
        elif due:
            decisions.append(Decision(Compute.FULL, "in turn" if signal is None else "d >= delta", signal, limit))
        else:
            num_forecast += 1
            decisions.append(_forecast(config, f"forecast {num_forecast} on", signal, limit))
            continue
        num_forecast, change = 0, 0.0
    return decisions


def _forecast(config: TaylorSeerConfig, reason: str, signal: float | None, limit: float | None) -> Decision:
    if config.taylorseer_level == "stack":
        return Decision(Compute.REUSE, reason, signal, limit)
    return Decision(Compute.BLOCKS, reason, signal, limit, cached_sublayers=frozenset(MODULES))


class ModuleForecast(CacheManager):
    """One CFG branch: every module's output in every block of both stacks, and its differences. VACE's hints come out
    of its forecast blocks, through their projections."""

    def __init__(self, config: TaylorSeerConfig, decider: Decider, branch: Branch) -> None:
        self._decider = decider
        self._branch = branch
        self._index = 0
        self.store = FeatureStore()
        self._series = TaylorSeries(self.store, config.taylorseer_order)

    def decide(self, step: Step, hidden: Hidden) -> Decision:
        self._index = step.index
        return self._decider.decide(self._branch, step, hidden)

    def run_block(self, ops: BlockOps, x_BND: torch.Tensor, decision: Decision) -> torch.Tensor:
        for name in MODULES:
            key = (ops.stack, ops.layer, name)
            if name in decision.cached_sublayers:
                out_BND = self._series.at(key, self._index)
            else:
                out_BND = sublayer(ops, name, x_BND)
                self._series.put(key, self._index, out_BND)
            x_BND = getattr(ops, f"add_{name}")(x_BND, out_BND)
        return x_BND

    def release(self) -> None:
        self.store.clear()

    @property
    def cache_bytes(self) -> int:
        return self.store.peak_nbytes


def plan(schedule: Schedule, config: TaylorSeerConfig, context: RunContext, branch: Branch) -> list[Decision]:
    estimator = context.calibration().estimator() if config.taylorseer_plan == "drift" else None
    return plan_taylorseer(schedule, config, estimator)


def cache(config: TaylorSeerConfig, context: RunContext) -> MakeManager:
    if config.taylorseer_level == "stack":
        return partial(TaylorResidual, config.taylorseer_order)
    return partial(ModuleForecast, config)


def partial_flops(
    decision: Decision, config: TaylorSeerConfig, context: RunContext, shape: ModelShape, num_tokens: int
) -> int:
    """A step whose modules are all forecast: what lies outside the blocks, and VACE's projections."""
    return outside_flops(shape, num_tokens) + (vace_projection_flops(shape, num_tokens) if shape.num_vace_layers else 0)


def cache_bytes(config: TaylorSeerConfig, shape: ModelShape, num_tokens: int, bytes_per_value: int) -> int:
    num_tensors = 1 if config.taylorseer_level == "stack" else 3 * (shape.num_layers + shape.num_vace_layers)
    return (config.taylorseer_order + 1) * num_tensors * num_tokens * shape.dim * bytes_per_value


def lighter(config: TaylorSeerConfig) -> tuple[tuple[str, Any], ...]:
    smaller = replace(config, taylorseer_level="stack")
    return (("forecasts of the whole stack instead of every module", smaller),)


MODE = Mode(
    "taylorseer",
    "forecast of skipped steps by a Taylor series",
    "arXiv 2503.06923",
    TaylorSeerConfig,
    plan,
    cache=cache,
    dial=Dial("taylorseer_interval", 64, 1, whole=True),
    dial_by_config=lambda config: DRIFT_DIAL if config.taylorseer_plan == "drift" else None,
    partial_flops=partial_flops,
    cache_bytes=cache_bytes,
    lighter=lighter,
    calibrated=lambda config: ("drift",) if config.taylorseer_plan == "drift" else (),
)
