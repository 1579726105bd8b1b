"""Exact plans of --mode hetcache: what error tables have to fit, and the plan within a number of FLOPs or an error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from hetcache.core.decisions import decision_words
from hetcache.core.flops import ModelShape
from hetcache.core.mode import Mode, NotPlannable, RunContext
from hetcache.core.vocabulary import Branch, Compute, Decision, Schedule
from hetcache.files import UserError
from hetcache.method.config import HetCacheConfig
from hetcache.modes.planning import RunPlan, call_flops, plan_run
from hetcache.planner.decide import plan_decisions
from hetcache.planner.model import ErrorModel
from hetcache.planner.search import Costs, Front, Plan
from hetcache.planner.tables import BY_GRID, SIGMA, ErrorTables

SHARES = (12, 6, 3, 1)
"""Parts of the uncached cost up to which the cheapest plan is looked for, one after the other: few need the last."""


@dataclass(frozen=True)
class Ground:
    """What a plan is made on: `config` is the one that `tables` were measured with."""

    mode: Mode
    config: HetCacheConfig
    context: RunContext
    schedule: Schedule
    shape: ModelShape
    branches: Sequence[Branch]
    tables: ErrorTables

    @property
    def model(self) -> ErrorModel:
        return self.tables.model(self.schedule.timesteps)

    @property
    def flops(self) -> Costs:
        """Of a step of each kind, all branches together."""
        kinds = [Decision(Compute.FULL, ""), Decision(Compute.REUSE, ""), *partial_steps(self.tables)]
        full, reuse, *partial = (
            len(self.branches) * call_flops(kind, self.mode, self.config, self.context, self.shape) for kind in kinds
        )
        return Costs(full, reuse, tuple(partial))

    def run_of(self, words: str) -> tuple[HetCacheConfig, RunPlan]:
        """(config, plan) of these decisions."""
        chosen = replace(self.config, decisions=words)
        return chosen, plan_run(self.mode, chosen, self.context, self.schedule, self.shape, self.branches)

    def run(self, plan: Plan) -> tuple[HetCacheConfig, RunPlan]:
        return self.run_of(decision_words(plan_decisions(plan.kinds, self.tables.budgets)))


def check_exact(mode: Mode, config: Any) -> None:
    """Raises NotPlannable or UserError where the mode or its config leaves nothing to plan exactly."""
    if mode.config is not HetCacheConfig or mode.plan is None:
        raise NotPlannable(
            f"--planner exact, --quality and --seconds plan --mode hetcache and its presets, not {mode.name}; "
            "--target-speedup with --planner threshold turns its threshold"
        )
    if config.decisions is not None:
        raise UserError("--decisions is a plan already: leave --target-speedup, --quality and --seconds out")
    if config.signal == "output" or config.whole_steps_only:
        given = "--signal output" if config.signal == "output" else "--whole-steps-only"
        raise UserError(f"--planner exact has partial steps and a plan before the run: leave {given} out")


def token_choice(config: HetCacheConfig) -> dict[str, str]:
    """How a partial step chooses its tokens, beside the budget and the margin's share, as an `Origin` has it."""
    spread = f"of {config.kmeans_clusters} clusters" if config.use_kmeans else "of no clusters"
    by = " by attention" if config.use_attention_interaction else " without attention"
    width = BY_GRID if config.margin_width is None else str(config.margin_width)
    return {"margin_width": width, "context_sample": spread + by}


def as_measured(config: HetCacheConfig, tables: ErrorTables) -> HetCacheConfig:
    """The config that the tables were measured with; how it chooses tokens is its own (see `token_choice`)."""
    return replace(
        config,
        context_kv=tables.origin.context_kv,
        partial_vace="rows",
        forecast=1,
        forecast_in="sigma" if tables.origin.forecast_in == SIGMA else "calibrated",
    )


def partial_steps(tables: ErrorTables) -> list[Decision]:
    return [Decision(Compute.PARTIAL, "", context_ratio=budget) for budget in tables.budgets]


def at_speedup(ground: Ground, wanted: float) -> Plan:
    """The least error with so many times fewer FLOPs. Raises UserError."""
    model, flops = ground.model, ground.flops
    _, uncached = ground.run_of(f"Fx{ground.schedule.num_steps}")
    around = uncached.flops_run - flops.full * ground.schedule.num_steps
    found = Front(model, flops, cost_limit=int(uncached.flops_uncached / wanted) - around).best()
    if found is None:
        best = uncached.flops_uncached / (cheapest(model, flops).cost + around)
        raise UserError(
            f"--target-speedup {wanted:g} is out of reach of the exact plan: at most {best:.2f}x here; use fewer "
            "--steps as well"
        )
    return found


def at_quality(ground: Ground, floor_db: float) -> Plan:
    """The fewest FLOPs with which nine in ten runs keep the floor. Every step in full keeps any."""
    return cheapest(ground.model, ground.flops, ground.tables.error_for(floor_db))


def cheapest(model: ErrorModel, costs: Costs, error_limit: float | None = None) -> Plan:
    """The plan with the least cost, of those within the limit."""
    for share in SHARES:
        found = Front(model, costs, costs.full * model.num_steps // share, error_limit).cheapest()
        if found is not None:
            return found
    raise AssertionError("every step in full is a plan and has no error")
