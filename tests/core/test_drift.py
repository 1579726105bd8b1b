"""The decision rule against a slow oracle, and what a threshold may and may not do."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hetcache.core.drift import LevelRule, Rescale, decision_string, plan_levels, relative_l1
from hetcache.core.vocabulary import Compute


def oracle(changes, rule):
    """The rule read literally: at each step sum the changes since the last computed and the last full step."""
    letters = ["F"]
    for i in range(1, len(changes)):
        last_computed = max(j for j, letter in enumerate(letters) if letter != "R")
        last_full = max(j for j, letter in enumerate(letters) if letter == "F")
        d, big_d = sum(changes[last_computed + 1 : i + 1]), sum(changes[last_full + 1 : i + 1])
        if i == len(changes) - 1:
            letters.append("F")
        elif d < rule.delta:
            letters.append("R")
        elif letters[last_full:].count("P") >= rule.max_partial_run:
            letters.append("F")
        elif rule.rule == "paper":
            letters.append("P" if d < rule.band * rule.delta else "F")
        else:
            letters.append("P" if big_d < rule.refresh_band * rule.delta else "F")
    return "".join(letters)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind", ["dual", "paper"])
@pytest.mark.parametrize("max_partial_run", [0, 2, 100])
def test_plan_equals_the_oracle(seed, kind, max_partial_run):
    # Multiples of 1/64 add up exactly, so the oracle's sums and the accumulator's are the same numbers.
    changes = (np.random.default_rng(seed).integers(0, 12, 40) / 64).tolist()
    rule = LevelRule(10 / 64, kind, 1.5, 4.0, max_partial_run)
    assert decision_string(plan_levels(changes, rule)) == oracle(changes, rule)


@pytest.mark.parametrize("seed", range(6))
def test_a_last_step_that_need_not_be_full_is_computed_as_the_oracle_computes_a_far_one(seed):
    """With a change that nothing can reuse, the oracle computes its last but one step by the rule."""
    changes = (np.random.default_rng(seed).integers(0, 12, 40) / 64).tolist()
    rule = LevelRule(10 / 64, "dual", 1.5, 4.0, 100, force_last=False)
    letters = decision_string(plan_levels(changes, rule))
    assert letters[:-1] == oracle(changes, rule)[:-1]
    last_full = letters[:-1].rindex("F")
    assert letters[-1] == ("P" if sum(changes[last_full + 1 :]) < 4 * rule.delta else "F")
    whole = LevelRule(10 / 64, "dual", 1.5, 4.0, 0, force_last=False)
    assert set(decision_string(plan_levels(changes, whole))) == {"F", "R"}
    assert decision_string(plan_levels(changes, whole))[-1] == "F"


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["dual", "paper"])
def test_a_lower_threshold_never_computes_fewer_steps(seed, kind):
    changes = np.random.default_rng(seed).gamma(0.7, 0.05, 50).tolist()
    computed = [
        50 - decision_string(plan_levels(changes, LevelRule(delta, kind))).count("R")
        for delta in np.linspace(0, 0.6, 61)
    ]
    assert computed == sorted(computed, reverse=True)
    assert computed[0] == 50
    assert computed[-1] < 25


@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_short_runs_and_the_forced_ends(num_steps):
    letters = decision_string(plan_levels([0.0] * num_steps, LevelRule(0.1)))
    assert letters == {1: "F", 2: "FF", 3: "FRF"}[num_steps]


def test_paper_rule_aliases_where_the_dual_rule_does_not():
    """Steady change of 0.8 delta: the paper's rule makes every computed step full, of 1.1 delta every one partial."""

    def computed(kind, change):
        return set(decision_string(plan_levels([change] * 30, LevelRule(1.0, kind, 1.5, 4.0, 100)))[1:-1]) - {"R"}

    assert computed("paper", 0.8) == {"F"}
    assert computed("paper", 1.1) == {"P"}
    assert computed("dual", 0.8) == computed("dual", 1.1) == {"P", "F"}


def test_decisions_carry_signal_threshold_and_reason():
    decisions = plan_levels([0.0, 0.4, 0.4, 0.4, 0.4], LevelRule(0.5, "dual", 1.5, 3.0))
    assert [(d.compute, d.signal) for d in decisions[1:4]] == [
        (Compute.REUSE, pytest.approx(0.4)),
        (Compute.PARTIAL, pytest.approx(0.8)),
        (Compute.REUSE, pytest.approx(0.4)),
    ]
    assert all(d.reason for d in decisions)


def test_rescale_is_never_negative_and_clamps_to_its_domain():
    poly = Rescale((1.0, 0.0, -0.25))
    assert poly(0.1) == 0.0
    assert poly(1.0) == 0.75
    log = Rescale((2.0, 0.0), "log", (0.1, 0.5))
    assert log(0.2) == pytest.approx(0.04)
    assert log(9.0) == pytest.approx(0.25)
    assert log(0.0) == pytest.approx(0.01)
    with pytest.raises(ValueError, match="space"):
        Rescale((1.0,), "cubic")


def test_relative_l1():
    assert relative_l1(torch.tensor([2.0, -2.0]), torch.tensor([1.0, -3.0])).item() == pytest.approx(0.5)


@pytest.mark.parametrize("seed", range(6))
def test_the_forecast_rule_refreshes_by_a_sum_of_its_own(seed):
    """Oracle: walk along the run, d and D summed from two lists."""
    generator = np.random.default_rng(seed)
    changes, drifts = ((generator.integers(0, 12, 40) / 64).tolist() for _ in range(2))
    rule = LevelRule(10 / 64, "forecast", max_partial_run=100, force_last=False, refresh=30 / 64)
    letters, d, big_d = "F", 0.0, 0.0
    for index in range(1, 40):
        d, big_d = d + changes[index], big_d + drifts[index]
        if d < rule.delta and index < 39:
            letters += "R"
            continue
        d = 0.0
        letters += "F" if big_d >= rule.refresh else "P"
        big_d = 0.0 if letters[-1] == "F" else big_d
    assert decision_string(plan_levels(changes, rule, drifts=drifts)) == letters
    assert set(letters) == {"F", "P", "R"}
