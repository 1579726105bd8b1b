"""The loop of a batch with a pool that is told what happens."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hetcache.batch.pool import Ended, Event, Lost, Stepped
from hetcache.batch.schedule import DONE, FAILED, RUNNING, SKIPPED, WAITING, Schedule
from hetcache.batch.task import Task
from hetcache.files import UserError
from hetcache.run.attempt import Outcome


def tasks(*names: str) -> list[Task]:
    return [Task(i, f"{name}.mp4", (), "v.mp4", None, f"out/{name}.mp4") for i, name in enumerate(names, 1)]


class FakePool:
    """Ends one job a wait, as `verdict(slot, task, tries)` says."""

    def __init__(self, num_slots: int, verdict: Callable[[int, Task, int], Event | BaseException]) -> None:
        self.slots = range(num_slots)
        self.begun: list[tuple[int, str]] = []
        self.dropped: list[int] = []
        self._verdict = verdict
        self._running: dict[int, Task] = {}

    def submit(self, slot: int, task: Task) -> None:
        assert slot not in self._running, "two jobs on one worker"
        self._running[slot] = task
        self.begun.append((slot, task.name))

    def wait(self) -> list[Event]:
        slot = min(self._running)
        task = self._running[slot]
        event = self._verdict(slot, task, sum(name == task.name for _, name in self.begun))
        if isinstance(event, BaseException):
            raise event
        if not isinstance(event, Stepped):
            del self._running[slot]
        return [event]

    def drop(self, slot: int) -> None:
        self.dropped.append(slot)

    def close(self) -> None:
        pass


def good(slot: int, task: Task, tries: int) -> Event:
    return Ended(slot, Outcome())


def test_every_job_runs_once_in_order() -> None:
    pool, schedule = FakePool(2, good), Schedule(tasks(*"abcde"), 2)
    schedule.run(pool)
    assert [name for _, name in pool.begun] == [f"{name}.mp4" for name in "abcde"]
    assert [job.state for job in schedule.jobs] == [DONE] * 5 and pool.dropped == []


def test_a_lost_worker_is_replaced_and_its_job_retried_elsewhere() -> None:
    def verdict(slot: int, task: Task, tries: int) -> Event:
        return Lost(slot, "SIGKILL") if task.name == "b.mp4" and tries == 1 else Ended(slot, Outcome())

    pool, schedule = FakePool(2, verdict), Schedule(tasks(*"abc"), 2)
    schedule.run(pool)
    slots = [slot for slot, name in pool.begun if name == "b.mp4"]
    assert len(slots) == 2 and slots[0] != slots[1] and pool.dropped == [slots[0]]
    assert [(job.state, job.tries, job.error) for job in schedule.jobs][1] == (DONE, 2, None)


@pytest.mark.parametrize("retries", [0, 2])
def test_a_job_that_kills_every_worker_is_given_up(retries: int) -> None:
    def verdict(slot: int, task: Task, tries: int) -> Event:
        return Lost(slot, "SIGSEGV") if task.name == "b.mp4" else Ended(slot, Outcome())

    pool, schedule = FakePool(2, verdict), Schedule(tasks(*"abc"), retries)
    schedule.run(pool)
    assert [job.state for job in schedule.jobs] == [DONE, FAILED, DONE]
    assert schedule.jobs[1].error == f"SIGSEGV (given up after {retries + 1} tries)"
    assert len(pool.dropped) == retries + 1


def test_a_batch_whose_workers_all_die_ends() -> None:
    pool, schedule = FakePool(2, lambda slot, task, tries: Lost(slot, "no module")), Schedule(tasks(*"abcdefgh"), 1)
    with pytest.raises(UserError, match="8 workers in a row were lost: no module"):
        schedule.run(pool)
    assert [job.state for job in schedule.jobs].count(WAITING) >= 3


def test_a_bad_file_is_final_and_a_broken_device_is_not() -> None:
    def verdict(slot: int, task: Task, tries: int) -> Event:
        if task.name == "bad.mp4":
            return Ended(slot, Outcome("no such file"))
        if task.name == "device.mp4" and tries == 1:
            return Ended(slot, Outcome("RuntimeError: CUDA error", is_final=False))
        return Ended(slot, Outcome())

    pool, schedule = FakePool(1, verdict), Schedule(tasks("bad", "device"), 1)
    schedule.run(pool)
    assert [(job.state, job.error, job.tries) for job in schedule.jobs] == [
        (FAILED, "no such file", 1),
        (DONE, None, 2),
    ]
    assert pool.dropped == [0]


def test_finished_and_unreadable_jobs_need_no_worker() -> None:
    listed = [*tasks("a", "b"), Task(3, "c.mp4", (), None, None, "out/c.mp4", error="--steps x: not a number")]
    pool, schedule = FakePool(1, good), Schedule(listed, 2)
    schedule.skip_finished(lambda task: task.name == "a.mp4")
    schedule.run(pool)
    assert pool.begun == [(0, "b.mp4")]
    assert [job.state for job in schedule.jobs] == [SKIPPED, DONE, FAILED]


def test_ctrl_c_passes_and_what_ran_is_told_as_not_run() -> None:
    def verdict(slot: int, task: Task, tries: int) -> Event | BaseException:
        return KeyboardInterrupt() if task.name == "b.mp4" else Ended(slot, Outcome())

    pool, schedule = FakePool(1, verdict), Schedule(tasks("a", "b"), 2)
    with pytest.raises(KeyboardInterrupt):
        schedule.run(pool)
    assert schedule.jobs[1].state == RUNNING
    assert [job.to_json()["state"] for job in schedule.jobs] == [DONE, WAITING]


def test_steps_are_seen() -> None:
    seen: list[tuple[int, int]] = []
    said = iter([Stepped(0, 1, 2), Stepped(0, 2, 2), Ended(0, Outcome())])
    schedule = Schedule(tasks("a"), 0, lambda: seen.append(schedule.jobs[0].step))
    schedule.run(FakePool(1, lambda *_: next(said)))
    assert seen == [(0, 0), (1, 2), (2, 2), (2, 2)]
