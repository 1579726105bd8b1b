"""The content-aware signal of EasyCache (arXiv 2507.02860): how fast the model's output follows its input.

k = mean|v_t - v_p| / mean|x_t - x_p| between the last two computed steps (x raw latents, v raw output); the output's
relative change over a step is then estimated as k * mean|x_t - x_t-1| / mean|v|, with no calibration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hetcache.core.lead import Lead
from hetcache.core.vocabulary import Branch, Hidden

if TYPE_CHECKING:
    import torch


class VelocityLead(Lead):
    """The signal of one video; a rule on it adds `next`. Reading a change is one host synchronisation."""

    def __init__(self) -> None:
        super().__init__()
        self._nbytes = 0
        self._previous: torch.Tensor | None = None
        self._computed: tuple[torch.Tensor, torch.Tensor] | None = None
        self._rate: torch.Tensor | None = None

    def move(self, latents: torch.Tensor) -> torch.Tensor | None:
        """Call once per step with its latents: the estimated relative change of the output since the step before,
        a scalar tensor; None until two steps were computed."""
        previous, self._previous = self._previous, latents
        if previous is None or self._rate is None or self._computed is None:
            return None
        return self._rate * (latents - previous).abs().mean() / self._computed[1].abs().mean().clamp_min(1e-12)

    def read(self, change: torch.Tensor) -> float:
        self.host_syncs += 1
        return float(change)

    def observe(self, branch: Branch, hidden: Hidden, velocity: torch.Tensor) -> None:
        """What a computed step of the leading branch gave: refreshes the rate, without a synchronisation."""
        if not self.leads(branch):
            return
        latents = hidden.latents_BCFHW
        if self._computed is not None:
            old_latents, old_velocity = self._computed
            moved = (latents - old_latents).abs().mean().clamp_min(1e-12)
            self._rate = (velocity - old_velocity).abs().mean() / moved
        self._computed = (latents, velocity)
        self._nbytes = 3 * latents.nbytes

    def release(self) -> None:
        self._previous = self._computed = self._rate = None

    def cache_bytes(self, branch: Branch) -> int:
        return self._nbytes if self.leads(branch) else 0
