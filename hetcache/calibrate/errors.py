"""What each kind of step errs by, along an uncached run: the velocity of a reused or partial step against the true one.

A run is computed in full and its trajectory is left alone. Beside it, at every step, the head is asked what forecasts
from earlier steps would have given, and managers of HetCache (`Shadow`), which compute the same steps in part, what a
partial step would have. Errors are root mean squares over the generative tokens of the guided velocity.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

import torch

from hetcache.core.flops import WorkMeter
from hetcache.core.lead import Decider, Planned
from hetcache.core.time_curve import TimeAxis, forecast_weights
from hetcache.core.tokens import TokenClasses
from hetcache.core.vocabulary import BlockOps, Branch, CacheManager, Compute, Decision, Hidden, Schedule, Step, Walk
from hetcache.core.walk import StackWalk

REACH = 12
"""Most reused steps in a row, and most steps between two anchors."""
BACKS = (1, 2, 3, 4, 6, 8, 12)
"""Steps between the two anchors of a forecast that are measured; the others lie between."""
REFRESH = 8
"""Steps between two full steps of a shadow: so old its context grows."""


def latent_mask(classes: TokenClasses, velocity: torch.Tensor) -> torch.Tensor:
    """Bool [1, 1, F, H, W]: the latent positions of generative tokens."""
    grid = classes.grid
    tokens_N = torch.zeros(grid.num_tokens, dtype=torch.bool, device=velocity.device)
    tokens_N[classes.generative_G] = True
    height, width = velocity.shape[-2] // grid.height, velocity.shape[-1] // grid.width
    mask = tokens_N.view(grid.frames, grid.height, grid.width)
    return mask.repeat_interleave(height, 1).repeat_interleave(width, 2)[None, None]


def rms(values: torch.Tensor) -> float:
    return float(values.square().mean().sqrt())


def widths(timesteps: Sequence[float]) -> list[float]:
    """Of every step, in sigma: a flow's timesteps are 1000 sigma, and the last step ends at 0."""
    return [(a - b) / 1000 for a, b in zip(timesteps, [*timesteps[1:], 0.0], strict=True)]


@dataclass(frozen=True)
class Shadow:
    """Managers of HetCache that see the same steps and compute all but every `REFRESH`th in part, with the share
    `context_ratio` of the context; `phase` is the first full step behind the run's first. `make` is their factory for a
    list of decisions."""

    make: Callable[[Decider, Branch], CacheManager]
    context_ratio: float
    phase: int

    def age(self, index: int) -> int:
        """Steps since the last full one."""
        return index if index < self.phase else (index - self.phase) % REFRESH

    def manager(self, branch: Branch, num_steps: int) -> CacheManager:
        partial = Decision(Compute.PARTIAL, "calibration", context_ratio=self.context_ratio)
        full = Decision(Compute.FULL, "calibration")
        return self.make(Planned([partial if self.age(t) else full for t in range(num_steps)]), branch)


class ErrorTally:
    """Collects one run's errors: what a kind of step gave, in both branches, against the truth."""

    def __init__(self, classes: TokenClasses, cfg_scale: float) -> None:
        self._classes = classes
        self._cfg_scale = cfg_scale
        self._sums: dict[Hashable, torch.Tensor] = {}
        self._waiting: dict[Hashable, torch.Tensor] = {}
        self._truth: torch.Tensor | None = None
        self.errors: dict[Hashable, float] = {}
        self.magnitude: dict[int, float] = {}

    def truth(self, branch: Branch, step: Step, velocity: torch.Tensor) -> None:
        whole = self._guided(branch, ("truth", step.index), self._inside(velocity))
        if whole is not None:
            self._truth = whole
            self.magnitude[step.index] = rms(whole)

    def given(self, branch: Branch, key: Hashable, velocity: torch.Tensor) -> None:
        """A velocity of this step; `truth` of the branch comes before."""
        whole = self._guided(branch, key, self._inside(velocity))
        if whole is not None:
            assert self._truth is not None
            self.errors[key] = rms(whole - self._truth)

    def reused(self, branch: Branch, anchor: int, back: int, ahead: int, width: float, velocity: torch.Tensor) -> None:
        """A forecast velocity of this step, `ahead` steps behind its anchor; `back` 0 is order 0. Steps come in turn:
        their errors add up as vectors, each times the `width` of its step in sigma."""
        whole = self._guided(branch, (anchor, back, ahead), self._inside(velocity))
        if whole is None:
            return
        assert self._truth is not None
        error = (whole - self._truth) * width
        self._sums[anchor, back] = self._sums[anchor, back] + error if ahead > 1 else error
        self.errors[anchor, back, ahead] = rms(self._sums[anchor, back])
        if ahead == REACH:
            del self._sums[anchor, back]

    def _inside(self, velocity: torch.Tensor) -> torch.Tensor:
        return velocity[latent_mask(self._classes, velocity).expand_as(velocity)].float()

    def _guided(self, branch: Branch, key: Hashable, inside: torch.Tensor) -> torch.Tensor | None:
        """Both branches' values under guidance, once both are there."""
        if self._cfg_scale == 1:
            return inside
        other = self._waiting.pop(key, None)
        if other is None:
            self._waiting[key] = inside
            return None
        cond, uncond = (other, inside) if branch is Branch.UNCOND else (inside, other)
        return uncond + self._cfg_scale * (cond - uncond)


class ErrorManager(CacheManager):
    """One branch of the uncached run, with its shadows beside it."""

    def __init__(
        self, branch: Branch, schedule: Schedule, tally: ErrorTally, shadows: Sequence[Shadow], axis: TimeAxis
    ) -> None:
        self._branch = branch
        self._timesteps = schedule.timesteps
        self._axis = axis
        self._tally = tally
        self._widths = widths(schedule.timesteps)
        self._shadows = [shadow.manager(branch, schedule.num_steps) for shadow in shadows]
        self._walk: StackWalk | None = None
        self._anchors: deque[torch.Tensor] = deque(maxlen=2 * REACH)

    def decide(self, step: Step, hidden: Hidden) -> Decision:
        return Decision(Compute.FULL, "calibration")

    def run_block(self, ops: BlockOps, x_BND: torch.Tensor, decision: Decision) -> torch.Tensor:
        return ops.full(x_BND)

    def run_stack(self, walk: Walk, step: Step, hidden: Hidden, decision: Decision) -> torch.Tensor:
        assert isinstance(walk, StackWalk)
        self._walk = walk
        return walk.finish()

    def commit(
        self, step: Step, decision: Decision, hidden: Hidden, x_out_BND: torch.Tensor, velocity: torch.Tensor
    ) -> None:
        assert self._walk is not None
        head = self._walk.denoiser.head
        self._tally.truth(self._branch, step, velocity)
        self._forecast(step, hidden, head)
        for number, manager in enumerate(self._shadows):
            self._follow(number, manager, step, hidden, head)
        self._anchors.appendleft(x_out_BND - hidden.x_BND)

    def _forecast(self, step: Step, hidden: Hidden, head: Callable[..., torch.Tensor]) -> None:
        """What the residuals of earlier steps would have given, at orders 0 and 1."""
        anchors, width = list(self._anchors), self._widths[step.index]
        for ahead, last_BND in enumerate(anchors[:REACH], 1):
            j = step.index - ahead
            self._tally.reused(self._branch, j, 0, ahead, width, head(hidden, hidden.x_BND + last_BND))
            for back in BACKS:
                if back <= j:
                    known = self._timesteps[j], self._timesteps[j - back]
                    (weight,) = forecast_weights(self._axis, known, step.timestep)
                    change_BND = last_BND - anchors[ahead - 1 + back]
                    velocity = head(hidden, hidden.x_BND + last_BND + weight * change_BND)
                    self._tally.reused(self._branch, j, back, ahead, width, velocity)

    def _follow(
        self,
        number: int,
        manager: CacheManager,
        step: Step,
        hidden: Hidden,
        head: Callable[..., torch.Tensor],
    ) -> None:
        """Compute this step as the shadow does."""
        assert self._walk is not None
        decision = manager.decide(step, hidden)
        inputs = replace(self._walk.inputs, meter=WorkMeter())
        if decision.plan is not None:
            inputs = inputs.at(decision.plan.rows_A)
        walk = replace(self._walk, manager=manager, decision=decision, inputs=inputs, layer=0)
        x_BND = manager.merge(step, hidden, manager.run_stack(walk, step, hidden, decision), decision)
        velocity = head(hidden, x_BND)
        manager.commit(step, decision, hidden, x_BND, velocity)
        if decision.compute is Compute.PARTIAL:
            self._tally.given(self._branch, ("p", number, step.index), velocity)

    def release(self) -> None:
        self._anchors.clear()
        self._walk = None
        for manager in self._shadows:
            manager.release()
