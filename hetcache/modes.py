"""The modes: name -> how to configure, build and (for static schedules) plan them. One file and one line each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from baselines.baseline import BaselineConfig, BaselineManager
from hetcache.api import Branch, CacheManager, Compute, Decision, Schedule
from hetcache.calibration import Calibration
from hetcache.manager import HetCacheConfig, HetCacheManager, plan_hetcache
from hetcache.selector import TokenSelector
from hetcache.tokens import TokenClasses


@dataclass(frozen=True)
class RunContext:
    """What a mode may know about the run: the video's token classes and the model's calibration (loaded on
    demand, so that a mode that needs none runs on any model)."""

    classes: TokenClasses
    calibration: Callable[[], Calibration]


ManagerFactory = Callable[[Branch], CacheManager]


@dataclass(frozen=True)
class Mode:
    """`build(config, context)` gives the manager factory of one video; `plan`, for modes whose schedule is static,
    gives every step's decision before the run; `defaults` are a preset's values for config fields (the CLI
    builds `config(**dict(defaults), **flags)` and gives presets no argument group of their own)."""

    name: str
    title: str
    paper: str
    config: type
    build: Callable[[Any, RunContext], ManagerFactory]
    plan: Callable[[Schedule, Any, RunContext], list[Decision]] | None = None
    defaults: tuple[tuple[str, Any], ...] = ()


def _build_baseline(config: BaselineConfig, context: RunContext) -> ManagerFactory:
    return lambda branch: BaselineManager()


def _build_hetcache(config: HetCacheConfig, context: RunContext) -> ManagerFactory:
    selector = TokenSelector(context.classes, config.selection())
    rescale = context.calibration().rescale("e0")
    return lambda branch: HetCacheManager(config, selector, rescale)


def _plan_baseline(schedule: Schedule, config: BaselineConfig, context: RunContext) -> list[Decision]:
    return [Decision(Compute.FULL, "no cache")] * schedule.num_steps


def _plan_hetcache(schedule: Schedule, config: HetCacheConfig, context: RunContext) -> list[Decision]:
    return plan_hetcache(schedule, config, context.calibration().rescale("e0"))


MODES: dict[str, Mode] = {
    mode.name: mode
    for mode in (
        Mode("baseline", "no acceleration", "", BaselineConfig, _build_baseline, _plan_baseline),
        Mode("hetcache", "heterogeneous caching of steps and tokens", "arXiv 2603.24260", HetCacheConfig,
             _build_hetcache, _plan_hetcache),
    )
}
