"""The exact plan of a job: the best sequence of full, partial and reused steps for what was asked, and its promise.

`--target-speedup X` bounds the FLOPs and `--seconds S` the time of the denoising loop, within which the predicted error
is least; `--quality DB` bounds the predicted error, within which the FLOPs are least.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from hetcache.core.calibration import calibration_file
from hetcache.core.decisions import decision_words
from hetcache.core.facts import weights_fingerprint
from hetcache.core.mode import Mode, NotPlannable, RunContext
from hetcache.core.vocabulary import Branch, Compute, Decision
from hetcache.files import UserError
from hetcache.method.config import HetCacheConfig
from hetcache.modes.exact import token_choice
from hetcache.modes.planning import GUIDED, RunPlan, call_flops, plan_run
from hetcache.planner.decide import plan_decisions
from hetcache.planner.model import ErrorModel
from hetcache.planner.search import Costs, Front, Plan
from hetcache.planner.tables import SIGMA, ErrorTables, Origin, forecast_time, load_tables, tables_file
from hetcache.run.editor import HALF, Editor
from hetcache.run.job import Job
from hetcache.run.step_times import StepTimes, time_steps
from hetcache.run.wish import Wish

SHARES = (12, 6, 3, 1)
"""Parts of the uncached cost up to which the cheapest plan is looked for, one after the other: few need the last."""


@dataclass(frozen=True)
class ExactPlan:
    """`config` has the plan in words, `plan` its decisions and FLOPs; `facts` are its promise, for the record."""

    config: HetCacheConfig
    plan: RunPlan
    facts: dict[str, Any]


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


def exact_plan(job: Job, wish: Wish, editor: Editor, config: HetCacheConfig, context: RunContext) -> ExactPlan:
    """Raises UserError for a model without error tables, or whose tables are of other conditions, and for a wish that
    is out of reach, with the best that can be had."""
    check_exact(job.mode, config)
    tables = tables_of(job, context)
    config = fitting(job, editor, config, context, tables)
    schedule, shape = editor.schedule
    branches = GUIDED if job.settings.cfg_scale != 1 else (Branch.COND,)
    model = tables.model(schedule.timesteps)
    kinds = [Decision(Compute.FULL, ""), Decision(Compute.REUSE, ""), *partial_steps(tables)]
    full, reuse, *partial = (len(branches) * call_flops(kind, job.mode, config, context, shape) for kind in kinds)
    flops = Costs(full, reuse, tuple(partial))
    uncached = plan_run(
        job.mode, replace(config, decisions=words_of_full(schedule.num_steps)), context, schedule, shape, branches
    )
    around = uncached.flops_run - full * schedule.num_steps
    times = None
    if wish.seconds is not None:
        times = time_steps(job, editor, config, context, tables.budgets)
        found = within_seconds(model, times, wish.seconds)
    elif wish.quality is not None:
        found = at_quality(model, flops, tables, wish.quality)
    else:
        assert wish.target_speedup is not None
        found = at_speedup(model, flops, around, uncached.flops_uncached, wish.target_speedup)
    chosen = replace(config, decisions=decision_words(plan_decisions(found.kinds, tables.budgets)))
    plan = plan_run(job.mode, chosen, context, schedule, shape, branches)
    promised = {
        "error": found.error,
        "psnr_db": round(tables.psnr(found.error), 2),
        "floor_db": round(tables.psnr(found.error) - tables.margin_db, 2),
        "flops_ratio": round(plan.speedup, 4),
        "denoise_s": None if times is None else round(times.of(found), 3),
    }
    measured = {} if times is None else {"step_times": times.facts()}
    return ExactPlan(chosen, plan, {"planner": "exact", "asked": asdict(wish), "predicted": promised, **measured})


def tables_of(job: Job, context: RunContext) -> ErrorTables:
    """The error tables of the job's model. Raises UserError with the command that measures them."""
    settings, info = job.settings, job.info
    remedy = f"run python -m hetcache.calibrate --errors --model {job.model} --cfg-scale {settings.cfg_scale:g}"
    tables = load_tables(tables_file(calibration_file(info.model_id, job.model)), remedy)
    assert settings.cfg_scale is not None
    origin = tables.origin
    run = Origin(
        info.model_id,
        info.backend,
        info.sampler,
        weights_fingerprint(job.model) or origin.weights,
        settings.cfg_scale,
        origin.context_kv,
        job.config.margin_ratio,
        SIGMA if origin.forecast_in == SIGMA else forecast_time(context.calibration().time_curve),
        **token_choice(job.config),
    )
    tables.check(run, remedy)
    return tables


def fitting(
    job: Job, editor: Editor, config: HetCacheConfig, context: RunContext, tables: ErrorTables
) -> HetCacheConfig:
    """The config that the tables were measured with. Raises UserError where that is over --cache-budget-gib."""
    needed = replace(
        config,
        context_kv=tables.origin.context_kv,
        partial_vace="rows",
        forecast=1,
        forecast_in="sigma" if tables.origin.forecast_in == SIGMA else "calibrated",
    )
    if editor.within_budget(job.mode, needed, context) != needed:
        budget_gib = job.settings.cache_budget_gib
        limit = HALF if budget_gib is None else f"--cache-budget-gib {budget_gib:g}"
        raise UserError(
            f"--planner exact keeps keys and values from step to step, more than {limit}: give it more with "
            "--cache-budget-gib, or take --target-speedup with --planner threshold"
        )
    return needed


def partial_steps(tables: ErrorTables) -> list[Decision]:
    return [Decision(Compute.PARTIAL, "", context_ratio=budget) for budget in tables.budgets]


def words_of_full(num_steps: int) -> str:
    return f"Fx{num_steps}"


def at_speedup(model: ErrorModel, flops: Costs, around: int, uncached: int, wanted: float) -> Plan:
    """The least error with so many times fewer FLOPs; `around` are those outside the steps. Raises UserError."""
    found = Front(model, flops, cost_limit=int(uncached / wanted) - around).best()
    if found is None:
        best = uncached / (cheapest(model, flops).cost + around)
        raise UserError(
            f"--target-speedup {wanted:g} is out of reach of the exact plan: at most {best:.2f}x here; use fewer "
            "--steps as well"
        )
    return found


def at_quality(model: ErrorModel, flops: Costs, tables: ErrorTables, floor_db: float) -> Plan:
    """The fewest FLOPs with which nine in ten runs keep the floor. Every step in full keeps any."""
    limit = tables.error_for(floor_db)
    for share in SHARES:
        found = Front(model, flops, flops.full * model.num_steps // share, limit).cheapest()
        if found is not None:
            return found
    raise AssertionError("every step in full has no error")


def within_seconds(model: ErrorModel, times: StepTimes, seconds: float) -> Plan:
    """The least error in so much time. Raises UserError."""
    costs = times.costs
    found = Front(model, costs, cost_limit=round((seconds - times.around_s) * 1e6)).best()
    if found is None:
        best = cheapest(model, costs).cost / 1e6 + times.around_s
        raise UserError(
            f"--seconds {seconds:g} is out of reach: the denoising loop takes at least {best:.3g} s here; use fewer "
            "--steps, fewer --frames or a smaller --height and --width as well"
        )
    return found


def cheapest(model: ErrorModel, costs: Costs) -> Plan:
    """The plan with the least cost, whatever its error."""
    for share in SHARES:
        found = Front(model, costs, costs.full * model.num_steps // share).cheapest()
        if found is not None:
            return found
    raise AssertionError("every step in full is a plan")


def promise(facts: Mapping[str, Any]) -> str:
    """What a plan promises, in a line."""
    predicted = facts["predicted"]
    time = "" if predicted["denoise_s"] is None else f", {predicted['denoise_s']:.3g} s of denoising"
    psnr = predicted["psnr_db"]
    return (
        f"exact plan: {predicted['flops_ratio']:.2f}x fewer FLOPs{time}, predicted {psnr:.1f} dB in the mask "
        f"against the uncached run, above {predicted['floor_db']:.1f} dB in nine of ten runs like calibration's"
    )


def kept(facts: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """The plan's facts with what came of it, for the record; the PSNR where --compare has measured it."""
    compared = record.get("compare")
    real = {
        "flops_ratio": record["flops"]["ratio"],
        "denoise_s": record["timing_s"]["denoise"],
        "psnr_db": None if compared is None else compared["psnr_db"]["in_mask"],
    }
    return {**facts, "real": real}
