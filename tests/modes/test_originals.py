"""Methods beside what their authors' programs decide: counters and windows written out anew, naive and call by call."""

from __future__ import annotations

import pytest
import torch

from baselines.easycache import EasyCacheConfig, EasyCacheRule
from baselines.magcache import MODE as MAGCACHE
from baselines.magcache import MagCacheConfig
from baselines.pab import PabConfig, plan_pab
from hetcache.core.calibration import load_calibration
from hetcache.core.conditions import flow_timesteps
from hetcache.core.drift import decision_string
from hetcache.core.mode import RunContext
from hetcache.core.vocabulary import Branch, Compute, Grid, Hidden, Schedule, Step

SHIFTS = (1.0, 3.0, 5.0, 8.0, 16.0)


def magcache_calls(ratios, num_steps, error_bound, max_skips, retention=0.2):
    """Call by call over both branches: one counter of calls, nearest ratios, the state of each branch by itself."""
    nearest = [ratios[round(i * (len(ratios) - 1) / (num_steps - 1))] for i in range(num_steps)]
    retained = int(2 * num_steps * retention)
    letters, state = ["", ""], [[1.0, 0.0, 0], [1.0, 0.0, 0]]
    for call in range(2 * num_steps):
        branch, step = call % 2, call // 2
        skip = False
        if call >= retained:
            ratio, error, skips = state[branch]
            ratio *= nearest[step]
            error, skips = error + abs(1 - ratio), skips + 1
            skip = error < error_bound and skips <= max_skips
            state[branch] = [ratio, error, skips] if skip else [1.0, 0.0, 0]
        letters[branch] += "R" if skip else "F"
    return letters


@pytest.mark.parametrize("model", ["wan2.1-vace-1.3b", "wan2.1-t2v-1.3b"])
@pytest.mark.parametrize("num_steps", [50, 40, 30, 25, 20])
@pytest.mark.parametrize("error_bound, max_skips", [(0.02, 3), (0.12, 2), (0.12, 4), (0.24, 6)])
def test_magcache_decides_as_a_program_over_calls(model, num_steps, error_bound, max_skips):
    calibration = load_calibration(model)
    config = MagCacheConfig(error_bound, max_skips, magcache_ratios="index")
    run = Schedule(flow_timesteps(num_steps, 5.0))
    expected = magcache_calls(calibration.magnitude_ratios(Branch.COND), num_steps, error_bound, max_skips)
    for branch, letters in zip(Branch, expected, strict=True):
        plan = MAGCACHE.plan(run, config, RunContext.of(None, lambda: calibration), branch)
        assert decision_string(plan) == letters


@pytest.mark.parametrize("num_steps", [7, 13, 33, 48])
def test_of_other_numbers_of_steps_magcache_retains_at_most_one_more(num_steps):
    """The authors round down over the calls of both branches, here each branch rounds up."""
    calibration = load_calibration("wan2.1-vace-1.3b")
    config = MagCacheConfig(1e9, 10**9, magcache_ratios="index")
    plan = MAGCACHE.plan(
        Schedule(flow_timesteps(num_steps, 5.0)), config, RunContext.of(None, lambda: calibration), Branch.COND
    )
    for letters in magcache_calls(calibration.magnitude_ratios(Branch.COND), num_steps, 1e9, 10**9):
        assert 0 <= decision_string(plan).count("F") - letters.count("F") <= 1


@pytest.mark.parametrize(
    "low, high, inside",
    [(100, 800, (34, 27, 21, 16, 9)), (100, 850, (37, 31, 25, 20, 13)), (450, 930, (24, 30, 29, 27, 20))],
)
def test_what_a_raw_window_holds_of_50_steps(low, high, inside):
    """Without shift two thirds of the run, at Wan's shift the late steps alone."""
    for shift, count in zip(SHIFTS, inside, strict=True):
        run = Schedule(flow_timesteps(50, shift))
        plan = plan_pab(run, PabConfig(pab_timesteps=f"{low}-{high}"))
        told = sum("outside" not in decision.reason for decision in plan)
        exactly_at_an_edge = sum(round(t, 6) in (low, high) for t in run.timesteps)
        assert 0 <= count - told <= exactly_at_an_edge


def pab_oracle(timesteps, low, high, reach):
    """One counter of forwards; the timestep as a whole number, as in the authors' program."""
    return [bool(count % reach and low < int(t) < high) for count, t in enumerate(timesteps)]


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("num_steps", [30, 50, 100])
@pytest.mark.parametrize("low, high", [(100, 800), (100, 850), (450, 930)])
def test_pab_broadcasts_as_its_authors_but_at_an_edge_that_is_met(shift, num_steps, low, high):
    timesteps = flow_timesteps(num_steps, shift)
    plan = plan_pab(Schedule(timesteps), PabConfig(2, 5, pab_timesteps=f"{low}-{high}"))
    for name, reach in (("self_attn", 2), ("cross_attn", 5)):
        expected = pab_oracle(timesteps, low, high, reach)
        for decision, theirs, t in zip(plan, expected, timesteps, strict=True):
            assert (name in decision.cached_sublayers) == theirs or int(t) in (low, high)


@pytest.mark.parametrize("thresh", [0.05, 0.2])
def test_easycache_is_bounded_by_its_first_ten_steps(thresh):
    """A run in which nothing moves: 11 of 50 steps are computed, so that 4.5x is the authors' most."""
    rule, letters = EasyCacheRule(EasyCacheConfig(thresh)), ""
    for index in range(50):
        latents = torch.full((1,), 1.0 + 1e-9 * index, dtype=torch.float64)
        h = Hidden(latents, latents, latents, latents, latents, Grid(1, 1, 1))
        decision = rule.decide(Branch.COND, Step(index, 50, 0.0), h)
        letters += decision.compute.value
        if decision.compute is Compute.FULL:
            rule.observe(Branch.COND, h, h.latents_BCFHW * 2.0)
    assert letters == "F" * 10 + "R" * 39 + "F"
    assert 50 / letters.count("F") == pytest.approx(4.55, abs=0.01)
