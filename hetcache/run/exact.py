"""The exact plan of a job: the best sequence of full, partial and reused steps for what was asked, and its promise.

`--target-speedup X` bounds the FLOPs and `--seconds S` the time of the denoising loop, within which the predicted error
is least; `--quality DB` bounds the predicted error, within which the FLOPs are least.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from hetcache.core.calibration_files import calibration_file
from hetcache.core.facts import weights_fingerprint
from hetcache.core.mode import RunContext
from hetcache.files import UserError
from hetcache.method.config import HetCacheConfig
from hetcache.models import ModelInfo
from hetcache.modes.exact import Ground, as_measured, at_quality, at_speedup, cheapest, check_exact, token_choice
from hetcache.modes.planning import RunPlan, branches_of
from hetcache.planner.model import ErrorModel
from hetcache.planner.search import Front, Plan
from hetcache.planner.tables import SIGMA, ErrorTables, Origin, forecast_time, load_tables, tables_file
from hetcache.run.editor import HALF, Editor
from hetcache.run.job import Job
from hetcache.run.step_times import StepTimes, time_steps
from hetcache.run.wish import Wish


@dataclass(frozen=True)
class ExactPlan:
    """`config` has the plan in words, `plan` its decisions and FLOPs; `facts` are its promise, for the record."""

    config: HetCacheConfig
    plan: RunPlan
    facts: dict[str, Any]


def exact_plan(job: Job, wish: Wish, editor: Editor, config: HetCacheConfig, context: RunContext) -> ExactPlan:
    """Raises UserError for a model without error tables, or whose tables are of other conditions, and for a wish that
    is out of reach, with the best that can be had."""
    check_exact(job.mode, config)
    tables = tables_of(job, context)
    config = fitting(job, editor, config, context, tables)
    schedule, shape = editor.schedule
    ground = Ground(job.mode, config, context, schedule, shape, branches_of(job.settings.cfg_scale), tables)
    times = None
    if wish.seconds is not None:
        times = time_steps(job, editor, config, context, tables.budgets)
        found = within_seconds(ground.model, times, wish.seconds)
    elif wish.quality is not None:
        found = at_quality(ground, wish.quality)
    else:
        assert wish.target_speedup is not None
        found = at_speedup(ground, wish.target_speedup)
    chosen, plan = ground.run(found)
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
    assert job.settings.cfg_scale is not None
    return tables_for(job.info, job.model, job.settings.cfg_scale, job.config, context)


def tables_for(
    info: ModelInfo, model: str, cfg_scale: float, config: HetCacheConfig, context: RunContext
) -> ErrorTables:
    """The error tables of a model, named as it was asked for. Raises UserError with the command that measures them."""
    remedy = f"run python -m hetcache.calibrate --errors --model {model} --cfg-scale {cfg_scale:g}"
    tables = load_tables(tables_file(calibration_file(info.model_id, model)), remedy)
    origin = tables.origin
    run = Origin(
        info.model_id,
        info.backend,
        info.sampler,
        weights_fingerprint(model) or origin.weights,
        cfg_scale,
        origin.context_kv,
        config.margin_ratio,
        SIGMA if origin.forecast_in == SIGMA else forecast_time(context.calibration().time_curve),
        **token_choice(config),
    )
    tables.check(run, remedy)
    return tables


def fitting(
    job: Job, editor: Editor, config: HetCacheConfig, context: RunContext, tables: ErrorTables
) -> HetCacheConfig:
    """The config that the tables were measured with. Raises UserError where that is over --cache-budget-gib."""
    needed = as_measured(config, tables)
    if editor.within_budget(job.mode, needed, context) != needed:
        budget_gib = job.settings.cache_budget_gib
        limit = HALF if budget_gib is None else f"--cache-budget-gib {budget_gib:g}"
        raise UserError(
            f"--planner exact keeps keys and values from step to step, more than {limit}: give it more with "
            "--cache-budget-gib, or take --target-speedup with --planner threshold"
        )
    return needed


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
