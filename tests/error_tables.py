"""Error tables of a model whose velocity turns evenly with sigma."""

from __future__ import annotations

import numpy as np

from hetcache.core.conditions import flow_timesteps
from hetcache.core.facts import weights_fingerprint
from hetcache.method.config import HetCacheConfig
from hetcache.modes.exact import token_choice
from hetcache.planner.tables import ErrorTables, Origin

CHOICE = token_choice(HetCacheConfig())
TINY = Origin("tiny", "diffsynth", "", weights_fingerprint("tiny"), 2.0, "cached", 0.7, **CHOICE)
REACH, BACK, AGES = 6, 4, 6


def smooth_tables(steps: int = 24, shift: float = 5.0, origin: Origin | None = None) -> ErrorTables:
    """Reuse errs by the distance, order 1 by a tenth of that, a partial step by the age of its context."""
    timesteps = flow_timesteps(steps, shift)
    levels = np.array([*timesteps, 0.0]) / 1000
    segments = np.full((steps, BACK + 1, REACH), np.nan)
    partial = np.full((2, AGES, steps), np.nan)
    for j in range(steps):
        for n in range(1, min(REACH, steps - j - 1) + 1):
            width = levels[j + 1] - levels[j + n + 1]
            lag = levels[j] - (levels[j + 1] + levels[j + n + 1]) / 2
            segments[j, 0, n - 1] = width * lag
            segments[j, 1 : min(BACK, j) + 1, n - 1] = width * lag * 0.1
        for age in range(1, min(AGES, j) + 1):
            partial[:, age - 1, j] = np.array([0.2, 0.1]) * (levels[j - age] - levels[j])
    origin = origin or Origin("toy", "diffsynth", "", "abc", 2.0, "cached", 0.7, "two clips")
    return ErrorTables(
        origin, timesteps, (0.05, 0.3), segments, partial, np.ones(steps), 2.0, 20.0, 1.0, 3.0, {"clips": ["a.mp4"]}
    )
