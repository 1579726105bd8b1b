"""SeaCache: TeaCache's rule on the spectrum that can be known at each noise level; reuse iff acc < delta.

acc += mean|m_t - m_t-1| / mean|m_t-1|, m the first block's modulated input behind a Wiener gain: along each axis of
the video G(f) = a S / (a^2 S + b^2), S = |f|^-beta, a = 1 - sigma, b = sigma; the product over the axes, divided by its
mean. Early, when the noise hides all but the lowest frequencies, only their change counts. Nothing is calibrated, and
the decisions depend on the content: the branch that runs first decides for both, at one host synchronisation a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hetcache.core.drift import relative_l1
from hetcache.core.lead import Lead
from hetcache.core.mode import Mode, RunContext
from hetcache.core.settings import check_settings, setting
from hetcache.core.vocabulary import Branch, Compute, Decision, Grid, Hidden, Schedule, Step

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class SeaCacheConfig:
    """Settings of `--mode seacache`; each field is the CLI flag of the same name."""

    seacache_thresh: float = setting(
        0.3, "delta: reuse iff the change accumulated since the last computed step is below it; higher skips more"
    )
    seacache_beta: float = setting(3.0, "beta: how steeply a video's spectrum falls with the frequency")

    def __post_init__(self) -> None:
        check_settings(self)
        for name in ("seacache_thresh", "seacache_beta"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name.replace('_', '-')} must not be negative, not {getattr(self, name)}")


def axis_gain(size: int, sigma: float, beta: float) -> list[float]:
    """G / a of one axis, in `torch.fft`'s order of frequencies; the lowest of the axis stands for the mean (f = 0). The
    factor a falls out when the product is divided by its mean, and would be 0 at the first step."""
    frequencies = [min(i, size - i) / size or 1 / size for i in range(size)]
    spectrum = [frequency**-beta for frequency in frequencies]
    return [s / ((1 - sigma) ** 2 * s + sigma**2) for s in spectrum]


def wiener_gain(grid: Grid, sigma: float, beta: float, like: torch.Tensor) -> torch.Tensor:
    """[F, H, W], float32 on the device of `like`, of mean 1."""
    import torch

    sizes = (grid.frames, grid.height, grid.width)
    gains = [torch.tensor(axis_gain(size, sigma, beta), dtype=torch.float64) for size in sizes]
    product = gains[0][:, None, None] * gains[1][:, None] * gains[2]
    return (product / product.mean()).float().to(like.device, non_blocking=True)


def modulated(hidden: Hidden) -> torch.Tensor:
    """[N, D] float32 of the first sample: the normalised tokens, scaled and shifted by time's modulation."""
    import torch

    x_ND, shift_D, scale_D = hidden.x_BND[0].float(), hidden.t_mod_B6D[0, 0].float(), hidden.t_mod_B6D[0, 1].float()
    return torch.nn.functional.layer_norm(x_ND, x_ND.shape[-1:]) * (1 + scale_D) + shift_D


class SeaRule(Lead):
    """The rule's state for one video."""

    def __init__(self, config: SeaCacheConfig) -> None:
        super().__init__()
        self._config = config
        self._accumulated = 0.0
        self._previous: torch.Tensor | None = None
        self._nbytes = 0

    def next(self, step: Step, hidden: Hidden) -> Decision:
        limit, change = self._config.seacache_thresh, self._move(step, hidden)
        if change is None or step.is_last:
            self._accumulated = 0.0
            return Decision(Compute.FULL, "first step" if step.is_first else "last step")
        self._accumulated += float(change)
        self.host_syncs += 1
        if self._accumulated < limit:
            return Decision(Compute.REUSE, "acc < delta", self._accumulated, limit)
        decision = Decision(Compute.FULL, "acc >= delta", self._accumulated, limit)
        self._accumulated = 0.0
        return decision

    def release(self) -> None:
        self._previous = None

    def cache_bytes(self, branch: Branch) -> int:
        return self._nbytes if self.leads(branch) else 0

    def _move(self, step: Step, hidden: Hidden) -> torch.Tensor | None:
        """The filtered input's relative change since the step before, None at the first."""
        import torch

        grid = hidden.grid
        m_FHWD = modulated(hidden).reshape(grid.frames, grid.height, grid.width, -1)
        gain_FHW = wiener_gain(grid, step.timestep / 1000, self._config.seacache_beta, m_FHWD)
        axes = (0, 1, 2)
        filtered = torch.fft.ifftn(torch.fft.fftn(m_FHWD, dim=axes) * gain_FHW[..., None], dim=axes).real
        previous, self._previous = self._previous, filtered.contiguous()
        self._nbytes = self._previous.nbytes
        return None if previous is None else relative_l1(self._previous, previous)


def lead(schedule: Schedule, config: SeaCacheConfig, context: RunContext) -> SeaRule:
    return SeaRule(config)


MODE = Mode("seacache", "reuse of steps by the filtered input's change", "SeaCache", SeaCacheConfig, lead=lead)
