"""Error tables from a few clips: measured along their uncached runs, then held against real plans of the same clips."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from hetcache.calibrate.errors import BACKS, REACH, ErrorManager, ErrorTally, Shadow
from hetcache.core.calibration import Calibration
from hetcache.core.decisions import decision_words
from hetcache.core.mode import RunContext
from hetcache.core.options import EditSettings
from hetcache.core.time_curve import Powers
from hetcache.core.vocabulary import CacheManager, Schedule
from hetcache.media.clip import Clip
from hetcache.method.hetcache import HetCacheConfig
from hetcache.metrics.psnr import psnr
from hetcache.models import ModelInfo
from hetcache.models.backend import EditResult, Pipeline
from hetcache.modes import MODES
from hetcache.planner.decide import plan_decisions
from hetcache.planner.model import Floats
from hetcache.planner.search import Costs, Front
from hetcache.planner.tables import ErrorTables, Origin

BUDGETS = (0.05, 0.3)
"""Shares of the context that a partial step computes, of which a plan chooses step by step."""
PHASES = (4, 8)
AGES = 16
"""Steps since the last full one up to which a partial step's error is told, beyond what was measured by its trend."""
SPEEDUPS = (3.0, 5.0, 8.0)
"""Of the plans that are run to hold the predicted error against the real one."""
PARTIAL_COST, UNIT = 0.4, 1000
KEPT_BY = 0.9
"""Share of runs that keep a quality floor."""


@dataclass(frozen=True)
class Watched:
    """One clip's uncached run: its frames and what kinds of steps err by. `context` is that of the clip's mask."""

    clip: Clip
    settings: EditSettings
    context: RunContext
    result: EditResult
    tally: ErrorTally
    shadows: tuple[Shadow, ...]


def measured_tables(
    pipeline: Pipeline,
    clips: Sequence[Clip],
    edit: EditSettings,
    calibration: Callable[[], Calibration],
    info: ModelInfo,
    weights: str,
    say: Callable[[str], None],
) -> ErrorTables:
    """The tables of a model from these clips. The first clip's seed is `edit.seed`, each next one adds 1."""
    config = HetCacheConfig(context_kv="cached", forecast=1)
    watched = []
    for index, clip in enumerate(clips):
        context = RunContext.of(torch.from_numpy(clip.mask_THW).to(pipeline.device), calibration, config.margin_width)
        run = watch(pipeline, clip, replace(edit, seed=edit.seed + index), context, config)
        say(f"{clip.path.name}: {run.result.session.stage_ms['denoise'] / 1e3:.0f} s for {edit.num_steps} steps")
        watched.append(run)
    assert edit.cfg_scale is not None
    origin = Origin(
        info.model_id, info.backend, info.sampler, weights, edit.cfg_scale, config.context_kv, config.margin_ratio
    )
    tables = held_against(tables_of(watched, origin), watched, pipeline, config, say)
    about = {
        "clips": [clip.path.name for clip in clips],
        "frames": sorted({clip.num_frames for clip in clips}),
        "sizes": sorted({clip.size for clip in clips}),
        "first_seed": edit.seed,
        "steps": edit.num_steps,
        "sigma_shift": edit.sigma_shift,
        "generative_share": [round(share(run.context), 3) for run in watched],
    }
    return replace(tables, measured_on=about)


def share(context: RunContext) -> float:
    """Of generative tokens among all."""
    return len(context.classes.generative_G) / context.num_tokens


def watch(pipeline: Pipeline, clip: Clip, settings: EditSettings, context: RunContext, config: Any) -> Watched:
    """Run the clip uncached and measure beside it. `config` is HetCache's, of the partial steps."""
    mode = MODES["hetcache"]
    shadows = tuple(
        Shadow(mode.cache(replace(config, context_ratio=ratio), context), ratio, phase)
        for ratio in BUDGETS
        for phase in PHASES
    )
    assert settings.cfg_scale is not None
    tally = ErrorTally(context.classes, settings.cfg_scale)
    axis = context.calibration().time_curve or Powers()

    def make(branch: Any, schedule: Schedule) -> CacheManager:
        return ErrorManager(branch, schedule, tally, shadows, axis)

    with torch.no_grad():
        result = pipeline.edit(clip, make, settings)
    return Watched(clip, settings, context, result, tally, shadows)


def tables_of(watched: Sequence[Watched], origin: Origin) -> ErrorTables:
    """Root mean squares over the clips. The map to PSNR is still to be fitted."""
    schedule = watched[0].result.session.schedule
    assert schedule is not None
    steps = schedule.num_steps
    segments = rms_of(segments_of(each.tally, steps) for each in watched)
    partial = np.stack([rms_of(partial_of(each, ratio, steps) for each in watched) for ratio in BUDGETS])
    return ErrorTables(origin, schedule.timesteps, BUDGETS, segments, partial)


def rms_of(tables: Iterable[Floats]) -> Floats:
    return np.asarray(np.sqrt(np.mean(np.square(np.stack(list(tables))), axis=0)), float)


def segments_of(tally: ErrorTally, steps: int) -> Floats:
    """[j, b, n - 1], see `ErrorModel`; between the measured distances of the anchors by the nearest two."""
    found = np.full((steps, max(BACKS) + 1, REACH), np.nan)
    for j in range(steps):
        for n in range(1, min(REACH, steps - 1 - j) + 1):
            found[j, 0, n - 1] = tally.errors[j, 0, n]
            backs = [back for back in BACKS if back <= j]
            for back in range(1, min(j, max(BACKS)) + 1) if backs else ():
                found[j, back, n - 1] = np.interp(back, backs, [tally.errors[j, each, n] for each in backs])
    return found


def partial_of(run: Watched, ratio: float, steps: int) -> Floats:
    """[age - 1, t]: the errors of partial steps of that budget, by age and step."""
    samples = [
        (t, shadow.age(t), run.tally.errors["p", number, t])
        for number, shadow in enumerate(run.shadows)
        if shadow.context_ratio == ratio
        for t in range(steps)
        if shadow.age(t)
    ]
    return by_age(samples, steps, AGES)


def by_age(samples: Sequence[tuple[int, int, float]], steps: int, ages: int) -> Floats:
    """[age - 1, t] of error(t, age) = a(t) h(age), from samples (t, age, error): least squares in logarithms, with a
    and h as smooth as can be where little was measured, and h with its last slope beyond."""
    unknowns, rows, values = steps + ages, [], []

    def equation(terms: dict[int, float], value: float) -> None:
        row = np.zeros(unknowns)
        for index, weight in terms.items():
            row[index] += weight
        rows.append(row)
        values.append(value)

    for t, age, error in samples:
        equation({t: 1.0, steps + min(age, ages) - 1: 1.0}, math.log(max(error, 1e-9)))
    for t in range(1, steps - 1):
        equation({t - 1: 1.0, t: -2.0, t + 1: 1.0}, 0.0)
    for age in range(1, ages - 1):
        # In the logarithm of the age: a power of it is a straight line.
        low, high = math.log((age + 1) / age), math.log((age + 2) / (age + 1))
        equation(
            {steps + age - 1: 1 / low, steps + age: -1 / low - 1 / high, steps + age + 1: 1 / high},
            0.0,
        )
    equation({steps: 10.0}, 0.0)
    solution = np.linalg.lstsq(np.stack(rows), np.array(values), rcond=None)[0]
    return np.asarray(np.exp(solution[steps:, None] + solution[None, :steps]), float)


def held_against(
    tables: ErrorTables, watched: Sequence[Watched], pipeline: Pipeline, config: Any, say: Callable[[str], None]
) -> ErrorTables:
    """The tables with the map from predicted error to PSNR in the mask: plans of several speed-ups are run on every
    clip and compared with its uncached run."""
    model, costs = tables.model(tables.timesteps), Costs(UNIT, 0, (int(UNIT * PARTIAL_COST),) * len(tables.budgets))
    mode, offsets = MODES["hetcache"], []
    for speedup in SPEEDUPS:
        plan = Front(model, costs, cost_limit=int(UNIT * model.num_steps / speedup)).best()
        assert plan is not None
        words = decision_words(plan_decisions(plan.kinds, tables.budgets))
        for run in watched:
            chosen = replace(config, decisions=words)
            with torch.no_grad():
                result = pipeline.edit(run.clip, mode.build(chosen, run.context), run.settings)
            real = psnr(result.frames_THWC, run.result.frames_THWC, run.clip.mask_THW)
            offsets.append(real + 20 * math.log10(plan.error))
            say(f"{run.clip.path.name}, {speedup:g}x: {real:.2f} dB, {real - offsets[-1]:.2f} by the error alone")
    offset = float(np.mean(offsets))
    margin = offset - float(np.quantile(offsets, 1 - KEPT_BY))
    return replace(tables, psnr_offset=offset, margin_db=max(margin, 0.0))
