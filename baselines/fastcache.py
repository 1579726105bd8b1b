"""FastCache (arXiv 2505.20353): a block is skipped iff delta <= tau, delta = |H_t - H_t-1|_F / |H_t-1|_F of its input.

tau = max(0.05, min(X, B)): X^2 = (ND + z sqrt(2 ND)) / ND approximates the chi-square quantile of ND degrees of freedom
over ND, B = 0.01 + 0.5 delta - 0.002 s + 0.00005 s^2 with s the timestep over 1000. X is about 1 at ND of 10^7, so in
practice the floor or B binds; the trace says which. A block that is not skipped computes the tokens that moved,
S_i = |h_t,i - h_t-1,i|^2 > 0.1 max S, unless more than half did; the others leave the block, as queries and as keys.
What is not computed is estimated: by the block's fitted linear map, or, where none was fitted, by the input
plus the block's last residual. Both stacks are gated. The rule needs one host synchronisation per block and step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from hetcache.core.mode import MakeManager, Mode, RunContext
from hetcache.core.settings import check_settings, setting
from hetcache.core.store import FeatureStore
from hetcache.core.vocabulary import BlockOps, CacheManager, Compute, Decision, Hidden, Step

if TYPE_CHECKING:
    import torch

    from hetcache.core.linear_maps import Layer, LinearMap, LinearMaps

FLOOR = 0.05
BETA = (0.01, 0.5, -0.002, 0.00005)


@dataclass(frozen=True)
class FastCacheConfig:
    """Settings of `--mode fastcache`; each field is the CLI flag of the same name."""

    fastcache_alpha: float = setting(0.05, "significance of the chi-square gate, two-sided")
    fastcache_motion: float = setting(
        0.1, "a token moved iff its squared change is above this fraction of the largest one; higher skips more"
    )
    fastcache_max_moving: float = setting(0.5, "above this fraction of moving tokens the whole block is computed")
    fastcache_estimate: str = setting(
        "auto",
        "what is not computed: 'linear' by the fitted maps, 'residual' by the last residual, 'auto' linear "
        "where the model's calibration has maps",
        choices=("auto", "linear", "residual"),
    )
    fastcache_reference: str = setting(
        "previous",
        "H_t-1: the input at the 'previous' step (paper, the release's adapter), or at the last one 'computed' (its "
        "accelerator), which bounds the drift of long runs of skips",
        choices=("previous", "computed"),
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if not 0.0 < self.fastcache_alpha < 1.0:
            raise ValueError(f"--fastcache-alpha must be between 0 and 1, not {self.fastcache_alpha}")
        if self.fastcache_motion < 0:
            raise ValueError(f"--fastcache-motion must not be negative, not {self.fastcache_motion}")
        if not 0.0 <= self.fastcache_max_moving <= 1.0:
            raise ValueError(f"--fastcache-max-moving must be between 0 and 1, not {self.fastcache_max_moving}")


def block_threshold(delta: float, timestep: float, num_values: int, alpha: float) -> tuple[float, str]:
    """(tau, the term that binds: `floor`, `chi-square` or `adaptive`)."""
    z = NormalDist().inv_cdf(1 - alpha / 2)
    chi_square = math.sqrt((num_values + z * math.sqrt(2 * num_values)) / num_values)
    s = timestep / 1000
    adaptive = BETA[0] + BETA[1] * delta + BETA[2] * s + BETA[3] * s**2
    bound, binds = min((chi_square, "chi-square"), (adaptive, "adaptive"))
    return (FLOOR, "floor") if bound < FLOOR else (bound, binds)


def saliency(x_BND: torch.Tensor, old_BND: torch.Tensor) -> torch.Tensor:
    """S [B, N], float32: each token's squared change."""
    return (x_BND - old_BND).float().square().sum(-1)


def moving_tokens(saliency_BN: torch.Tensor, threshold: float) -> torch.Tensor:
    """Bool [N]: the tokens whose squared change is above `threshold` times the largest, in any sample."""
    return (saliency_BN > threshold * saliency_BN.amax(dim=1, keepdim=True)).any(0)


@dataclass
class StepCount:
    """What the gates did in one step, over both stacks."""

    blocks: int = 0
    skipped: int = 0
    thinned: int = 0
    largest_delta: float = 0.0
    threshold: float = 0.0
    binds: str = ""


class BlockGate(CacheManager):
    """One CFG branch: per block the reference input and the last residual. The blocks decide, so that no decider is
    asked. Every process would find other tokens that moved, so that rows are not shared out."""

    splits_rows = False

    def __init__(self, config: FastCacheConfig, maps: LinearMaps | None) -> None:
        self._config = config
        self._maps = maps if config.fastcache_estimate != "residual" else None
        self._placed: dict[Layer, LinearMap] = {}
        self._step: Step | None = None
        self._count = StepCount()
        self._host_syncs = 0
        self._moving_share = 1.0
        self._binding: dict[str, int] = {}
        self.store = FeatureStore()

    def decide(self, step: Step, hidden: Hidden) -> Decision:
        self._step, self._count = step, StepCount()
        if step.is_first:
            return Decision(Compute.FULL, "first step")
        return Decision(Compute.BLOCKS, "every block decides")

    def run_block(self, ops: BlockOps, x_BND: torch.Tensor, decision: Decision) -> torch.Tensor:
        if decision.compute is Compute.FULL:
            return self._keep(ops, x_BND, ops.full(x_BND))
        old_BND = self.store.get(ops.stack, ops.layer, "input")
        saliency_BN = saliency(x_BND, old_BND)
        moving_N = moving_tokens(saliency_BN, self._config.fastcache_motion)
        if self._skips(saliency_BN, old_BND, moving_N):
            return self._estimate_all(ops, x_BND)
        if self._moving_share > self._config.fastcache_max_moving:
            return self._keep(ops, x_BND, ops.full(x_BND))
        self._count.thinned += 1
        self._host_syncs += 1
        return self._moving_only(ops, x_BND, moving_N.nonzero().squeeze(1))

    def outcome(self, decision: Decision) -> Decision:
        count = self._count
        if decision.compute is Compute.FULL:
            return decision
        if not count.skipped and not count.thinned:
            return replace(
                decision,
                compute=Compute.FULL,
                reason=f"no gate passed; {count.binds} binds",
                signal=count.largest_delta,
                threshold=count.threshold,
            )
        reason = (
            f"{count.skipped} of {count.blocks} blocks skipped, {count.thinned} on moving tokens only; "
            f"{count.binds} binds at the largest delta"
        )
        return replace(decision, reason=reason, signal=count.largest_delta, threshold=count.threshold)

    def release(self) -> None:
        self.store.clear()
        self._placed.clear()

    @property
    def cache_bytes(self) -> int:
        return self.store.peak_nbytes

    def notes(self) -> dict[str, Any]:
        estimate = "linear maps" if self._maps is not None else "input plus the block's last residual, no maps fitted"
        if self._config.fastcache_estimate == "residual":
            estimate = "input plus the block's last residual, as asked"
        return {"estimate": estimate, "host_syncs": self._host_syncs, "binding": dict(self._binding)}

    def _skips(self, saliency_BN: torch.Tensor, old_BND: torch.Tensor, moving_N: torch.Tensor) -> bool:
        """The block gate; one synchronisation brings delta and the share of moving tokens to the host."""
        import torch

        assert self._step is not None
        delta = saliency_BN.sum().sqrt() / old_BND.float().norm().clamp_min(1e-12)
        value, self._moving_share = torch.stack([delta, moving_N.float().mean()]).tolist()
        self._host_syncs += 1
        threshold, binds = block_threshold(value, self._step.timestep, old_BND.numel(), self._config.fastcache_alpha)
        count = self._count
        count.blocks += 1
        self._binding[binds] = self._binding.get(binds, 0) + 1
        if value >= count.largest_delta:
            count.largest_delta, count.threshold, count.binds = value, threshold, binds
        skips = bool(value <= threshold)
        count.skipped += skips
        return skips

    def _keep(self, ops: BlockOps, x_BND: torch.Tensor, y_BND: torch.Tensor) -> torch.Tensor:
        self.store.put(ops.stack, ops.layer, "input", x_BND)
        if self._maps is None:
            self.store.put(ops.stack, ops.layer, "residual", y_BND - x_BND)
        return y_BND

    def _estimate_all(self, ops: BlockOps, x_BND: torch.Tensor) -> torch.Tensor:
        if self._config.fastcache_reference == "previous":
            self.store.put(ops.stack, ops.layer, "input", x_BND)
        return self._estimate(ops, x_BND)

    def _estimate(self, ops: BlockOps, x_BND: torch.Tensor) -> torch.Tensor:
        if self._maps is None:
            return x_BND + self.store.get(ops.stack, ops.layer, "residual")
        layer = (ops.stack, ops.layer)
        if layer not in self._placed:
            fitted = self._maps.layers.get(layer)
            if fitted is None or len(fitted.bias_D) != x_BND.shape[2]:
                raise ValueError(
                    f"the linear maps of {self._maps.model!r} do not fit this model's blocks: use "
                    f"--fastcache-estimate residual, or run python -m hetcache.calibrate --model {self._maps.model}"
                )
            self._placed[layer] = fitted.to(x_BND)
        return self._placed[layer](x_BND)

    def _moving_only(self, ops: BlockOps, x_BND: torch.Tensor, rows_A: torch.Tensor) -> torch.Tensor:
        y_BND = self._estimate(ops, x_BND)
        if len(rows_A):
            x_BAD = x_BND.index_select(1, rows_A)
            y_BAD = ops.at(rows_A).full(x_BAD)
            y_BND = y_BND.index_copy(1, rows_A, y_BAD)
            if self._maps is None:
                residual_BND = self.store.get(ops.stack, ops.layer, "residual")
                residual_BND.index_copy_(1, rows_A, y_BAD - x_BAD)
        if self._config.fastcache_reference == "previous":
            self.store.put(ops.stack, ops.layer, "input", x_BND)
        else:
            old_BND = self.store.get(ops.stack, ops.layer, "input")
            self.store.put(ops.stack, ops.layer, "input", old_BND.index_copy(1, rows_A, x_BND.index_select(1, rows_A)))
        return y_BND


def cache(config: FastCacheConfig, context: RunContext) -> MakeManager:
    maps = None if config.fastcache_estimate == "residual" else context.calibration().linear_maps()
    if maps is None and config.fastcache_estimate == "linear":
        raise ValueError(
            "--fastcache-estimate linear: no linear maps were fitted for this model: run python -m hetcache.calibrate"
        )
    return lambda decider, branch: BlockGate(config, maps)


MODE = Mode("fastcache", "statistical gates of blocks and tokens", "arXiv 2505.20353", FastCacheConfig, cache=cache)
