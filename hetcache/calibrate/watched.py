"""A clip's uncached run with the tally of what kinds of steps err by beside it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from hetcache.calibrate.errors import ErrorManager, ErrorTally, Shadow
from hetcache.core.mode import RunContext
from hetcache.core.options import EditSettings
from hetcache.core.vocabulary import CacheManager, Schedule
from hetcache.media.clip import Clip
from hetcache.method.hetcache import time_axis
from hetcache.models.backend import EditResult, Pipeline
from hetcache.modes import MODES

BUDGETS = (0.05, 0.3)
"""Shares of the context that a partial step computes, of which a plan chooses step by step."""
PHASES = (4, 8)


@dataclass(frozen=True)
class Watched:
    """One clip's uncached run: its frames and what kinds of steps err by. `context` is that of the clip's mask."""

    clip: Clip
    settings: EditSettings
    context: RunContext
    result: EditResult
    tally: ErrorTally
    shadows: tuple[Shadow, ...]


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
