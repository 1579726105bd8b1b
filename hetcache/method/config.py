"""The settings of `--mode hetcache`, and what follows from them alone: the rule, the sample, the memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hetcache.core.decisions import parse_decisions
from hetcache.core.drift import LevelRule
from hetcache.core.flops import ModelShape, cache_bytes, velocity_bytes
from hetcache.core.settings import check_settings, setting
from hetcache.core.vocabulary import Compute
from hetcache.method.forecast import KV_ORDER, MAX_ORDER, anchor_bytes

if TYPE_CHECKING:
    from hetcache.method.selector import SelectionConfig


@dataclass(frozen=True)
class HetCacheConfig:
    """Settings of `--mode hetcache`; each field is the CLI flag of the same name."""

    cache_thresh: float = setting(
        0.05,
        "delta: reuse a step iff the change accumulated since the last computed step is below it; higher skips more",
    )
    forecast: int = setting(
        1,
        "order of the forecast of what a step does not compute: 0 repeats the last value, 1 goes on along the last "
        "change of each token, 2 along its last two",
        choices=tuple(range(MAX_ORDER + 1)),
    )
    forecast_in: str = setting(
        "calibrated",
        "the time of forecasts of order 1 and 2: the model's calibrated curve where there is one, or sigma",
        choices=("calibrated", "sigma"),
    )
    context_ratio: float = setting(0.05, "fraction of context tokens that a partial step computes")
    margin_ratio: float = setting(0.7, "fraction of margin tokens that a partial step computes")
    margin_width: int | None = setting(
        None, "width of the margin in tokens", shown="5 at 30 token rows, scaled with the grid"
    )
    use_kmeans: bool = setting(True, "spread the context sample over k-means clusters of token features")
    kmeans_clusters: int = setting(16, "number of k-means clusters")
    use_attention_interaction: bool = setting(
        True, "prefer context tokens that generative tokens attend to (last layer, softmax over all keys)"
    )
    decision_rule: str = setting(
        "dual",
        "full against partial: 'dual' by the change since the last full step, 'forecast' by the same in view of the "
        "noise that is left (with --signal output as 'dual'), 'paper' by the change since the last computed one",
        choices=("dual", "forecast", "paper"),
    )
    refresh: float = setting(
        0.096,
        "rule 'forecast': a computed step is partial iff D < refresh, D the change times sigma^2 since the last full",
    )
    band: float = setting(1.5, "rule 'paper': a computed step is partial iff d < band * delta")
    refresh_band: float = setting(6.0, "rule 'dual': a computed step is partial iff D < refresh_band * delta")
    max_partial_run: int = setting(8, "a full step is forced after this many partial ones")
    warm_up: int = setting(1, "computed steps, from the first, that are full")
    last_full: bool = setting(True, "compute the last step in full; else in part, where the rule says so")
    sigma_weight: float = setting(
        0.75,
        "rule 'forecast': a step's change counts for d times its share of the noise, N (sigma_t - sigma_t+1), to this "
        "power: 0 counts all alike, more computes more of the last steps",
    )
    context_kv: str = setting(
        "forecast",
        "keys and values of tokens that a partial step does not compute: 'cached' from the last full step, 'forecast' "
        "as --forecast does, at order 1 at most, or none ('sampled', needs no K/V memory)",
        choices=("cached", "forecast", "sampled"),
    )
    partial_vace: str = setting(
        "rows",
        "VACE branch of a partial step: 'rows' runs it on the computed tokens, 'hints' adds the last full step's hints",
        choices=("rows", "hints"),
    )
    vace_on_reuse: bool = setting(
        False,
        "run the VACE blocks on reused steps too and drop their result, as the paper's release does: same "
        "output, a third of a step's work",
    )
    whole_steps_only: bool = setting(
        False,
        "no partial steps: reused steps repeat, or forecast, the model's last output, so next to no memory is needed",
    )
    signal: str = setting(
        "timestep",
        "what the change is estimated from: 'timestep' (calibrated, the plan is known before the run) or "
        "'output' (EasyCache's rate, content-aware)",
        choices=("timestep", "output"),
    )
    decisions: str | None = setting(
        None,
        "every step's decision, in place of the threshold's: F in full, P or P0.05 partial (with that share of the "
        "context), R or R1 reused (with a forecast of that order), xN for N of them, such as F,R0x2,P0.05,R1x3; the "
        "record of a planned run has it",
        shown="by --cache-thresh",
        metavar="PLAN",
    )

    def __post_init__(self) -> None:
        check_settings(self)
        for name in ("context_ratio", "margin_ratio"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"--{name.replace('_', '-')} must be between 0 and 1, not {getattr(self, name)}")
        if self.cache_thresh < 0:
            raise ValueError(f"--cache-thresh must not be negative, not {self.cache_thresh}")
        if self.kmeans_clusters < 1:
            raise ValueError(f"--kmeans-clusters must be at least 1, not {self.kmeans_clusters}")
        if self.refresh < 0:
            raise ValueError(f"--refresh must not be negative, not {self.refresh}")
        if self.band < 1 or self.refresh_band < 1:
            raise ValueError("--band and --refresh-band must be at least 1")
        if self.warm_up < 1:
            raise ValueError(f"--warm-up must be at least 1, not {self.warm_up}: the first step is always full")
        if self.max_partial_run < 0:
            raise ValueError(f"--max-partial-run must not be negative, not {self.max_partial_run}")
        if self.decisions is not None:
            order = max(decision.order or 0 for decision in parse_decisions(self.decisions))
            if order > self.forecast:
                raise ValueError(f"--decisions has forecasts of order {order}: give --forecast {order} with it")
            if self.signal == "output" or self.whole_steps_only:
                given = "--signal output" if self.signal == "output" else "--whole-steps-only"
                raise ValueError(f"--decisions says what every step does: leave {given} out")
        if self.margin_width is not None and self.margin_width < 0:
            raise ValueError(f"--margin-width must not be negative, not {self.margin_width}")

    def selection(self) -> SelectionConfig:
        from hetcache.method.selector import SelectionConfig

        return SelectionConfig(
            self.context_ratio,
            self.margin_ratio,
            self.use_kmeans,
            self.kmeans_clusters,
            self.use_attention_interaction,
            self._planned_ratios(),
        )

    def _planned_ratios(self) -> tuple[float, ...]:
        """The shares of the context that the partial steps of `decisions` compute."""
        partial = (each for each in parse_decisions(self.decisions or "F") if each.compute is Compute.PARTIAL)
        return tuple({self.context_ratio if each.context_ratio is None else each.context_ratio for each in partial})

    def rule(self) -> LevelRule:
        max_partial_run = 0 if self.whole_steps_only else self.max_partial_run
        return LevelRule(
            self.cache_thresh,
            self.decision_rule,
            self.band,
            self.refresh_band,
            max_partial_run,
            force_last=self.last_full,
            warm_up=self.warm_up,
            refresh=self.refresh,
        )

    def cache_bytes(self, shape: ModelShape, num_tokens: int, bytes_per_value: int) -> int:
        """What one CFG branch will keep from step to step, at most: `signal` output is counted in each branch and kept
        in one."""
        output = velocity_bytes(shape, num_tokens, bytes_per_value)
        signal = 3 * output if self.signal == "output" else 0
        if self.whole_steps_only:
            return (self.forecast + 1) * output + anchor_bytes(self.forecast, 1) + signal
        vace_rows, order = self.partial_vace == "rows", self.forecast
        kept = cache_bytes(shape, num_tokens, self.keeps_kv, vace_rows, bytes_per_value)
        forecast_blocks = shape.num_layers + (shape.num_vace_layers if vace_rows else 0)
        num_changes = order + (2 * forecast_blocks * min(order, KV_ORDER) if self.context_kv == "forecast" else 0)
        changes = num_changes * num_tokens * shape.dim * bytes_per_value
        return kept + changes + anchor_bytes(order, num_tokens) + signal

    @property
    def keeps_kv(self) -> bool:
        return self.context_kv != "sampled" and not self.whole_steps_only

    def lighter(self) -> list[tuple[str, HetCacheConfig]]:
        """(what is given up, the config without it): quality or speed for memory, in this order."""
        without_kv = replace(self, context_kv="sampled", partial_vace="rows")
        if self.decisions is not None:
            return [("partial steps attend among the computed tokens alone, as with --context-kv sampled", without_kv)]
        output = ("no partial steps, as with --whole-steps-only", replace(without_kv, whole_steps_only=True))
        if self.forecast == 0:
            sampled = "partial steps attend among the computed tokens alone, without cached K, V and hints"
            return [(sampled, without_kv), output]
        # Where tokens are forecast, whole steps are better than partial ones that see a part of the keys.
        whole = replace(without_kv, max_partial_run=0) if self.keeps_kv else self
        return [("no partial steps, as with --max-partial-run 0, whose keys and values are kept", whole), output]
