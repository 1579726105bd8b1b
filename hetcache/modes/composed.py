"""`<base>_teacache`: TeaCache's plan decides which steps are reused; on every other step the base mode decides.

One composition for all bases. The base is never asked on a reused step: its schedule names those steps in
`skipped`, so that its counters and accumulators see what really runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from baselines import teacache
from baselines.teacache import TeaCacheConfig
from hetcache.core.flops import ModelShape
from hetcache.core.mode import ONE_STEP, ManagerFactory, Mode, RunContext
from hetcache.core.store import RESIDUAL, FeatureStore
from hetcache.core.vocabulary import BlockOps, Branch, CacheManager, Compute, Decision, Hidden, Schedule, Step, Walk

if TYPE_CHECKING:
    import torch


def composed_config(base: type) -> type:
    """A frozen config with the fields of `base` and of TeaCache; it is an instance of both, validated as both."""

    def validate(self: Any) -> None:
        for part in (base, TeaCacheConfig):
            check = getattr(part, "__post_init__", None)
            if check is not None:
                check(self)

    body = {"__post_init__": validate, "__doc__": f"{base.__name__} with {TeaCacheConfig.__name__}."}
    name = base.__name__.removesuffix("Config") + "TeaCacheConfig"
    return dataclass(frozen=True)(type(name, (base, TeaCacheConfig), body))


def skipped_steps(decisions: Sequence[Decision]) -> frozenset[int]:
    return frozenset(i for i, decision in enumerate(decisions) if decision.compute is Compute.REUSE)


def merge_plans(outer: Sequence[Decision], base: Sequence[Decision]) -> list[Decision]:
    """TeaCache's reuses, the base's decisions elsewhere."""
    return [o if o.compute is Compute.REUSE else b for o, b in zip(outer, base, strict=True)]


class ComposedManager(CacheManager):
    """One CFG branch: TeaCache's residual of the whole stack around the base's own manager."""

    def __init__(self, base: CacheManager, outer: Sequence[Decision]) -> None:
        """`outer` is TeaCache's plan, of which the base was told the reused steps."""
        self.base = base
        self.num_tokens = base.num_tokens
        self.store = FeatureStore()
        self.shares_decisions, self.keeps_hints = base.shares_decisions, base.keeps_hints
        self.splits_rows = base.splits_rows
        self._outer = outer
        self._outer_reuses = False

    @property
    def reuse_level(self) -> str:  # type: ignore[override]
        """Tokens on TeaCache's reuses, the base's own level on the base's."""
        return "tokens" if self._outer_reuses else self.base.reuse_level

    def decide(self, step: Step, hidden: Hidden) -> Decision:
        outer = self._outer[step.index]
        self._outer_reuses = outer.compute is Compute.REUSE
        return outer if self._outer_reuses else self.base.decide(step, hidden)

    def run_block(self, ops: BlockOps, x_BND: torch.Tensor, decision: Decision) -> torch.Tensor:
        return self.base.run_block(ops, x_BND, decision)

    def hints(self, hidden: Hidden, decision: Decision) -> list[torch.Tensor] | None:
        return self.base.hints(hidden, decision)

    def keep_hints(self, hints: list[torch.Tensor], decision: Decision) -> None:
        self.base.keep_hints(hints, decision)

    def run_stack(self, walk: Walk, step: Step, hidden: Hidden, decision: Decision) -> torch.Tensor:
        return self.base.run_stack(walk, step, hidden, decision)

    def merge(self, step: Step, hidden: Hidden, x_BAD: torch.Tensor, decision: Decision) -> torch.Tensor:
        return self.base.merge(step, hidden, x_BAD, decision)

    def reuse(self, step: Step, hidden: Hidden) -> torch.Tensor:
        if self._outer_reuses:
            return hidden.x_BND + self.store.get(*RESIDUAL)
        return self.base.reuse(step, hidden)

    def commit(
        self, step: Step, decision: Decision, hidden: Hidden, x_out_BND: torch.Tensor, velocity: torch.Tensor
    ) -> None:
        self.store.put(*RESIDUAL, x_out_BND - hidden.x_BND)
        self.base.commit(step, decision, hidden, x_out_BND, velocity)

    def outcome(self, decision: Decision) -> Decision:
        return decision if self._outer_reuses else self.base.outcome(decision)

    def release(self) -> None:
        self.store.clear()
        self.base.release()

    @property
    def cache_bytes(self) -> int:
        return self.store.peak_nbytes + self.base.cache_bytes

    def notes(self) -> dict[str, Any]:
        return self.base.notes()


@dataclass(frozen=True)
class ComposedMode(Mode):
    """A mode whose managers are TeaCache's around those of `base`."""

    base: Mode | None = None

    def build(self, config: Any, context: RunContext) -> ManagerFactory:
        assert self.base is not None
        self.check_mask(config, context)
        make_base = self.base.build(config, context)
        teacache.plan(ONE_STEP, config, context, Branch.COND)

        def make(branch: Branch, schedule: Schedule) -> CacheManager:
            outer = teacache.plan(schedule, config, context, branch)
            manager = ComposedManager(make_base(branch, without(schedule, outer)), outer)
            manager.vace_on_reuse = self.vace_on_reuse(config)
            return manager

        return make


def without(schedule: Schedule, outer: Sequence[Decision]) -> Schedule:
    """The schedule that the base decides on: TeaCache's reuses are skipped."""
    return replace(schedule, skipped=schedule.skipped | skipped_steps(outer))


def with_teacache(base: Mode) -> Mode:
    """`<base>_teacache`: TeaCache decides which steps are reused, otherwise the base decides."""

    def plan(schedule: Schedule, config: Any, context: RunContext, branch: Branch) -> list[Decision]:
        assert base.plan is not None
        outer = teacache.plan(schedule, config, context, branch)
        return merge_plans(outer, base.plan(without(schedule, outer), config, context, branch))

    def with_residual(config: Any, shape: ModelShape, num_tokens: int, bytes_per_value: int) -> int:
        assert base.cache_bytes is not None
        residual = num_tokens * shape.dim * bytes_per_value
        return residual + base.cache_bytes(config, shape, num_tokens, bytes_per_value)

    return ComposedMode(
        f"{base.name}_teacache",
        f"{base.title}, on the steps that TeaCache computes",
        f"{base.paper} with {teacache.MODE.paper}",
        composed_config(base.config),
        plan if base.plan is not None else None,
        dial=teacache.MODE.dial,
        partial_flops=base.partial_flops,
        cache_bytes=with_residual if base.cache_bytes is not None else None,
        lighter=base.lighter,
        margin_width=base.margin_width,
        needs_mask=base.needs_mask,
        maskless=base.maskless,
        vace_on_reuse=teacache.MODE.vace_on_reuse,
        check_model=base.check_model,
        settle=lambda config, context: teacache.settle(base.settle(config, context), context),
        calibrated=lambda config: (*teacache.MODE.calibrated(config), *base.calibrated(config)),
        base=base,
    )
