"""The session's cursor: a loop that takes an iterator and one that a scheduler drives end in the same record."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from hetcache.core.flops import WorkMeter
from hetcache.core.mode import ManagerFactory
from hetcache.core.session import CacheSession
from hetcache.core.trace import StepRecord
from hetcache.core.vocabulary import Branch, CacheManager, Compute, Decision, Schedule, Step

TIMESTEPS = (900.0, 500.0, 100.0)


class Keeping(CacheManager):
    """Full at the first and the last step of its schedule, reused between; keeps `size` bytes until it is released."""

    def __init__(self, schedule: Schedule, size: int = 0) -> None:
        self.schedule, self.size, self.held = schedule, size, size

    def decide(self, step: Step, hidden: object) -> Decision:
        return Decision(Compute.FULL if step.is_first or step.is_last else Compute.REUSE, "toy")

    def release(self) -> None:
        self.held = 0

    @property
    def cache_bytes(self) -> int:
        return self.size


def denoise(session: CacheSession) -> None:
    """What a denoiser call leaves in the session."""
    step = session.step
    assert step is not None
    decision = session.manager(Branch.COND).decide(step, None)
    record = StepRecord(session.position, step.timestep, Branch.COND, decision.compute, "toy", None, None, 1, 10, 1, 0)
    session.trace.append(record, WorkMeter(10))


def by_iterator(session: CacheSession) -> None:
    session.measure_schedule = lambda timesteps: Schedule(tuple(timesteps.tolist()))
    for _ in session.steps(torch.tensor(TIMESTEPS)):
        denoise(session)


def by_scheduler(session: CacheSession) -> None:
    session.begin(Schedule(TIMESTEPS))
    session.advance()
    while session.step is not None:
        denoise(session)
        session.advance()


@pytest.mark.parametrize("loop", [by_iterator, by_scheduler])
def test_both_loops_see_the_same_steps(loop: Callable[[CacheSession], None]) -> None:
    seen = []
    session = CacheSession(
        lambda branch, schedule: Keeping(schedule), lambda step, records: seen.append((step, len(records)))
    )
    loop(session)
    assert seen == [(Step(index, 3, timestep), 1) for index, timestep in enumerate(TIMESTEPS)]
    assert session.trace.decisions(Branch.COND) == "FRF"
    assert session.step is None
    assert session.stage_ms["denoise"] >= 0
    assert session.schedule == Schedule(TIMESTEPS)
    with pytest.raises(RuntimeError, match="already run"):
        session.begin(Schedule(TIMESTEPS))


def test_a_second_model_has_managers_of_its_own_that_start_afresh() -> None:
    made: list[Keeping] = []

    def make_stage() -> ManagerFactory:
        def make(branch: Branch, schedule: Schedule) -> CacheManager:
            made.append(Keeping(schedule, 100 + len(made)))
            return made[-1]

        return make

    session = CacheSession(make_stage(), make_stage=make_stage)
    early, late = Schedule((900.0, 800.0, 700.0)), Schedule((600.0, 500.0, 400.0, 300.0))
    session.begin(early, late)
    while session.advance():
        denoise(session)
        if session.position == 3:
            assert made[0].held == 0 and made[1].held == 101
    assert session.trace.decisions(Branch.COND) == "FRF" + "FRRF"
    assert [record.step_index for record in session.trace.records] == list(range(7))
    assert [manager.schedule for manager in made] == [early, late]
    assert session.cache_bytes == 101


def test_stages_without_a_factory_each_are_refused() -> None:
    session = CacheSession(lambda branch, schedule: Keeping(schedule))
    with pytest.raises(ValueError, match="make_stage"):
        session.begin(Schedule((900.0,)), Schedule((100.0,)))


def test_steps_outside_an_adapter_say_where_they_belong() -> None:
    session = CacheSession(lambda branch, schedule: Keeping(schedule))
    with pytest.raises(RuntimeError, match="inside enable_cache"):
        next(session.steps(torch.tensor(TIMESTEPS)))
