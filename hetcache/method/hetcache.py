"""HetCache (arXiv 2603.24260): full, partial and reused steps over generative, margin and context tokens.

This file composes the pure parts: `plan` decides, `selector` picks tokens, `forecast` carries on what is cached,
`store` holds it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from hetcache.core.calibration import CalibrationError
from hetcache.core.flops import ModelShape, partial_step_flops
from hetcache.core.lead import Decider
from hetcache.core.mode import Dial, MakeManager, Mode, RunContext
from hetcache.core.store import RESIDUAL, FeatureStore
from hetcache.core.time_curve import Powers, TimeAxis
from hetcache.core.vocabulary import Attention, BlockOps, Branch, CacheManager, Compute, Decision, Hidden, Step
from hetcache.method.config import HetCacheConfig
from hetcache.method.forecast import KV_ORDER, Anchors, History
from hetcache.method.plan import lead, plan

if TYPE_CHECKING:
    import torch

    from hetcache.method.selector import TokenSelector

VELOCITY = ("output", 0, "velocity")
ANCHORS = ("stack", 0, "anchors")


class CompactTokens(CacheManager):
    """One CFG branch of HetCache. The selector is shared with the other branch, the store is not."""

    def __init__(
        self,
        config: HetCacheConfig,
        selector: TokenSelector | None,
        decider: Decider,
        branch: Branch,
        reuses: bool = True,
        axis: TimeAxis | None = None,
    ) -> None:
        """`selector` is None in a run of whole steps. `reuses` False: the decider never reuses a step, so nothing
        is kept for that. `axis` is the time that forecasts are made in, sigma by default."""
        self.config = config
        self.selector = selector
        self.store = FeatureStore()
        self.reuse_level = "velocity" if config.whole_steps_only else "tokens"
        self.num_tokens = selector.classes.num_tokens if selector is not None else None
        # The tokens are chosen by what the first branch sees.
        self.shares_decisions = True
        self.keeps_hints = config.partial_vace == "hints" and not config.whole_steps_only
        self._decider = decider
        self._branch = branch
        self._reuses = reuses
        self._axis = axis or Powers()
        self._anchors = Anchors(self.store, ANCHORS, config.forecast, self._axis)
        self._history = History(self.store, VELOCITY if config.whole_steps_only else RESIDUAL, self._anchors)
        self._kv_histories: dict[tuple[str, int], tuple[History, History]] = {}
        self._step: Step | None = None
        self._order = config.forecast
        self._output_shape: tuple[int, ...] = ()

    def decide(self, step: Step, hidden: Hidden) -> Decision:
        self._step = step
        decision = self._decider.decide(self._branch, step, hidden)
        self._order = self._order_of(decision)
        if decision.compute is not Compute.PARTIAL:
            return decision
        assert self.selector is not None, "partial steps choose tokens by a mask"
        return replace(decision, plan=self.selector.plan(step.index, decision.context_ratio))

    def run_block(self, ops: BlockOps, x_BND: torch.Tensor, decision: Decision) -> torch.Tensor:
        attention = ops.self_attn(x_BND, self._kv(ops, decision))
        if self._caches_kv(ops.stack):
            self._keep_kv(ops, attention, decision)
        x_BND = ops.add_self_attn(x_BND, attention.out_BND)
        x_BND = ops.add_cross_attn(x_BND, ops.cross_attn(x_BND))
        x_BND = ops.add_mlp(x_BND, ops.mlp(x_BND))
        if decision.compute is Compute.FULL and ops.stack == "dit" and ops.layer == ops.num_layers - 1:
            self._observe(ops, x_BND, attention.q_BND, attention.k_BND)
        return x_BND

    def hints(self, hidden: Hidden, decision: Decision) -> list[torch.Tensor] | None:
        if self.config.partial_vace == "rows" or decision.plan is None:
            return None
        rows_A = decision.plan.rows_A
        hints: list[torch.Tensor] = []
        while ("vace", len(hints), "hint") in self.store:
            hints.append(self.store.get("vace", len(hints), "hint").index_select(1, rows_A))
        return hints

    def keep_hints(self, hints: list[torch.Tensor], decision: Decision) -> None:
        if self.keeps_hints:
            for layer, hint_BND in enumerate(hints):
                self.store.put("vace", layer, "hint", hint_BND)

    def merge(self, step: Step, hidden: Hidden, x_BAD: torch.Tensor, decision: Decision) -> torch.Tensor:
        if decision.plan is None:
            return x_BAD
        rows_A = decision.plan.rows_A
        x_BND = hidden.x_BND + self._history.at(step, self._order_of(decision))
        self._history.keep_rows(rows_A, x_BAD - hidden.x_BND.index_select(1, rows_A))
        self._anchors.push_rows(step, rows_A)
        return x_BND.index_copy_(1, rows_A, x_BAD)

    def reuse(self, step: Step, hidden: Hidden) -> torch.Tensor:
        forecast = self._history.at(step, self._order)
        return forecast.view(self._output_shape) if self.config.whole_steps_only else hidden.x_BND + forecast

    def commit(
        self, step: Step, decision: Decision, hidden: Hidden, x_out_BND: torch.Tensor, velocity: torch.Tensor
    ) -> None:
        if self.config.whole_steps_only:
            if self._reuses:
                # One row: all of the output was computed at the same steps.
                self._output_shape = velocity.shape
                self._history.keep(velocity.flatten(1).unsqueeze(1))
                self._anchors.push(step, 1, velocity.device)
        elif decision.compute is Compute.FULL:
            self._history.keep(x_out_BND - hidden.x_BND)
            self._anchors.push(step, x_out_BND.shape[1], x_out_BND.device)
        self._decider.observe(self._branch, hidden, velocity)

    def release(self) -> None:
        self.store.clear()
        self._decider.release()

    @property
    def cache_bytes(self) -> int:
        return self.store.peak_nbytes + self._decider.cache_bytes(self._branch)

    def notes(self) -> dict[str, Any]:
        notes = self._decider.notes(self._branch)
        if self.config.forecast:
            notes = {**notes, "forecast_in": "sigma" if isinstance(self._axis, Powers) else "calibrated time"}
        return notes

    def _order_of(self, decision: Decision) -> int:
        return self.config.forecast if decision.order is None else decision.order

    def _caches_kv(self, stack: str) -> bool:
        return self.config.keeps_kv and (stack == "dit" or self.config.partial_vace == "rows")

    def _kv(self, ops: BlockOps, decision: Decision) -> tuple[torch.Tensor, torch.Tensor] | None:
        """The buffers of all keys and values, into which the step writes those that it computes."""
        if decision.plan is None or not self._caches_kv(ops.stack):
            return None
        if self.config.context_kv == "cached":
            return self.store.get(ops.stack, ops.layer, "k"), self.store.get(ops.stack, ops.layer, "v")
        assert self._step is not None
        k, v = self._kv_histories[ops.stack, ops.layer]
        order = self._order_of(decision)
        return k.buffer(self._step, order), v.buffer(self._step, order)

    def _keep_kv(self, ops: BlockOps, attention: Attention, decision: Decision) -> None:
        if self.config.context_kv == "cached":
            if decision.compute is Compute.FULL:
                self.store.put(ops.stack, ops.layer, "k", attention.k_BND)
                self.store.put(ops.stack, ops.layer, "v", attention.v_BND)
            return
        layer = ops.stack, ops.layer
        if layer not in self._kv_histories:
            order = min(self.config.forecast, KV_ORDER)
            k, v = (History(self.store, (*layer, name), self._anchors, order) for name in ("k", "v"))
            self._kv_histories[layer] = k, v
        for history, all_BND in zip(self._kv_histories[layer], (attention.k_BND, attention.v_BND), strict=True):
            if decision.plan is None:
                history.keep(all_BND)
            else:
                rows_A = decision.plan.rows_A
                history.keep_rows(rows_A, all_BND.index_select(1, rows_A))

    def _observe(self, ops: BlockOps, x_BND: torch.Tensor, q_BND: torch.Tensor, k_BND: torch.Tensor) -> None:
        assert self._step is not None
        index = self._step.index
        if self.selector is not None and self.selector.wants_evidence(index):
            x_BND, q_BND, k_BND = ops.all_rows(x_BND), ops.all_heads(q_BND), ops.all_heads(k_BND)
            self.selector.observe(index, x_BND[0], q_BND[0], k_BND[0], ops.num_heads)


def cache(config: HetCacheConfig, context: RunContext, reuses: bool = True) -> MakeManager:
    selector = None if config.whole_steps_only else _selector(config, context)
    return partial(CompactTokens, config, selector, reuses=reuses, axis=time_axis(config, context))


def partial_flops(
    decision: Decision, config: HetCacheConfig, context: RunContext, shape: ModelShape, num_tokens: int
) -> int:
    num_active = _selector(config, context).count_active(decision.context_ratio)
    return partial_step_flops(shape, num_tokens, num_active, config.keeps_kv, config.partial_vace == "rows")


def time_axis(config: HetCacheConfig, context: RunContext) -> TimeAxis:
    """The model's calibrated time where there is one; sigma for a decider that needs no calibration, too."""
    if config.forecast == 0 or config.forecast_in == "sigma":
        return Powers()
    try:
        return context.calibration().time_curve or Powers()
    except CalibrationError:
        # A plan that needs a calibration raises it; the others go on, and the record says in which time.
        return Powers()


def _selector(config: HetCacheConfig, context: RunContext) -> TokenSelector:
    from hetcache.method.selector import TokenSelector

    return TokenSelector(context.classes, config.selection())


def _bytes_of_tokens(config: HetCacheConfig, shape: ModelShape, num_tokens: int, bytes_per_value: int) -> int:
    return 0 if config.whole_steps_only else config.cache_bytes(shape, num_tokens, bytes_per_value)


MODE = Mode(
    "hetcache",
    "heterogeneous caching of steps and tokens",
    "arXiv 2603.24260",
    HetCacheConfig,
    plan,
    lead,
    cache,
    Dial("cache_thresh", 64.0),
    partial_flops,
    HetCacheConfig.cache_bytes,
    HetCacheConfig.lighter,
    margin_width=lambda config: config.margin_width,
    needs_mask=True,
    maskless=lambda config: config.whole_steps_only,
    vace_on_reuse=lambda config: config.vace_on_reuse,
    calibrated=lambda config: ("drift",) if config.signal == "timestep" and config.decisions is None else (),
)

TOKENS = replace(
    MODE,
    plan=partial(plan, reuses=False),
    lead=partial(lead, reuses=False),
    cache=partial(cache, reuses=False),
    cache_bytes=_bytes_of_tokens,
)
"""HetCache's token part alone: full and partial steps, for a composition that decides the reuses."""
