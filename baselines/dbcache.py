"""DBCache (cache-dit): the first F blocks always run, and by how much their residual changed decides for the others.

r = mean|h - h_p| / mean|h_p|, h what the first F DiT blocks add to the tokens, h_p the same at the last computed step.
Where r is below the threshold the blocks behind them are replaced by what they added then, up to the last B, which run
again. On VACE cache-dit runs all VACE blocks at every step, because the first F blocks need their hints: the faithful
default, `dit`. With the probe `vace`, VACE's first block alone runs, h is what it adds, and a hit skips both stacks. h
ends before the hint behind the last probed block; the residual spans the hints that lie in it: each counts once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hetcache.core.drift import relative_l1
from hetcache.core.flops import ModelShape
from hetcache.core.mode import MakeManager, Mode, RunContext
from hetcache.core.settings import check_settings, setting
from hetcache.core.store import RESIDUAL, FeatureStore
from hetcache.core.taylor import MAX_ORDER, TaylorSeries
from hetcache.core.vocabulary import BlockOps, CacheManager, Compute, Decision, Hidden, Step, Walk

if TYPE_CHECKING:
    import torch

PROBE = ("probe", 0, "residual")
FRONT, FRONT_OF = 8, 30


@dataclass(frozen=True)
class DbCacheConfig:
    """Settings of `--mode dbcache`; each field is the CLI flag of the same name."""

    dbcache_thresh: float = setting(
        0.08, "the blocks behind the probe are skipped iff its relative change is below it; higher skips more"
    )
    dbcache_probe: str = setting(
        "dit",
        "what always runs: 'dit', all VACE and the first DiT blocks, as published, or 'vace', VACE's first block",
        choices=("dit", "vace"),
    )
    dbcache_front: int | None = setting(
        None, "F: DiT blocks, from the first, that always run", shown="8 of 30, fewer in a model of fewer"
    )
    dbcache_back: int = setting(0, "B: DiT blocks, to the last, that always run")
    dbcache_warmup: int = setting(8, "steps from the first that are always computed")
    dbcache_max_run: int | None = setting(None, "at most so many steps in a row are skipped", shown="no limit")
    dbcache_order: int = setting(
        0, "order of a Taylor forecast of what is skipped; 0 reuses it", choices=tuple(range(MAX_ORDER + 1))
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if self.dbcache_thresh < 0:
            raise ValueError(f"--dbcache-thresh must not be negative, not {self.dbcache_thresh}")
        for name, least in (("front", 1), ("back", 0), ("warmup", 1), ("max_run", 0)):
            value = getattr(self, f"dbcache_{name}")
            if value is not None and value < least:
                raise ValueError(f"--dbcache-{name.replace('_', '-')} must be at least {least}, not {value}")
        if self.dbcache_probe == "vace" and (self.dbcache_back or self.dbcache_front is not None):
            raise ValueError("--dbcache-front and --dbcache-back belong to --dbcache-probe dit: vace runs no DiT block")

    def front(self, num_layers: int) -> int:
        """DiT blocks before the probe. Raises ValueError where they and those at the back leave none to skip."""
        front = self.dbcache_front or min(FRONT, max(num_layers * FRONT // FRONT_OF, 1))
        if front + self.dbcache_back >= num_layers:
            raise ValueError(
                f"--dbcache-front {front} and --dbcache-back {self.dbcache_back} leave none of the model's "
                f"{num_layers} DiT blocks to skip; give {num_layers - 1} together at most"
            )
        return front


class BlockProbe(CacheManager):
    """One CFG branch, which decides for itself: the probe of the last computed step, and what the blocks behind it
    added. The probe is looked at as a whole, so that rows are not shared out among processes."""

    splits_rows = False

    def __init__(self, config: DbCacheConfig) -> None:
        self._config = config
        self._host_syncs = self._hits = self._run = 0
        self._change: float | None = None
        self._is_hit = False
        self._probed = ("dit", 0)
        self._x_in_BND: torch.Tensor | None = None
        self._probe_BND: torch.Tensor | None = None
        self.store = FeatureStore()
        self._series = TaylorSeries(self.store, config.dbcache_order)

    def decide(self, step: Step, hidden: Hidden) -> Decision:
        self._change, self._is_hit = None, False
        if step.index < self._config.dbcache_warmup:
            return Decision(Compute.FULL, "first steps")
        if self._config.dbcache_max_run is not None and self._run >= self._config.dbcache_max_run:
            return Decision(Compute.FULL, f"{self._run} skipped in a row")
        return Decision(Compute.BLOCKS, "the probe decides")

    def run_stack(self, walk: Walk, step: Step, hidden: Hidden, decision: Decision) -> torch.Tensor:
        config, probes_vace = self._config, self._config.dbcache_probe == "vace"
        if probes_vace and not walk.num_vace_layers:
            raise ValueError("--dbcache-probe vace: this run has no VACE blocks; use --dbcache-probe dit")
        front = 0 if probes_vace else config.front(walk.num_layers)
        self._probed = ("vace", 0) if probes_vace else ("dit", front - 1)
        self._x_in_BND = None if probes_vace else walk.x_BAD
        if probes_vace:
            walk.vace_to(1)
        else:
            walk.dit_to(front)
        assert self._probe_BND is not None, "the probed block has run"
        probe_BND, self._probe_BND = self._probe_BND, None
        start_BND, end = walk.x_BAD, walk.num_layers - config.dbcache_back
        if decision.compute is Compute.BLOCKS and self._matches(probe_BND):
            walk.jump(end, start_BND + self._series.at(RESIDUAL, step.index))
            return walk.dit_to(walk.num_layers)
        self._run = 0
        self.store.put(*PROBE, probe_BND)
        self._series.put(RESIDUAL, step.index, walk.dit_to(end) - start_BND)
        return walk.dit_to(walk.num_layers)

    def run_block(self, ops: BlockOps, x_BND: torch.Tensor, decision: Decision) -> torch.Tensor:
        y_BND = ops.full(x_BND)
        if (ops.stack, ops.layer) == self._probed:
            self._probe_BND = y_BND - (x_BND if self._x_in_BND is None else self._x_in_BND)
            self._x_in_BND = None
        return y_BND

    def outcome(self, decision: Decision) -> Decision:
        if self._change is None:
            return decision
        done = replace(decision, signal=self._change, threshold=self._config.dbcache_thresh)
        if self._is_hit:
            return replace(done, reason=f"r < threshold, {self._run} in a row")
        return replace(done, compute=Compute.FULL, reason="r >= threshold")

    def release(self) -> None:
        self.store.clear()
        self._x_in_BND = self._probe_BND = None

    @property
    def cache_bytes(self) -> int:
        return self.store.peak_nbytes

    def notes(self) -> dict[str, Any]:
        return {"host_syncs": self._host_syncs, "hits": self._hits}

    def _matches(self, probe_BND: torch.Tensor) -> bool:
        """Whether the probe is close enough to that of the last computed step: one host synchronisation."""
        self._change = float(relative_l1(probe_BND, self.store.get(*PROBE)))
        self._host_syncs += 1
        self._is_hit = self._change < self._config.dbcache_thresh
        self._hits += self._is_hit
        self._run += self._is_hit
        return self._is_hit


def cache(config: DbCacheConfig, context: RunContext) -> MakeManager:
    return lambda decider, branch: BlockProbe(config)


def check_model(config: DbCacheConfig, shape: ModelShape) -> None:
    if config.dbcache_probe == "dit":
        config.front(shape.num_layers)


MODE = Mode(
    "dbcache", "the first blocks decide for the rest", "cache-dit", DbCacheConfig, cache=cache, check_model=check_model
)
