"""AdaCache (arXiv 2411.02397): c = |R_new - R_old|_1 / |R_old|_1 / k; the next rate is codebook[smallest key > c].

R is the gated self-attention residual of one metric block, k the steps since it was last computed. The rate says
after how many steps everything is computed again. On the steps between, the original adds every block's two cached
residuals to the running hidden states; with cached hints too, that sum is exactly the whole stack's residual, so
one tensor is kept instead of two per block, and no block and no VACE block runs.

MoReg multiplies c by the motion of R along frames, so that videos that move are computed more often. Outside its
window the motion counts as 1, so that its gradient acts where the window is entered and left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hetcache.core.lead import Lead
from hetcache.core.mode import Mode, RunContext
from hetcache.core.settings import check_settings, setting
from hetcache.core.vocabulary import BlockOps, Branch, Compute, Decision, Grid, Hidden, Schedule, Step

if TYPE_CHECKING:
    import torch

MOTION_SCALE = 1 / 0.385
MOTION_POWER = 8
MOTION_GRADIENT = 10.0
METRIC_BLOCK = 13 / 28


@dataclass(frozen=True)
class Codebook:
    """Published table of (largest metric, rate), ascending; `moreg_from` and `moreg_to` are fractions of the steps
    between which MoReg acts."""

    rates: tuple[tuple[float, int], ...]
    moreg_from: float
    moreg_to: float

    def rate(self, metric: float) -> int:
        """Steps from one computed step to the next: that of the smallest key above the metric, else the last one."""
        return next((rate for key, rate in self.rates if metric < key), self.rates[-1][1])


CODEBOOKS = {
    "fast": Codebook(((0.08, 6), (0.16, 5), (0.24, 4), (0.32, 3), (0.40, 2), (1.0, 1)), 4 / 30, 26 / 30),
    "slow": Codebook(((0.08, 3), (0.16, 2), (1.0, 1)), 4 / 30, 26 / 30),
    "100": Codebook(((0.03, 12), (0.05, 10), (0.07, 8), (0.09, 6), (0.11, 4), (1.0, 3)), 0.1, 0.9),
}


@dataclass(frozen=True)
class AdaCacheConfig:
    """Settings of `--mode adacache`; each field is the CLI flag of the same name."""

    adacache_codebook: str = setting(
        "fast",
        "metric to rate: the authors' tables for 30 steps, fast or slow, or for 100 steps",
        choices=tuple(CODEBOOKS),
    )
    adacache_block: int | None = setting(
        None, "DiT block that is measured", shown="13 of 28, scaled to the model's depth"
    )
    adacache_moreg: bool = setting(False, "motion regularisation: compute more where the video moves")

    def __post_init__(self) -> None:
        check_settings(self)
        if self.adacache_block is not None and self.adacache_block < 0:
            raise ValueError(f"--adacache-block must not be negative, not {self.adacache_block}")


def motion(residual_BND: torch.Tensor, grid: Grid) -> torch.Tensor:
    """MoReg's motion of a residual along latent frames: |r[1:] - r[:-1]|_1 / (|r[1:]|_1 + |r[:-1]|_1), scaled and
    raised to its power. A scalar tensor; needs two latent frames."""
    batch, _, dim = residual_BND.shape
    frames_BFSD = residual_BND.reshape(batch, grid.frames, grid.height * grid.width, dim)
    after, before = frames_BFSD[:, 1:], frames_BFSD[:, :-1]
    score = (after - before).abs().sum() / (after.abs().sum() + before.abs().sum()).clamp_min(1e-12)
    return (MOTION_SCALE * score).pow(MOTION_POWER)


class AdaRate(Lead):
    """The rate of one video. The authors batch both CFG branches and so have one; here the branch that runs first
    measures its metric block, whose residual it keeps, and the other follows. One host synchronisation per computed
    step."""

    def __init__(self, config: AdaCacheConfig) -> None:
        super().__init__()
        self.rates: list[int] = []
        self._config = config
        self._book = CODEBOOKS[config.adacache_codebook]
        self._step: Step | None = None
        self._grid: Grid | None = None
        self._metric: float | None = None
        self._rate = 1
        self._computed_index = 0
        self._next_index = 0
        self._pending: torch.Tensor | None = None
        self._motion: torch.Tensor | float = 1.0
        self._residual_BND: torch.Tensor | None = None
        self._nbytes = 0

    def next(self, step: Step, hidden: Hidden) -> Decision:
        self._step, self._grid = step, hidden.grid
        if self._pending is not None:
            self._metric = self._pending.item()
            self.host_syncs += 1
            self._rate = self._book.rate(self._metric)
            self.rates.append(self._rate)
            self._next_index = self._computed_index + self._rate
            self._pending = None
        if step.is_first:
            return Decision(Compute.FULL, "first step")
        if step.index >= step.count - 2:
            return Decision(Compute.FULL, "last two steps", self._metric)
        if step.index < self._next_index:
            return Decision(Compute.REUSE, f"rate {self._rate}", self._metric)
        return Decision(Compute.FULL, f"rate {self._rate} has passed", self._metric)

    def run_block(self, branch: Branch, ops: BlockOps, x_BND: torch.Tensor, decision: Decision) -> torch.Tensor:
        if not self.leads(branch) or not self._is_metric_block(ops):
            return ops.full(x_BND)
        y_BND = ops.add_self_attn(x_BND, ops.self_attn(x_BND).out_BND)
        self._measure(ops.all_rows(y_BND - x_BND))
        y_BND = ops.add_cross_attn(y_BND, ops.cross_attn(y_BND))
        return ops.add_mlp(y_BND, ops.mlp(y_BND))

    def release(self) -> None:
        self._residual_BND = self._pending = None
        self._motion = 1.0

    def cache_bytes(self, branch: Branch) -> int:
        return self._nbytes if self.leads(branch) else 0

    def notes(self, branch: Branch) -> dict[str, Any]:
        notes = super().notes(branch)
        return {**notes, "rates": list(self.rates)} if self.leads(branch) else notes

    def _measure(self, residual_BND: torch.Tensor) -> None:
        """Keep the metric on the device; it is read when the next step decides."""
        assert self._step is not None
        index, old_BND = self._step.index, self._residual_BND
        if old_BND is not None:
            gap = index - self._computed_index
            change = (residual_BND - old_BND).abs().sum() / old_BND.abs().sum().clamp_min(1e-12)
            self._pending = change / gap * self._moreg(residual_BND, gap)
        self._residual_BND = residual_BND
        self._nbytes = residual_BND.nbytes
        self._computed_index = index

    def _moreg(self, residual_BND: torch.Tensor, gap: int) -> torch.Tensor | float:
        import torch

        assert self._step is not None and self._grid is not None
        if not self._config.adacache_moreg or self._grid.frames < 2:
            return 1.0
        book, step = self._book, self._step
        inside = book.moreg_from * step.count <= step.index < book.moreg_to * step.count
        before = self._motion
        self._motion = motion(residual_BND, self._grid) if inside else residual_BND.new_ones((), dtype=torch.float32)
        return self._motion + (MOTION_GRADIENT * (self._motion - before) / gap).abs()

    def _is_metric_block(self, ops: BlockOps) -> bool:
        layer = self._config.adacache_block
        if layer is not None and layer >= ops.num_layers and ops.stack == "dit":
            raise ValueError(f"--adacache-block {layer}: the model has DiT blocks 0 to {ops.num_layers - 1}")
        if layer is None:
            layer = int(ops.num_layers * METRIC_BLOCK)
        return ops.stack == "dit" and ops.layer == layer


def lead(schedule: Schedule, config: AdaCacheConfig, context: RunContext) -> AdaRate:
    return AdaRate(config)


MODE = Mode("adacache", "reuse of steps by a block's residual change", "arXiv 2411.02397", AdaCacheConfig, lead=lead)
