"""What a Mode gives its managers: the same plan that is shown, one lead for both branches, errors before the run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from hetcache.core.calibration import Calibration, CalibrationError
from hetcache.core.lead import Lead
from hetcache.core.mode import ONE_STEP, Mode, RunContext
from hetcache.core.residual import StackResidual
from hetcache.core.tokens import classify
from hetcache.core.vocabulary import Branch, Compute, Decision, Grid, Hidden, Schedule, Step
from hetcache.modes import MODES

SCHEDULE = Schedule((900.0, 600.0, 300.0))
NO_MASK = RunContext.of(None, lambda: Calibration("toy", ""))


@dataclass(frozen=True)
class Empty:
    """A config without settings."""


def hidden(x: float = 1.0) -> Hidden:
    empty = torch.zeros(1)
    return Hidden(torch.full((1, 1, 1), x), empty, torch.zeros(1, 6, 1), empty, empty, Grid(1, 1, 1))


def test_the_plan_is_made_once_per_branch_and_is_what_the_manager_decides():
    made = {}

    def plan(schedule, config, context, branch):
        decisions = [Decision(Compute.FULL, f"{branch.value} {t:g}") for t in schedule.timesteps]
        if schedule is not ONE_STEP:
            assert branch not in made
            made[branch] = decisions
        return decisions

    make = Mode("toy", "", "", Empty, plan).build(Empty(), NO_MASK)
    for branch in Branch:
        manager = make(branch, SCHEDULE)
        assert isinstance(manager, StackResidual)
        for i, decision in enumerate(made[branch]):
            assert manager.decide(Step(i, 3, 0.0), hidden()) is decision
    assert len(made) == 2


class Alternate(Lead):
    """Every second step is computed; counts how often it is asked."""

    asked = 0

    def next(self, step, hidden):
        self.asked += 1
        return Decision(Compute.REUSE if step.index % 2 else Compute.FULL, f"{hidden.x_BND.item():g}")


def test_both_branches_of_a_video_share_one_lead_and_another_video_has_its_own():
    leads = []

    def lead(schedule, config, context):
        if schedule is ONE_STEP:
            return None
        leads.append(Alternate())
        return leads[-1]

    mode = Mode("toy", "", "", Empty, lead=lead)
    make = mode.build(Empty(), NO_MASK)
    cond, uncond = (make(branch, SCHEDULE) for branch in Branch)
    for i in range(3):
        first = cond.decide(Step(i, 3, 0.0), hidden(i))
        assert uncond.decide(Step(i, 3, 0.0), hidden(-7.0)) is first and first.reason == f"{i}"
    assert len(leads) == 1 and leads[0].asked == 3
    assert (cond.notes(), uncond.notes()) == ({"host_syncs": 0}, {"decides": "follows the other branch"})
    mode.build(Empty(), NO_MASK)(Branch.COND, SCHEDULE)
    assert len(leads) == 2


def test_a_lead_asked_by_the_unconditional_branch_alone_leads_there():
    lead = Alternate()
    manager = StackResidual(lead, Branch.UNCOND)
    assert manager.decide(Step(0, 3, 0.0), hidden()).compute is Compute.FULL
    assert lead.leads(Branch.UNCOND) and not lead.leads(Branch.COND)


def test_a_follower_whose_leader_missed_the_step_is_a_fault():
    lead = Alternate()
    lead.decide(Branch.COND, Step(0, 3, 0.0), hidden())
    with pytest.raises(AssertionError, match="runs every step"):
        lead.decide(Branch.UNCOND, Step(1, 3, 0.0), hidden())


@pytest.mark.parametrize("name", ["teacache", "magcache", "hetcache", "pab_teacache", "hetcache_teacache"])
def test_a_model_without_calibration_is_refused_before_the_run(name):
    mode = MODES[name]
    mask_THW = torch.zeros(5, 32, 32, dtype=torch.bool)
    with pytest.raises(CalibrationError, match="no calibration for model 'nobody'"):
        mode.build(mode.config(), RunContext.of(mask_THW, "nobody"))


@pytest.mark.parametrize("name", MODES)
def test_a_mode_that_needs_the_mask_says_so_and_the_others_need_no_classes(name):
    mode = MODES[name]
    context = RunContext.of(None, "tiny")
    if mode.needs_mask:
        assert mode.name.startswith("hetcache")
        with pytest.raises(ValueError, match=f"--mode {name} works by the mask"):
            mode.build(mode.config(**mode.defaults), context)
    else:
        make = mode.build(mode.config(**mode.defaults), context)
        schedule = Schedule((900.0, 600.0), {"e": (0.0, 0.1), "e0": (0.0, 0.1)})
        assert make(Branch.COND, schedule).decide(Step(0, 2, 900.0), hidden()).compute is Compute.FULL


def test_a_context_classifies_the_mask_with_the_modes_margin():
    mask_THW = torch.zeros(5, 160, 160, dtype=torch.bool)
    mask_THW[:, 64:80, 64:80] = True
    mode = MODES["hetcache"]
    for width in (0, 1, 3):
        context = RunContext.of(mask_THW, "tiny", mode.margin_width(mode.config(margin_width=width)))
        expected = classify(mask_THW, width)
        assert torch.equal(context.classes.margin_M, expected.margin_M)
        assert len(expected.margin_M) == 2 * ((2 * width + 1) ** 2 - 1)
    assert RunContext.of(context.classes, "tiny").classes is context.classes
    assert MODES["pab"].margin_width(MODES["pab"].config()) is None


def test_a_run_without_a_mask_has_no_classes_and_a_bad_mask_is_refused():
    with pytest.raises(ValueError, match="no mask"):
        _ = NO_MASK.classes
    with pytest.raises(ValueError, match="frames must be 4k"):
        RunContext.of(torch.from_numpy(np.zeros((6, 32, 32), dtype=bool)), "tiny")


def test_a_context_loads_its_calibration_on_demand():
    loads = []
    context = RunContext.of(None, lambda: loads.append(1) or Calibration("toy", ""))
    assert not loads
    assert context.calibration().model == "toy" and loads == [1]
    assert RunContext.of(None, "tiny").calibration().model == "tiny"
