"""Deciders: what says, before the run or during it, how much each step of a video computes.

`Planned` holds a list that was made before the first step, a branch's own. A `Lead` looks at the run itself; there is
one per video, shared by both branches, because guidance multiplies their difference: a fresh branch beside a stale
one would be amplified. The branch that runs first measures and decides, the other follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hetcache.core.vocabulary import BlockOps, Branch, Decision, Hidden, Step

if TYPE_CHECKING:
    import torch


class Decider:
    """Asked once per step and branch. A manager that decides by itself is given this one and never asks it.

    `decisions` is every step's decision where it is known before the run, else empty. A decider that measures is
    shown the blocks (`run_block`) and the outputs (`observe`) of the steps that are computed.
    """

    decisions: Sequence[Decision] = ()

    def decide(self, branch: Branch, step: Step, hidden: Hidden) -> Decision:
        raise NotImplementedError(f"{type(self).__name__} decides nothing")

    def run_block(self, branch: Branch, ops: BlockOps, x_BND: torch.Tensor, decision: Decision) -> torch.Tensor:
        return ops.full(x_BND)

    def observe(self, branch: Branch, hidden: Hidden, velocity: torch.Tensor) -> None:
        """Called after every step that was not reused, with the model's input and output."""

    def release(self) -> None:
        """Drop the tensors; `cache_bytes` and `notes` stay readable."""

    def cache_bytes(self, branch: Branch) -> int:
        """Peak bytes of what deciding kept, counted in the branch that leads."""
        return 0

    def notes(self, branch: Branch) -> dict[str, Any]:
        return {}


class Planned(Decider):
    """The plan of one branch: what `--plan` shows is what runs."""

    def __init__(self, decisions: Sequence[Decision]) -> None:
        self.decisions = decisions

    def decide(self, branch: Branch, step: Step, hidden: Hidden) -> Decision:
        return self.decisions[step.index]


class Lead(Decider):
    """A content-aware decider. `next` is the rule, asked once per step for both branches; `host_syncs` counts the
    values that it brought to the host."""

    def __init__(self) -> None:
        self.host_syncs = 0
        self._leader: Branch | None = None
        self._decided: tuple[int, Decision] | None = None

    def next(self, step: Step, hidden: Hidden) -> Decision:
        """The step's decision, from the leading branch's inputs."""
        raise NotImplementedError

    def leads(self, branch: Branch) -> bool:
        """The first branch that asks is the leader for the whole video."""
        if self._leader is None:
            self._leader = branch
        return self._leader is branch

    def decide(self, branch: Branch, step: Step, hidden: Hidden) -> Decision:
        if self.leads(branch):
            self._decided = step.index, self.next(step, hidden)
        assert self._decided is not None and self._decided[0] == step.index, "the leading branch runs every step"
        return self._decided[1]

    def notes(self, branch: Branch) -> dict[str, Any]:
        return {"host_syncs": self.host_syncs} if self.leads(branch) else {"decides": "follows the other branch"}
