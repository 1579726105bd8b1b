"""The content-aware signal of EasyCache (arXiv 2507.02860): how fast the model's output follows its input.

k = mean|v_t - v_p| / mean|x_t - x_p| between the last two computed steps (x raw latents, v raw output); the output's
relative change over a step is then estimated as k * mean|x_t - x_t-1| / mean|v|, with no calibration.
"""

from __future__ import annotations

import torch

from hetcache.core.vocabulary import Branch, Decision


class VelocityRate:
    """The signal's state for one video. `change` needs one host synchronisation, counted in `host_syncs`."""

    def __init__(self) -> None:
        self.host_syncs = 0
        self.nbytes = 0
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
        return change.item()

    def observe(self, latents: torch.Tensor, output: torch.Tensor) -> None:
        """What a computed step gave: refreshes the rate, without a synchronisation."""
        if self._computed is not None:
            old_latents, old_output = self._computed
            moved = (latents - old_latents).abs().mean().clamp_min(1e-12)
            self._rate = (output - old_output).abs().mean() / moved
        self._computed = (latents, output)
        self.nbytes = 3 * latents.nbytes

    def release(self) -> None:
        self._previous = self._computed = self._rate = None


class SharedDecision:
    """One decision per step for both CFG branches: the branch that runs first leads, the other follows."""

    def __init__(self) -> None:
        self.leader: Branch | None = None
        self._decision: tuple[int, Decision] | None = None

    def leads(self, branch: Branch) -> bool:
        """The first branch that asks is the leader for the whole video."""
        if self.leader is None:
            self.leader = branch
        return self.leader is branch

    def set(self, step_index: int, decision: Decision) -> Decision:
        self._decision = (step_index, decision)
        return decision

    def get(self, step_index: int) -> Decision:
        assert self._decision is not None and self._decision[0] == step_index, "the leading branch runs every step"
        return self._decision[1]
