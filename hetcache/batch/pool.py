"""What runs tasks: workers in slots. `LocalPool` starts processes here, `RayPool` actors on a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from hetcache.batch.task import Task
from hetcache.run.attempt import Outcome


@dataclass(frozen=True)
class Stepped:
    """The worker in `slot` has done `done` of `count` steps of its edit."""

    slot: int
    done: int
    count: int


@dataclass(frozen=True)
class Ended:
    """The worker in `slot` has run its task to this outcome and is free."""

    slot: int
    outcome: Outcome


@dataclass(frozen=True)
class Lost:
    """The worker in `slot` is gone, with the task that it had."""

    slot: int
    reason: str


Event = Stepped | Ended | Lost


class Pool(Protocol):
    @property
    def slots(self) -> Sequence[int]: ...

    def submit(self, slot: int, task: Task) -> None:
        """Give a free worker its next task; starts the worker if the slot is empty."""
        ...

    def wait(self) -> list[Event]:
        """What has happened since, after a while or as soon as something has."""
        ...

    def drop(self, slot: int) -> None:
        """End the worker in `slot`; the next task there starts another."""
        ...

    def close(self) -> None:
        """End all workers. A task in progress is interrupted and leaves nothing half-written."""
        ...
