"""Error tables from a few clips: measured along their uncached runs, then held against real plans of the same clips."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from hetcache.calibrate.errors import BACKS, REACH, ErrorManager, ErrorTally, Shadow
from hetcache.core.calibration import Calibration
from hetcache.core.decisions import decision_words
from hetcache.core.mode import RunContext
from hetcache.core.options import EditSettings
from hetcache.core.vocabulary import CacheManager, Compute, Schedule
from hetcache.media.clip import Clip
from hetcache.method.hetcache import HetCacheConfig, time_axis
from hetcache.metrics.psnr import psnr
from hetcache.models import ModelInfo
from hetcache.models.backend import EditResult, Pipeline
from hetcache.modes import MODES
from hetcache.planner.decide import plan_decisions
from hetcache.planner.model import FULL, Floats, Kind
from hetcache.planner.search import Costs, Front
from hetcache.planner.tables import ErrorTables, Origin, forecast_time

BUDGETS = (0.05, 0.3)
"""Shares of the context that a partial step computes, of which a plan chooses step by step."""
PHASES = (4, 8)
AGES = 16
"""Steps since the last full one up to which a partial step's error is told, beyond what was measured by its trend."""
SPEEDUPS = (3.0, 5.0, 8.0)
"""Of the plans that are run to hold the predicted error against the real one."""
PARTIAL_COST, UNIT = 0.4, 1000
SENSED = 2
"""Clips whose sensitivity is measured."""
PARTS = (0.02, 0.18, 0.34, 0.5, 0.64, 0.76, 0.86, 0.94, 1.0)
"""Of a run, in each of which alone steps are reused to learn how much of their error arrives."""
GAP = 4
"""Steps from one computed step to the next in that part."""
NO_DIFFERENCE = 80.0
"""dB: more is the rounding of pixels."""
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
    curve = calibration().time_curve
    config = HetCacheConfig(context_kv="cached", forecast=1, forecast_in="sigma" if curve is None else "calibrated")
    watched = []
    for index, clip in enumerate(clips):
        context = RunContext.of(torch.from_numpy(clip.mask_THW).to(pipeline.device), calibration, config.margin_width)
        run = watch(pipeline, clip, replace(edit, seed=edit.seed + index), context, config)
        say(f"{clip.path.name}: {run.result.session.stage_ms['denoise'] / 1e3:.0f} s for {edit.num_steps} steps")
        watched.append(run)
    assert edit.cfg_scale is not None
    origin = Origin(
        info.model_id,
        info.backend,
        info.sampler,
        weights,
        edit.cfg_scale,
        config.context_kv,
        config.margin_ratio,
        forecast_time(curve),
    )
    tables = tables_of(watched, origin)
    gains = [gains_of(tables, run, pipeline, config, say) for run in watched[:SENSED]]
    tables = replace(tables, sensitivity=sensitivity_of(gains, edit.num_steps))
    tables = held_against(tables, watched, pipeline, config, say)
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
    axis = time_axis(config, context)

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
    return ErrorTables(origin, schedule.timesteps, BUDGETS, segments, partial, np.ones(steps))


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


def gains_of(
    tables: ErrorTables, run: Watched, pipeline: Pipeline, config: Any, say: Callable[[str], None]
) -> list[tuple[float, float]]:
    """(middle of a part of the run, real error / predicted error) of runs that reuse in that part only. Real errors are
    those of the pixels in the mask, of peak 1."""
    model, steps, found = tables.model(tables.timesteps), len(tables.timesteps), []
    for start, end in pairwise(sorted({max(round(part * steps), 1) for part in PARTS})):
        kinds = [Kind(Compute.REUSE, order=1) if start <= t < end and (t - start) % GAP else FULL for t in range(steps)]
        predicted = model.predict(kinds)
        if predicted == 0:
            continue
        real = 10 ** (-real_psnr(kinds, tables, run, pipeline, config) / 20)
        found.append(((start + end - 1) / 2, real / predicted))
        say(f"{run.clip.path.name}, steps {start} to {end - 1}: {real / predicted:.3g} times the predicted error")
    return found


def sensitivity_of(gains: Sequence[Sequence[tuple[float, float]]], steps: int) -> Floats:
    """Per step: the geometric mean over clips, linear in logarithms between the parts of the run."""
    if not gains or not gains[0]:
        return np.ones(steps)
    middles = [middle for middle, _ in gains[0]]
    logs = np.mean([[math.log(gain) for _, gain in each] for each in gains], axis=0)
    return np.asarray(np.exp(np.interp(np.arange(steps), middles, logs)), float)


def real_psnr(kinds: Sequence[Kind], tables: ErrorTables, run: Watched, pipeline: Pipeline, config: Any) -> float:
    """In the mask, of a run of these kinds of steps against the uncached one, at most `NO_DIFFERENCE`."""
    chosen = replace(config, decisions=decision_words(plan_decisions(kinds, tables.budgets)))
    with torch.no_grad():
        result = pipeline.edit(run.clip, MODES["hetcache"].build(chosen, run.context), run.settings)
    return min(psnr(result.frames_THWC, run.result.frames_THWC, run.clip.mask_THW), NO_DIFFERENCE)


def held_against(
    tables: ErrorTables, watched: Sequence[Watched], pipeline: Pipeline, config: Any, say: Callable[[str], None]
) -> ErrorTables:
    """The tables with the map from predicted error to PSNR in the mask: plans of several speed-ups are run on every
    clip and compared with its uncached run."""
    model, costs = tables.model(tables.timesteps), Costs(UNIT, 0, (int(UNIT * PARTIAL_COST),) * len(tables.budgets))
    offsets = []
    for speedup in SPEEDUPS:
        plan = Front(model, costs, cost_limit=int(UNIT * model.num_steps / speedup)).best()
        assert plan is not None
        for run in watched:
            real = real_psnr(plan.kinds, tables, run, pipeline, config)
            offsets.append(real + 20 * math.log10(plan.error))
            say(f"{run.clip.path.name}, {speedup:g}x: {real:.2f} dB, predicted {real - offsets[-1]:.2f} dB")
    offset = float(np.mean(offsets))
    margin = offset - float(np.quantile(offsets, 1 - KEPT_BY))
    return replace(tables, psnr_offset=offset, margin_db=max(margin, 0.0))
