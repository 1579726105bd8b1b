"""Error tables held against real runs: how much of an error arrives at the end, what PSNR a prediction stands for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

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

SPEEDUPS = (3.0, 5.0, 8.0)
"""Of the plans that are run to hold the predicted error against the real one."""
PARTIAL_COST, UNIT = 0.4, 1000
PARTS = (0.02, 0.18, 0.34, 0.5, 0.64, 0.76, 0.86, 0.94, 1.0)
"""Of a run, in each of which alone steps are reused to learn how much of their error arrives."""
GAP = 4
"""Steps from one computed step to the next in that part."""
NO_DIFFERENCE = 80.0
"""dB: more is the rounding of pixels."""
KEPT_BY = 0.9
"""Share of runs that keep a quality floor."""


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


def partial_gain(
    tables: ErrorTables, run: Watched, pipeline: Pipeline, config: Any, say: Callable[[str], None]
) -> float:
    """Real error / predicted error of a run of full and partial steps only. Along the uncached run a partial step
    errs by its keys and values alone; in a run the rest of the picture, which it does not compute, drifts as well."""
    model = tables.model(tables.timesteps)
    kinds = [Kind(Compute.PARTIAL) if t % GAP else FULL for t in range(model.num_steps)]
    gain = 10 ** (-real_psnr(kinds, tables, run, pipeline, config) / 20) / model.predict(kinds)
    say(f"{run.clip.path.name}, partial steps: {gain:.3g} times the predicted error")
    return gain


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
    errors, real = [], []
    for speedup in SPEEDUPS:
        plan = Front(model, costs, cost_limit=int(UNIT * model.num_steps / speedup)).best()
        assert plan is not None
        for run in watched:
            errors.append(plan.error)
            real.append(real_psnr(plan.kinds, tables, run, pipeline, config))
            by_error = -20 * math.log10(plan.error)
            say(f"{run.clip.path.name}, {speedup:g}x: {real[-1]:.2f} dB, {by_error:.2f} by the error")
    return replace(tables, **psnr_map(errors, real))


def psnr_map(errors: Sequence[float], real: Sequence[float]) -> dict[str, Any]:
    """The line from -20 log10 of predicted errors to real PSNR, least squares, of a slope between a half and one; and
    by how much nine in ten stay above it less the margin."""
    levels, found = -20 * np.log10(errors), np.asarray(real)
    spread = float(np.var(levels))
    slope = float(np.mean((levels - levels.mean()) * (found - found.mean()))) / spread if spread > 0 else 1.0
    slope = min(max(slope, 0.5), 1.0)
    residuals = found - slope * levels
    offset = float(residuals.mean())
    margin = max(offset - float(np.quantile(residuals, 1 - KEPT_BY)), 0.0)
    return {"psnr_offset": offset, "psnr_slope": slope, "margin_db": margin}
