"""Error tables from a few clips: measured along their uncached runs, then held against real plans of the same clips."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch

from hetcache.calibrate.errors import BACKS, REACH, ErrorTally
from hetcache.calibrate.real_runs import SENSED, gains_of, held_against, sensitivity_of
from hetcache.calibrate.watched import BUDGETS, Watched, watch
from hetcache.core.calibration import Calibration
from hetcache.core.mode import RunContext
from hetcache.core.options import EditSettings
from hetcache.media.clip import Clip
from hetcache.method.config import HetCacheConfig
from hetcache.models import ModelInfo
from hetcache.models.backend import Pipeline
from hetcache.modes.exact import token_choice
from hetcache.planner.model import Floats
from hetcache.planner.tables import ErrorTables, Origin, forecast_time

AGES = 16
"""Steps since the last full one up to which a partial step's error is told, beyond what was measured by its trend."""


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
    config = HetCacheConfig(context_kv="forecast", forecast=1, forecast_in="sigma" if curve is None else "calibrated")
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
        **token_choice(config),
    )
    # What arrives of an error is told from a clip's own errors: clips differ in those.
    own = [(tables_of([run], origin), run) for run in watched[:SENSED]]
    gains = [gains_of(tables, run, pipeline, config, say) for tables, run in own]
    tables = replace(tables_of(watched, origin), sensitivity=sensitivity_of(gains, edit.num_steps))
    tables, runs = held_against(tables, watched, pipeline, config, say)
    about = {
        "clips": [clip.path.name for clip in clips],
        "frames": [clip.num_frames for clip in clips],
        "sizes": sorted({clip.size for clip in clips}),
        "first_seed": edit.seed,
        "steps": edit.num_steps,
        "sigma_shift": edit.sigma_shift,
        "generative_share": [round(share(run.context), 3) for run in watched],
        "runs": [[run.clip, run.words, round(run.psnr_db, 2)] for run in runs],
    }
    return replace(tables, measured_on=about)


def share(context: RunContext) -> float:
    """Of generative tokens among all."""
    return len(context.classes.generative_G) / context.num_tokens


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
