"""The modes: name -> how to configure, build and (for static schedules) plan them. One file and one line each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from baselines.adacache import AdaCacheConfig, AdaCacheManager, AdaRate
from baselines.baseline import BaselineConfig, BaselineManager
from baselines.easycache import EasyCacheConfig, EasyCacheManager, EasyCacheRule
from baselines.fastcache import FastCacheConfig, FastCacheManager
from baselines.magcache import MagCacheConfig, MagCacheManager, plan_magcache
from baselines.pab import PabConfig, PabManager, pab_step_flops, plan_pab
from baselines.teacache import TeaCacheConfig, TeaCacheManager, plan_teacache
from hetcache.core.calibration import Calibration
from hetcache.core.flops import ModelShape, partial_step_flops
from hetcache.core.tokens import TokenClasses
from hetcache.core.vocabulary import Branch, CacheManager, Compute, Decision, Schedule
from hetcache.method.hetcache import HetCacheConfig, HetCacheManager, plan_hetcache
from hetcache.method.output_drift import OutputDrift
from hetcache.method.selector import TokenSelector
from hetcache.modes.composed import ComposedManager, composed_config, merge_plans, skipped_steps


class NotPlannable(ValueError):  # noqa: N818 - reads as what it says at the raise
    """The decisions depend on the run's content, so there is no plan before it."""


@dataclass(frozen=True)
class RunContext:
    """What a mode may know about the run: the video's token classes and the model's calibration (loaded on
    demand, so that a mode that needs none runs on any model)."""

    classes: TokenClasses
    calibration: Callable[[], Calibration]


@dataclass(frozen=True)
class Dial:
    """The config field that trades quality for speed: higher never computes more. `high` bounds the search of
    `--target-speedup`; `whole` says that only integers are allowed."""

    field: str
    high: float
    low: float = 0.0
    whole: bool = False


ManagerFactory = Callable[[Branch], CacheManager]
Plan = Callable[[Schedule, Any, RunContext, Branch], list[Decision]]
PartialFlops = Callable[[Decision, Any, RunContext, ModelShape, int], int]
CacheBytes = Callable[[Any, ModelShape, int, int], int]


@dataclass(frozen=True)
class Mode:
    """`build(config, context)` gives the manager factory of one video. Modes whose schedule is static also have
    `plan`, every step's decision before the run, and `partial_flops`, what their PARTIAL steps cost.
    `cache_bytes(config, shape, num_tokens, bytes_per_value)` says before the run what a CFG branch will keep, in the
    modes that can make do with less memory. A preset is a mode with changed `defaults`."""

    name: str
    title: str
    paper: str
    config: type
    build: Callable[[Any, RunContext], ManagerFactory]
    plan: Plan | None = None
    partial_flops: PartialFlops | None = None
    dial: Dial | None = None
    cache_bytes: CacheBytes | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)


def _build_baseline(config: BaselineConfig, context: RunContext) -> ManagerFactory:
    return lambda branch: BaselineManager()


def _plan_baseline(schedule: Schedule, config: Any, context: RunContext, branch: Branch) -> list[Decision]:
    return [Decision(Compute.FULL, "no cache")] * schedule.num_steps


def _build_teacache(config: TeaCacheConfig, context: RunContext) -> ManagerFactory:
    rescale = context.calibration().rescale(config.teacache_signal)
    return lambda branch: TeaCacheManager(config, rescale)


def _plan_teacache(schedule: Schedule, config: TeaCacheConfig, context: RunContext, branch: Branch) -> list[Decision]:
    return plan_teacache(schedule, config, context.calibration().rescale(config.teacache_signal))


def _build_pab(config: PabConfig, context: RunContext) -> ManagerFactory:
    return lambda branch: PabManager(config)


def _plan_pab(schedule: Schedule, config: PabConfig, context: RunContext, branch: Branch) -> list[Decision]:
    return plan_pab(schedule, config)


def _pab_flops(decision: Decision, config: PabConfig, context: RunContext, shape: ModelShape, num_tokens: int) -> int:
    return pab_step_flops(decision, config, shape, num_tokens)


def _build_adacache(config: AdaCacheConfig, context: RunContext) -> ManagerFactory:
    rate = AdaRate()
    return lambda branch: AdaCacheManager(config, rate, branch)


def _build_fastcache(config: FastCacheConfig, context: RunContext) -> ManagerFactory:
    if config.fastcache_estimate == "residual":
        return lambda branch: FastCacheManager(config, None)
    maps = context.calibration().linear_maps()
    if maps is None and config.fastcache_estimate == "linear":
        raise ValueError(
            "--fastcache-estimate linear: no linear maps were fitted for this model: run python scripts/calibrate.py"
        )
    return lambda branch: FastCacheManager(config, maps)


def _build_magcache(config: MagCacheConfig, context: RunContext) -> ManagerFactory:
    calibration = context.calibration()
    return lambda branch: MagCacheManager(config, calibration.magnitude_ratios(branch))


def _plan_magcache(schedule: Schedule, config: MagCacheConfig, context: RunContext, branch: Branch) -> list[Decision]:
    return plan_magcache(schedule, config, context.calibration().magnitude_ratios(branch))


def _build_easycache(config: EasyCacheConfig, context: RunContext) -> ManagerFactory:
    rule = EasyCacheRule()
    return lambda branch: EasyCacheManager(config, rule, branch)


def _build_hetcache(config: HetCacheConfig, context: RunContext) -> ManagerFactory:
    selector = TokenSelector(context.classes, config.selection())
    if config.signal == "output":
        drift = OutputDrift(config.rule())
        return lambda branch: HetCacheManager(config, selector, None, drift=drift, branch=branch)
    estimator = context.calibration().estimator()
    return lambda branch: HetCacheManager(config, selector, estimator)


def _build_hetcache_tokens(config: HetCacheConfig, context: RunContext) -> ManagerFactory:
    """HetCache's token part alone: full and partial steps, for a composition that decides the reuses."""
    selector = TokenSelector(context.classes, config.selection())
    rule = replace(config.rule(), reuses=False)
    if config.signal == "output":
        drift = OutputDrift(rule)
        return lambda branch: HetCacheManager(config, selector, None, rule, drift, branch)
    estimator = context.calibration().estimator()
    return lambda branch: HetCacheManager(config, selector, estimator, rule)


def _plan_hetcache(schedule: Schedule, config: HetCacheConfig, context: RunContext, branch: Branch) -> list[Decision]:
    return _plan_levels(schedule, config, context, True)


def _plan_hetcache_tokens(
    schedule: Schedule, config: HetCacheConfig, context: RunContext, branch: Branch
) -> list[Decision]:
    return _plan_levels(schedule, config, context, False)


def _plan_levels(schedule: Schedule, config: HetCacheConfig, context: RunContext, reuses: bool) -> list[Decision]:
    if config.signal == "output":
        raise NotPlannable("--signal output decides from the run itself, so there is no plan before it")
    rule = replace(config.rule(), reuses=reuses)
    return plan_hetcache(schedule, config, context.calibration().estimator(), rule)


def _hetcache_flops(
    decision: Decision, config: HetCacheConfig, context: RunContext, shape: ModelShape, num_tokens: int
) -> int:
    num_active = TokenSelector(context.classes, config.selection()).num_active
    return partial_step_flops(
        shape, num_tokens, num_active, config.context_kv == "cached", config.partial_vace == "rows"
    )


def with_teacache(base: Mode) -> Mode:
    """`<base>_teacache`: TeaCache decides which steps are reused, otherwise the base decides."""

    def build(config: Any, context: RunContext) -> ManagerFactory:
        make_base = base.build(config, context)
        rescale = context.calibration().rescale(config.teacache_signal)
        return lambda branch: ComposedManager(make_base(branch), config, rescale)

    def with_residual(config: Any, shape: ModelShape, num_tokens: int, bytes_per_value: int) -> int:
        assert base.cache_bytes is not None
        residual = num_tokens * shape.dim * bytes_per_value
        if config.whole_steps_only:
            return residual
        return residual + base.cache_bytes(config, shape, num_tokens, bytes_per_value)

    def plan(schedule: Schedule, config: Any, context: RunContext, branch: Branch) -> list[Decision]:
        outer = _plan_teacache(schedule, config, context, branch)
        assert base.plan is not None
        inner = replace(schedule, skipped=schedule.skipped | skipped_steps(outer))
        return merge_plans(outer, base.plan(inner, config, context, branch))

    return Mode(
        f"{base.name}_teacache",
        f"{base.title}, on the steps that TeaCache computes",
        f"{base.paper} with arXiv 2411.19108",
        composed_config(base.config),
        build,
        plan if base.plan is not None else None,
        base.partial_flops,
        Dial("cache_thresh", 64.0),
        with_residual if base.cache_bytes is not None else None,
    )


def preset(name: str, base: Mode, **defaults: Any) -> Mode:
    """A mode under its own name with changed defaults; its flags are the base's and still win."""
    settings = ", ".join(f"{key} {value}" for key, value in defaults.items())
    return replace(base, name=name, title=f"{base.title} ({settings})", defaults=defaults)


BASELINE = Mode("baseline", "no acceleration", "", BaselineConfig, _build_baseline, _plan_baseline)
TEACACHE = Mode(
    "teacache",
    "reuse of steps by the timestep embedding's change",
    "arXiv 2411.19108",
    TeaCacheConfig,
    _build_teacache,
    _plan_teacache,
    dial=Dial("cache_thresh", 64.0),
)
PAB = Mode(
    "pab",
    "pyramid attention broadcast",
    "arXiv 2408.12588",
    PabConfig,
    _build_pab,
    _plan_pab,
    _pab_flops,
    Dial("pab_self_range", 64, 1, whole=True),
)
ADACACHE = Mode(
    "adacache", "reuse of steps by a block's residual change", "arXiv 2411.02397", AdaCacheConfig, _build_adacache
)
FASTCACHE = Mode(
    "fastcache", "statistical gates of blocks and tokens", "arXiv 2505.20353", FastCacheConfig, _build_fastcache
)
MAGCACHE = Mode(
    "magcache",
    "reuse of steps by the residual's calibrated magnitude",
    "arXiv 2506.09045",
    MagCacheConfig,
    _build_magcache,
    _plan_magcache,
    dial=Dial("magcache_thresh", 64.0),
)
EASYCACHE = Mode(
    "easycache",
    "reuse of steps by the output's measured rate of change",
    "arXiv 2507.02860",
    EasyCacheConfig,
    _build_easycache,
)
HETCACHE = Mode(
    "hetcache",
    "heterogeneous caching of steps and tokens",
    "arXiv 2603.24260",
    HetCacheConfig,
    _build_hetcache,
    _plan_hetcache,
    _hetcache_flops,
    Dial("cache_thresh", 64.0),
    HetCacheConfig.cache_bytes,
)
HETCACHE_TOKENS = replace(HETCACHE, build=_build_hetcache_tokens, plan=_plan_hetcache_tokens)

# Slower and faster in fact: a lower threshold reuses less. The paper's table names them the other way round.
PRESETS = (
    preset("teacache_slow", TEACACHE, cache_thresh=0.05),
    preset("teacache_fast", TEACACHE, cache_thresh=0.08),
    preset("hetcache_slow", HETCACHE, cache_thresh=0.03),
    preset("hetcache_fast", HETCACHE, cache_thresh=0.08),
)

MODES: dict[str, Mode] = {
    mode.name: mode
    for mode in (
        BASELINE,
        TEACACHE,
        PAB,
        ADACACHE,
        FASTCACHE,
        MAGCACHE,
        EASYCACHE,
        HETCACHE,
        *(with_teacache(base) for base in (PAB, ADACACHE, FASTCACHE, HETCACHE_TOKENS)),
        *PRESETS,
    )
}
