"""A plan given in words is what runs, and what cannot be run is refused before."""

from __future__ import annotations

import pytest
import torch

from hetcache.core.calibration import CalibrationError
from hetcache.core.drift import decision_string
from hetcache.core.mode import RunContext
from hetcache.core.tokens import classify
from hetcache.core.vocabulary import Branch, Schedule
from hetcache.method import paper
from hetcache.method.config import HetCacheConfig
from hetcache.method.hetcache import MODE, TOKENS
from hetcache.method.paper import PaperConfig
from hetcache.method.replay import parse_letters
from hetcache.method.selector import TokenSelector


def context():
    mask = torch.zeros(5, 48, 64, dtype=torch.bool)
    mask[:, 16:32, 16:32] = True

    def none():
        raise CalibrationError("a given plan needs no calibration")

    return RunContext.of(classify(mask, 1), none)


def schedule(steps):
    return Schedule(tuple(float(t) for t in range(steps, 0, -1)), {"e0": (0.0,) * steps})


def test_a_given_plan_is_the_plan_and_needs_no_calibration():
    config = HetCacheConfig(decisions="F,R1x2,P0.2,R0,F", forecast=1, forecast_in="sigma")
    MODE.build(config, context())
    plan = MODE.plan(schedule(6), config, context(), Branch.COND)
    assert decision_string(plan) == "FRRPRF"
    assert [d.order for d in plan] == [None, 1, 1, None, 0, None] and plan[3].context_ratio == 0.2


def test_letters_to_replay_are_those_that_hetcache_has():
    assert decision_string(parse_letters("FRPF")) == "FRPF"
    for letters in ("FBF", "RF", ""):
        with pytest.raises(ValueError, match="letters F, P and R, starting with F"):
            parse_letters(letters)


@pytest.mark.parametrize("mode", [MODE, paper.MODE])
@pytest.mark.parametrize(
    "ratio, words, wants",
    [
        (0.0, "F,P0.2,F", True),
        (1.0, "F,P,P0.2", True),
        (0.0, "F,P,F", False),
        (0.5, "F,P0,P1", False),
        (0.5, "F,P", True),
    ],
)
def test_the_sample_has_its_evidence_where_the_plan_has_shares_of_its_own(mode, ratio, words, wants):
    config = mode.config(context_ratio=ratio, decisions=words)
    selector = TokenSelector(context().classes, config.selection())
    assert selector.wants_evidence(0) is wants


def test_the_papers_mode_takes_a_given_plan_too():
    config = PaperConfig(decisions="F,R,P,F")
    assert decision_string(paper.MODE.plan(schedule(4), config, context(), Branch.COND)) == "FRPF"
    assert paper.MODE.calibrated(config) == ()


@pytest.mark.parametrize("forecast", [0, 2])
def test_a_given_plan_can_do_with_less_memory_and_stays_a_plan(forecast):
    config = HetCacheConfig(decisions="F,R,P,F", context_kv="cached", forecast=forecast)
    lighter = [each for _, each in MODE.lighter(config)]
    assert [(each.context_kv, each.decisions) for each in lighter] == [("sampled", "F,R,P,F")]


def test_a_plan_of_another_length_or_beside_another_rule_is_refused():
    with pytest.raises(ValueError, match="6 steps and the run 5: give --steps 6"):
        MODE.plan(schedule(5), HetCacheConfig(decisions="F,Rx5"), context(), Branch.COND)
    with pytest.raises(ValueError, match="use --mode hetcache"):
        TOKENS.plan(schedule(6), HetCacheConfig(decisions="F,Px5"), context(), Branch.COND)
    for settings, flag in (({"signal": "output"}, "--signal output"), ({"whole_steps_only": True}, "--whole-steps")):
        with pytest.raises(ValueError, match=f"leave {flag}"):
            HetCacheConfig(decisions="F,R", **settings)
    with pytest.raises(ValueError, match="order 2: give --forecast 2 with it"):
        HetCacheConfig(decisions="F,R1,R2", forecast=1)
    with pytest.raises(ValueError, match="'X' is no decision"):
        HetCacheConfig(decisions="F,X")
