"""Error tables held against real runs: how much of an error arrives at the end, what PSNR a prediction stands for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch

from hetcache.calibrate.watched import Watched
from hetcache.core.decisions import decision_words
from hetcache.core.vocabulary import Compute
from hetcache.metrics.psnr import psnr
from hetcache.models.backend import Pipeline
from hetcache.modes import MODES
from hetcache.planner.decide import plan_decisions
from hetcache.planner.model import FULL, Floats, Kind
from hetcache.planner.search import Costs, Front
from hetcache.planner.tables import ErrorTables
from hetcache.run.wish import MOST_DB

SPEEDUPS = (3.0, 5.0, 8.0)
"""Of the plans that are run to hold the predicted error against the real one."""
SENSED = 2
"""Clips that the sensitivity and the patterns are measured on."""
REUSE, PARTIAL = Kind(Compute.REUSE), Kind(Compute.PARTIAL)
PATTERNS = ((FULL, *[REUSE] * 3), (FULL, *[PARTIAL] * 3), (FULL, *[REUSE] * 3, PARTIAL, *[REUSE] * 3))
"""Plain plans, again and again until the end."""
ROUNDS = 2
FACTORS = tuple(float(each) for each in np.geomspace(0.25, 8.0, 31))
"""Of partial steps' errors, that are tried: the first of equals is taken."""
PARTIAL_COST, UNIT = 0.4, 1000
PARTS = (0.02, 0.18, 0.34, 0.5, 0.64, 0.76, 0.86, 0.94, 1.0)
"""Of a run, in each of which alone steps are reused to learn how much of their error arrives."""
GAP = 4
"""Steps from one computed step to the next in that part."""
Z_90 = 1.2816
"""Standard deviations below which a normal variable stays nine times in ten."""


def gains_of(
    tables: ErrorTables, run: Watched, pipeline: Pipeline, config: Any, say: Callable[[str], None]
) -> list[tuple[float, float]]:
    """(middle of a part of the run, real error / predicted error) of runs that reuse in that part only. Real errors are
    those of the pixels in the mask, of peak 1."""
    model, steps, found = tables.model(tables.timesteps), len(tables.timesteps), []
    for start, end in pairwise(sorted({max(round(part * steps), 1) for part in PARTS})):
        kinds = [Kind(Compute.REUSE) if start <= t < end and (t - start) % GAP else FULL for t in range(steps)]
        kinds = model.ordered(kinds)
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
    """In the mask, of a run of these kinds of steps against the uncached one, at most `MOST_DB`."""
    chosen = replace(config, decisions=words_of(kinds, tables))
    with torch.no_grad():
        result = pipeline.edit(run.clip, MODES["hetcache"].build(chosen, run.context), run.settings)
    return min(psnr(result.frames_THWC, run.result.frames_THWC, run.clip.mask_THW), MOST_DB)


def words_of(kinds: Sequence[Kind], tables: ErrorTables) -> str:
    return decision_words(plan_decisions(kinds, tables.budgets))


Run = tuple[Sequence[Kind], float]
"""A plan that was run, and its PSNR in the mask, dB."""


class Told(NamedTuple):
    """The same for a reader."""

    clip: str
    words: str
    psnr_db: float


def held_against(
    tables: ErrorTables, watched: Sequence[Watched], pipeline: Pipeline, config: Any, say: Callable[[str], None]
) -> tuple[ErrorTables, list[Told]]:
    """The tables with the map from predicted error to PSNR in the mask, and the runs that it was made of: plans of
    several speed-ups are run on every clip and compared with its uncached run. Along the uncached run a partial step
    errs by its keys and values alone; in a run the rest of the picture, which it does not compute, drifts as well, and
    a plan seeks out what its tables think too well of. So plain patterns and a first round of plans weigh partial steps
    against reused ones, and the second round is of the plans that come of it."""
    costs = Costs(UNIT, 0, (int(UNIT * PARTIAL_COST),) * len(tables.budgets))
    runs: list[Run] = []
    told: list[Told] = []

    def take(run: Watched, kinds: Sequence[Kind], text: str) -> None:
        real = real_psnr(kinds, tables, run, pipeline, config)
        runs.append((kinds, real))
        told.append(Told(run.clip.path.name, words_of(kinds, tables), real))
        say(f"{run.clip.path.name}, {text.format(f'{real:.2f} dB')}")

    model = tables.model(tables.timesteps)
    for pattern in PATTERNS:
        kinds = model.ordered([pattern[t % len(pattern)] for t in range(model.num_steps)])
        for run in watched[:SENSED]:
            take(run, kinds, f"{''.join(kind.compute.value for kind in pattern)}: {{}}")
    for _ in range(ROUNDS):
        model = tables.model(tables.timesteps)
        for speedup in SPEEDUPS:
            plan = Front(model, costs, cost_limit=int(UNIT * model.num_steps / speedup)).best()
            assert plan is not None
            by_error = -20 * math.log10(plan.error)
            for run in watched:
                take(run, plan.kinds, f"{speedup:g}x: {{}}, {by_error:.2f} by the error")
        tables = weighed(tables, runs, len(watched))
    return tables, told


def weighed(tables: ErrorTables, runs: Sequence[Run], num_clips: int) -> ErrorTables:
    """The tables with the factor of partial steps' errors that leaves the least between predicted and real PSNR, and
    with the map between them."""
    real, best, least = [psnr for _, psnr in runs], tables, math.inf
    for factor in FACTORS:
        tried = replace(tables, partial=tables.partial * factor)
        model = tried.model(tried.timesteps)
        errors = [model.predict(kinds) for kinds, _ in runs]
        found = psnr_map(errors, real, num_clips)
        levels = -20 * np.log10(errors)
        left = float(np.std(np.asarray(real) - found["psnr_slope"] * levels))
        if left < least:
            best, least = replace(tried, **found), left
    return best


def psnr_map(errors: Sequence[float], real: Sequence[float], num_clips: int) -> dict[str, Any]:
    """The line from -20 log10 of predicted errors to real PSNR, least squares, of a slope between a half and one; and
    by how much nine in ten stay above it less the margin, however few the clips were."""
    levels, found = -20 * np.log10(errors), np.asarray(real)
    spread = float(np.var(levels))
    slope = float(np.mean((levels - levels.mean()) * (found - found.mean()))) / spread if spread > 0 else 1.0
    slope = min(max(slope, 0.5), 1.0)
    residuals = found - slope * levels
    margin = tolerance(num_clips) * float(np.std(residuals))
    return {"psnr_offset": float(residuals.mean()), "psnr_slope": slope, "margin_db": margin}


def tolerance(count: int) -> float:
    """How many standard deviations below the mean of `count` values nine in ten further ones lie above, with a
    confidence of nine in ten: the one-sided tolerance bound of a normal distribution (Natrella's approximation)."""
    count = max(count, 2)
    a, b = 1 - Z_90**2 / (2 * (count - 1)), Z_90**2 - Z_90**2 / count
    return (Z_90 + math.sqrt(Z_90**2 - a * b)) / a
