"""Ranks: the processes that compute one video together, and all that they exchange.

Two ways, which multiply. *cfg*: each half of the processes computes one branch of guidance, and the velocities are
exchanged once a step. *sp* (sequence parallel, Ulysses, arXiv 2309.14509): each process computes its share of the rows
that a step computes, whichever these are, and inside self-attention all rows for its share of the heads.

What may differ between processes is decided by rank 0 and told to the others before a step's work, and what must not
differ is compared: a disagreement is an error with a message, where it would have been a hang.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from functools import cache
from typing import Any

import torch
import torch.distributed as dist

from hetcache.core.vocabulary import Branch, Decision, TokenPlan
from hetcache.files import UserError

BRANCHES = (Branch.COND, Branch.UNCOND)


class RankError(UserError):
    """The processes of a run do not work together any more."""


@dataclass(frozen=True)
class Share:
    """This rank's part of `num_rows` rows: `mine` are its positions among them, the same number on every rank; where
    the rows do not divide, the last of them is computed more than once. `rows_A` are the plan's rows, None for all."""

    ranks: Ranks
    num_rows: int
    mine: torch.Tensor
    rows_A: torch.Tensor | None

    def to_heads(self, x_BND: torch.Tensor) -> torch.Tensor:
        """My rows of all heads to all rows of my heads: [B, rows / ranks, D] to [B, rows, D / ranks]."""
        size = self.ranks.sp_size
        batch, rows, dim = x_BND.shape
        sent = x_BND.reshape(batch, rows, size, dim // size).permute(2, 0, 1, 3).contiguous()
        got = self.ranks.exchange(sent)
        return got.permute(1, 0, 2, 3).reshape(batch, size * rows, dim // size)[:, : self.num_rows]

    def to_rows(self, x_BND: torch.Tensor) -> torch.Tensor:
        """All rows of my heads to my rows of all heads: the way back."""
        size = self.ranks.sp_size
        batch, _, dim = x_BND.shape
        rows = len(self.mine)
        missing = size * rows - self.num_rows
        if missing:
            x_BND = torch.cat([x_BND, x_BND[:, -1:].expand(-1, missing, -1)], dim=1)
        got = self.ranks.exchange(x_BND.reshape(batch, size, rows, dim).transpose(0, 1).contiguous())
        return got.permute(1, 2, 0, 3).reshape(batch, rows, size * dim)

    def all_rows(self, x_BND: torch.Tensor) -> torch.Tensor:
        """Everybody's rows: [B, rows / ranks, D] to [B, rows, D]."""
        return torch.cat(self.ranks.collect(x_BND), dim=1)[:, : self.num_rows]

    def all_heads(self, x_BND: torch.Tensor) -> torch.Tensor:
        """Everybody's heads: [B, rows, D / ranks] to [B, rows, D]."""
        return torch.cat(self.ranks.collect(x_BND), dim=2)


class Ranks:
    """One process alone: nothing is exchanged. `branch` is the only one that this rank computes, None for both."""

    rank = 0
    size = 1
    sp_size = 1
    kind = "off"
    branch: Branch | None = None

    def branch_of(self, rank: int) -> Branch | None:
        """As `branch`, of another rank."""
        return None

    def share(self, num_rows: int, rows_A: torch.Tensor | None, device: torch.device) -> Share | None:
        """This rank's part of the rows of a step; None where all are its own."""
        return None

    def agree(self, position: int, decision: Decision, is_shared: bool, like: torch.Tensor) -> Decision:
        """The decision that all ranks follow. `is_shared`: both branches decide as one, so that rank 0 decides for all.
        `like` is on the device of the run."""
        return decision

    def gather(self, value: Any) -> list[Any]:
        """Every rank's `value`, which is small and pickles, in their order."""
        return [value]

    def exchange(self, sent: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def collect(self, x: torch.Tensor) -> list[torch.Tensor]:
        raise NotImplementedError

    def both(self, velocity: torch.Tensor) -> list[torch.Tensor]:
        """The velocities of both branches, the conditional one first."""
        raise NotImplementedError


ALONE = Ranks()


class Team(Ranks):
    """The processes of the default group of torch.distributed, which is joined before. With cfg the first half computes
    the conditional branch. Raises UserError for a number of processes that `kind` cannot use. All processes make their
    team at the same time; a team serves any number of runs."""

    def __init__(self, kind: str, timeout_s: float) -> None:
        self.kind = kind
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._timeout_s = timeout_s
        parts = kind.split("+")
        num_branches = len(BRANCHES) if "cfg" in parts else 1
        if self.size % num_branches or ("sp" not in parts and self.size != num_branches):
            wanted = "2 processes" if "sp" not in parts else "an even number of processes"
            raise UserError(f"--parallel {kind} takes {wanted}, and {self.size} were started (--nproc-per-node)")
        self.sp_size = self.size // num_branches
        if num_branches > 1:
            self.branch = self.branch_of(self.rank)
        first = self.rank - self.rank % self.sp_size
        self._mates = range(first, first + self.sp_size)
        span = timedelta(seconds=timeout_s)
        self._rows_group: Any = None
        self._branch_group: Any = None
        # Every process makes every group, in the same order.
        for start in range(0, self.size, self.sp_size):
            group = dist.new_group(list(range(start, start + self.sp_size)), timeout=span)
            if start == first:
                self._rows_group = group
        for start in range(self.sp_size):
            pair = dist.new_group(list(range(start, self.size, self.sp_size)), timeout=span)
            if start == self.rank % self.sp_size:
                self._branch_group = pair
        # Small things go between CPUs, so that no device waits for them.
        self._words_group: Any = dist.new_group(backend="gloo", timeout=span)

    def branch_of(self, rank: int) -> Branch | None:
        return None if self.size == self.sp_size else BRANCHES[rank // self.sp_size]

    def share(self, num_rows: int, rows_A: torch.Tensor | None, device: torch.device) -> Share | None:
        if self.sp_size == 1:
            return None
        rows = -(-num_rows // self.sp_size)
        start = (self.rank % self.sp_size) * rows
        mine = torch.arange(start, start + rows, device=device).clamp_max_(num_rows - 1)
        return Share(self, num_rows, mine, rows_A)

    def agree(self, position: int, decision: Decision, is_shared: bool, like: torch.Tensor) -> Decision:
        plan = decision.plan
        said = self.gather((position, replace(decision, plan=None), None if plan is None else sizes(plan)))
        for rank, (other, *_) in enumerate(said):
            if other != position:
                raise RankError(f"--parallel: rank {self.rank} is at step {position} and rank {rank} at step {other}")
        leader = 0 if is_shared else self._mates[0]
        led: Decision = said[leader][1]
        led_sizes: dict[str, int] | None = said[leader][2]
        if not is_shared:
            for rank in self._mates:
                if said[rank] != said[leader]:
                    told = " and ".join(f"rank {r} decides {describe(*said[r][1:])}" for r in (leader, rank))
                    raise RankError(f"--parallel: at step {position} {told}: they do not compute the same run")
            return decision
        if led_sizes is None:
            return replace(led, plan=None)
        # Tokens are chosen by features, whose last bits may differ between cards.
        if self.rank == leader:
            assert plan is not None
            rows_A = plan.rows_A.contiguous()
        else:
            rows_A = torch.empty(led_sizes["num_active"], dtype=torch.int64, device=like.device)
        with self._together("the tokens of a step"):
            dist.broadcast(rows_A, leader)
        counts = {name: count for name, count in led_sizes.items() if name != "num_active"}
        return replace(led, plan=TokenPlan(rows_A, **counts))

    def gather(self, value: Any) -> list[Any]:
        found: list[Any] = [None] * self.size
        with self._together("a step's decision"):
            dist.all_gather_object(found, value, group=self._words_group)
        return found

    def exchange(self, sent: torch.Tensor) -> torch.Tensor:
        """[ranks, ...]: part i goes to rank i of those that share rows; what comes from rank i is part i."""
        got = torch.empty_like(sent)
        with self._together("attention"):
            dist.all_to_all_single(got, sent, group=self._rows_group)
        return got

    def collect(self, x: torch.Tensor) -> list[torch.Tensor]:
        return self._all_gather(x, self.sp_size, self._rows_group, "rows")

    def both(self, velocity: torch.Tensor) -> list[torch.Tensor]:
        return self._all_gather(velocity, len(BRANCHES), self._branch_group, "the branches of guidance")

    def _all_gather(self, x: torch.Tensor, size: int, group: Any, what: str) -> list[torch.Tensor]:
        found = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(size)]
        with self._together(what):
            dist.all_gather(found, x.contiguous(), group=group)
        return found

    @contextmanager
    def _together(self, what: str) -> Iterator[None]:
        try:
            yield
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise RankError(
                f"--parallel: rank {self.rank} of {self.size} lost the others while exchanging {what}: one of them has "
                f"ended, or needed more than --parallel-timeout {self._timeout_s:g} s ({str(error).splitlines()[0]})"
            ) from error


@cache
def ranks_of(kind: str, timeout_s: float) -> Ranks:
    """The processes of a run by `--parallel`. A process joins one group in its life, and makes its team once."""
    return ALONE if kind == "off" else Team(kind, timeout_s)


def sizes(plan: TokenPlan) -> dict[str, int]:
    """A plan without its rows."""
    counts = {item.name: getattr(plan, item.name) for item in fields(plan) if item.name != "rows_A"}
    return {"num_active": plan.num_active, **counts}


def describe(decision: Decision, plan_sizes: Mapping[str, int] | None) -> str:
    tokens = "" if plan_sizes is None else f" of {plan_sizes['num_active']} tokens"
    return f"{decision.compute.name.lower()}{tokens} ({decision.reason})"


def check_heads(num_heads: int, ranks: Ranks) -> None:
    """Raises UserError where the heads cannot be divided among the ranks that share rows."""
    if num_heads % ranks.sp_size:
        fitting = [str(n) for n in range(2, num_heads + 1) if num_heads % n == 0]
        raise UserError(
            f"--parallel {ranks.kind}: {ranks.sp_size} processes share the rows of a branch, and the model's "
            f"{num_heads} heads do not divide among them: use {' or '.join(fitting)}"
        )
