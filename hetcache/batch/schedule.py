"""The loop of a batch: gives tasks to free workers, retries those whose worker was lost. Pure but for its pool."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hetcache.batch.pool import Ended, Lost, Pool, Stepped
from hetcache.batch.task import Task
from hetcache.files import UserError

WAITING, RUNNING, DONE, SKIPPED, FAILED = "not run", "running", "done", "already done", "failed"

LOST_IN_A_ROW = 4
"""Jobs, each with all its tries, that may lose their workers one after another."""


@dataclass
class Progress:
    """How far a task is. `tries` counts workers that began it, `seconds` the time of the last."""

    task: Task
    state: str = WAITING
    error: str | None = None
    tries: int = 0
    seconds: float = 0.0
    step: tuple[int, int] = (0, 0)
    avoid: int | None = None
    began: float = field(default=0.0, repr=False)

    def to_json(self) -> dict[str, Any]:
        return {
            "job": self.task.index,
            "output": self.task.output,
            "video": self.task.video,
            "mask": self.task.mask,
            "state": WAITING if self.state == RUNNING else self.state,
            "error": self.error,
            "tries": self.tries,
            "seconds": round(self.seconds, 2),
        }


class Schedule:
    """`jobs` are all tasks with their progress, in the manifest's order; `on_change` is called after every event."""

    def __init__(self, tasks: Sequence[Task], retries: int, on_change: Callable[[], None] = lambda: None) -> None:
        self.jobs = [Progress(task) for task in tasks]
        self._retries = retries
        self._on_change = on_change
        self._lost_in_a_row = 0
        self._at: dict[int, Progress] = {}

    def skip_finished(self, is_finished: Callable[[Task], bool]) -> None:
        """Settle what needs no worker: finished jobs, and those whose line says nothing that can be run."""
        for job in self.jobs:
            if job.task.error is not None:
                job.state, job.error = FAILED, job.task.error
            elif is_finished(job.task):
                job.state = SKIPPED

    def run(self, pool: Pool) -> None:
        """Until every job is done or has failed. Raises UserError where no worker lives long enough for a job."""
        waiting = deque(job for job in self.jobs if job.state == WAITING)
        while waiting or self._at:
            for slot in pool.slots:
                if slot not in self._at and (job := self._next(waiting, slot, len(pool.slots))) is not None:
                    self._begin(pool, slot, job)
            self._on_change()
            for event in pool.wait():
                job = self._at[event.slot]
                if isinstance(event, Stepped):
                    job.step = event.done, event.count
                    continue
                del self._at[event.slot]
                self._lost_in_a_row = self._lost_in_a_row + 1 if isinstance(event, Lost) else 0
                job.seconds = time.monotonic() - job.began
                if isinstance(event, Ended) and event.outcome.error is None:
                    job.state, job.error = DONE, None
                elif isinstance(event, Ended) and event.outcome.is_final:
                    job.state, job.error = FAILED, event.outcome.error
                else:
                    pool.drop(event.slot)
                    reason = event.reason if isinstance(event, Lost) else event.outcome.error
                    self._again(job, event.slot, reason, waiting)
                    if self._lost_in_a_row >= LOST_IN_A_ROW * (1 + self._retries):
                        raise UserError(f"{self._lost_in_a_row} workers in a row were lost: {reason}")
        self._on_change()

    def _next(self, waiting: deque[Progress], slot: int, num_slots: int) -> Progress | None:
        """The first job that was not lost on this very slot."""
        for job in waiting:
            if job.avoid != slot or num_slots == 1:
                waiting.remove(job)
                return job
        return None

    def _begin(self, pool: Pool, slot: int, job: Progress) -> None:
        job.state, job.step, job.began = RUNNING, (0, 0), time.monotonic()
        job.tries += 1
        self._at[slot] = job
        pool.submit(slot, job.task)

    def _again(self, job: Progress, slot: int, reason: str | None, waiting: deque[Progress]) -> None:
        if job.tries > self._retries:
            job.state, job.error = FAILED, f"{reason} (given up after {job.tries} tries)"
            return
        job.state, job.error, job.avoid = WAITING, reason, slot
        waiting.appendleft(job)
