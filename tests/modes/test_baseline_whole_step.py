"""TeaCache, MagCache, EasyCache and the composition against slow oracles of their rules and one-number arithmetic."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from baselines import easycache, magcache, pab
from baselines.easycache import EasyCacheConfig, EasyCacheRule
from baselines.magcache import MagCacheConfig, interpolate_ratios, plan_magcache
from baselines.pab import PabConfig
from baselines.teacache import TeaCacheConfig, plan_teacache
from hetcache.core.calibration import Calibration, load_calibration
from hetcache.core.drift import Rescale, decision_string
from hetcache.core.lead import Planned
from hetcache.core.mode import Mode, RunContext
from hetcache.core.residual import StackResidual
from hetcache.core.vocabulary import Branch, CacheManager, Compute, Decision, Grid, Hidden, Schedule, Step
from hetcache.modes.composed import composed_config, with_teacache

GRID = Grid(1, 1, 1)
IDENTITY = Rescale((1.0, 0.0))
TOY = RunContext.of(None, lambda: Calibration("toy", "", {"e": IDENTITY, "e0": IDENTITY}))


def hidden(x: float, latents: torch.Tensor | None = None) -> Hidden:
    empty = torch.zeros(1)
    return Hidden(torch.full((1, 1, 1), x), empty, empty, empty, empty if latents is None else latents, GRID)


def schedule(num_steps: int, seed: int = 0) -> Schedule:
    values = random.Random(seed)
    changes = (0.0, *(values.uniform(0.0, 0.4) for _ in range(num_steps - 1)))
    timesteps = tuple(1000.0 * (num_steps - i) / num_steps for i in range(num_steps))
    return Schedule(timesteps, {"e": changes, "e0": changes})


def teacache_oracle(signal, changes, coefficients, thresh):
    """TeaCache4Wan2.1's counter logic, one branch, written out from its description."""
    num_steps, letters, accumulated = len(changes), "", 0.0
    for i in range(num_steps):
        forced = i < 5 if signal == "e0" else i in (0, num_steps - 1)
        if forced:
            letters, accumulated = letters + "F", 0.0
            continue
        accumulated += max(float(np.poly1d(coefficients)(changes[i])), 0.0)
        if accumulated < thresh:
            letters += "R"
        else:
            letters, accumulated = letters + "F", 0.0
    return letters


@pytest.mark.parametrize("signal", ["e", "e0"])
@pytest.mark.parametrize("thresh", [0.0, 0.05, 0.2, 1.0, 100.0])
@pytest.mark.parametrize("num_steps", [1, 2, 6, 50])
def test_teacache_decides_as_the_oracle(signal, thresh, num_steps):
    for seed in range(5):
        run = schedule(num_steps, seed)
        rescale = Rescale((3.0, -1.0, 0.5, 0.7, -0.01))
        plan = plan_teacache(run, TeaCacheConfig(thresh, signal), rescale)
        assert decision_string(plan) == teacache_oracle(signal, run.rel_l1[signal], rescale.coefficients, thresh)


def test_teacache_uses_the_coefficients_of_its_signal():
    """The published polynomials of T2V-1.3B at their own range, e0 and e apart."""
    calibration = load_calibration("wan2.1-t2v-1.3b")
    assert calibration.rescale("e0")(0.075) == pytest.approx(
        np.polyval([-5.21862437e4, 9.23041404e3, -5.28275948e2, 1.36987616e1, -4.99875664e-2], 0.075)
    )
    assert calibration.rescale("e")(0.1) == pytest.approx(
        np.polyval([2.39676752e3, -1.31110545e3, 2.01331979e2, -8.29855975, 1.37887774e-1], 0.1)
    )


def test_a_higher_teacache_threshold_never_computes_more():
    counts = [
        decision_string(plan_teacache(schedule(50), TeaCacheConfig(t), Rescale((1.0, 0.0)))).count("F")
        for t in np.linspace(0, 12, 60)
    ]
    assert counts == sorted(counts, reverse=True) and counts[0] == 50 and counts[-1] == 2


def test_reuse_adds_the_residual_of_the_last_computed_step():
    """A stack that doubles: from 11 it adds 11; reused at 30 the result is 41, computed it would be 60."""
    plan = plan_teacache(schedule(4), TeaCacheConfig(100.0), Rescale((1.0, 0.0)))
    manager = StackResidual(Planned(plan), Branch.COND)
    letters = ""
    for index, x in enumerate((11.0, 30.0, 5.0, 7.0)):
        step, h = Step(index, 4, 0.0), hidden(x)
        decision = manager.decide(step, h)
        letters += decision.compute.value
        if decision.compute is Compute.REUSE:
            assert manager.reuse(step, h).item() == x + 11.0
        else:
            manager.commit(step, decision, h, 2 * h.x_BND, h.x_BND)
    assert letters == "FRRF"
    assert manager.reuse(step, hidden(1.0)).item() == 8.0
    assert manager.cache_bytes == 4


def magcache_oracle(ratios, thresh, max_skips, retention):
    letters, err, n = "", [], 0
    for i, _ in enumerate(ratios):
        if i < len(ratios) * retention or i == 0:
            letters += "F"
            continue
        err.append(ratios[i])
        products = [abs(1 - math.prod(err[: j + 1])) for j in range(len(err))]
        n += 1
        if sum(products) < thresh and n <= max_skips:
            letters += "R"
        else:
            letters, err, n = letters + "F", [], 0
    return letters


@pytest.mark.parametrize(
    "thresh, max_skips, num_computed",
    [(0.02, 3, 29), (0.04, 3, 25), (0.06, 4, 23), (0.12, 2, 25), (0.12, 4, 20), (0.24, 6, 17)],
)
def test_magcache_replays_the_published_vace_ratios(thresh, max_skips, num_computed):
    ratios = load_calibration("wan2.1-vace-1.3b").magnitude_ratios(Branch.COND)
    plan = decision_string(plan_magcache(schedule(50), MagCacheConfig(thresh, max_skips), ratios))
    assert len(ratios) == 50
    assert plan.count("F") == num_computed
    assert plan == magcache_oracle(ratios, thresh, max_skips, 0.2)


@pytest.mark.parametrize("num_steps", [1, 2, 7, 33, 50])
@pytest.mark.parametrize("retention", [0.0, 0.2, 1.0])
def test_magcache_decides_as_the_oracle(num_steps, retention):
    values = random.Random(num_steps)
    ratios = [1.0, *(values.uniform(0.97, 1.02) for _ in range(num_steps - 1))] if num_steps > 1 else [1.0]
    plan = plan_magcache(schedule(num_steps), MagCacheConfig(0.04, 2, retention), ratios)
    assert decision_string(plan) == magcache_oracle(ratios, 0.04, 2, retention)


def test_magcache_interpolates_to_the_nearest_index():
    ratios = [1.0, 1.1, 1.2, 1.3, 1.4]
    assert interpolate_ratios(ratios, 5) == ratios
    assert interpolate_ratios(ratios, 3) == [1.0, 1.2, 1.4]
    assert interpolate_ratios(ratios, 9) == [1.0, 1.0, 1.1, 1.2, 1.2, 1.2, 1.3, 1.4, 1.4]
    assert interpolate_ratios(ratios, 1) == [1.4]
    assert interpolate_ratios(ratios, 2) == [1.0, 1.4]


def test_magcache_branches_have_their_own_ratios():
    ratios = {"cond": (1.0,) * 20, "uncond": (0.9,) * 20}
    make = magcache.MODE.build(MagCacheConfig(), RunContext.of(None, lambda: Calibration("m", "", magcache=ratios)))
    letters = []
    for branch in Branch:
        manager = make(branch, schedule(20))
        letters.append("".join(manager.decide(Step(i, 20, 0.0), hidden(0)).compute.value for i in range(20)))
    assert letters == ["FFFFRRRFRRRFRRRFRRRF", "F" * 20]


def easycache_oracle(xs, vs, thresh, first):
    """Written on plain lists. vs[i] is what the model would give at step i if it were computed."""
    letters, error, rate, last = "", 0.0, None, None
    for i, x in enumerate(xs):
        reuse = False
        if first <= i < len(xs) - 1 and rate is not None:
            moved = np.mean(np.abs(np.subtract(x, xs[i - 1])))
            error += rate * moved / np.mean(np.abs(last[1]))
            reuse = error < thresh
        if not reuse:
            if last is not None:
                rate = np.mean(np.abs(np.subtract(vs[i], last[1]))) / np.mean(np.abs(np.subtract(x, last[0])))
            last, error = (x, vs[i]), 0.0
        letters += "R" if reuse else "F"
    return letters


@pytest.mark.parametrize("thresh", [0.0, 0.02, 0.1, 10.0])
@pytest.mark.parametrize("first", [1, 10])
def test_easycache_decides_as_the_oracle_and_the_other_branch_follows(thresh, first):
    rng = np.random.default_rng(1)
    xs = np.cumsum(rng.normal(size=(20, 6)) * 0.05, axis=0) + 1
    vs = np.cumsum(rng.normal(size=(20, 6)) * 0.05, axis=0) + 1
    rule = EasyCacheRule(EasyCacheConfig(thresh, first))
    managers = {branch: StackResidual(rule, branch, "velocity") for branch in Branch}
    letters = {branch: "" for branch in Branch}
    for i in range(20):
        for branch, manager in managers.items():
            # The unconditional branch's output jumps about; its decision must not.
            v = torch.tensor(vs[i] if branch is Branch.COND else rng.normal(size=6))
            step, h = Step(i, 20, 0.0), hidden(0, torch.tensor(xs[i]))
            decision = manager.decide(step, h)
            letters[branch] += decision.compute.value
            if decision.compute is Compute.FULL:
                manager.commit(step, decision, h, h.x_BND, v)
                offset = v - h.latents_BCFHW
            else:
                expected = h.latents_BCFHW + manager.store.get("output", 0, "offset")
                assert torch.equal(manager.reuse(step, h), expected)
        if decision.compute is Compute.FULL:
            assert torch.equal(managers[Branch.UNCOND].store.get("output", 0, "offset"), offset)
    assert letters[Branch.COND] == letters[Branch.UNCOND] == easycache_oracle(xs, vs, thresh, first)
    assert managers[Branch.COND].notes()["host_syncs"] == max(20 - 1 - max(first, 2), 0)
    assert managers[Branch.UNCOND].notes() == {"decides": "follows the other branch"}


def test_easycache_reuses_the_output_not_the_tokens():
    """v = x + (v0 - x0): computed 44 at x = 22; reused at x = 30 it is 52, whatever the tokens."""
    context = RunContext.of(None, "none")
    manager = easycache.MODE.build(EasyCacheConfig(), context)(Branch.COND, schedule(30))
    assert manager.reuse_level == "velocity"
    step, h = Step(0, 30, 0.0), hidden(5.0, torch.tensor([22.0]))
    manager.commit(step, manager.decide(step, h), h, h.x_BND, torch.tensor([44.0]))
    assert manager.reuse(step, hidden(9.0, torch.tensor([30.0]))).item() == 52.0


class Counts(CacheManager):
    """A base that only notes when it is asked."""

    reuse_level = "velocity"

    def __init__(self) -> None:
        self.asked: list[int] = []

    def decide(self, step: Step, hidden: Hidden) -> Decision:
        self.asked.append(step.index)
        return Decision(Compute.REUSE if step.index == 5 else Compute.FULL, "base")


def test_the_base_of_a_composition_is_asked_only_where_teacache_computes():
    run = Schedule(tuple(range(8, 0, -1)), {"e": (0.0, *[0.06] * 7)})
    base = Counts()

    @dataclass(frozen=True)
    class Noting(Mode):
        def build(self, config, context):
            def make(branch, schedule):
                base.schedule = schedule
                return base

            return make

    composed = with_teacache(Noting("noting", "", "", PabConfig))
    manager = composed.build(composed.config(cache_thresh=0.15), TOY)(Branch.COND, run)
    levels = []
    letters = ""
    for i in range(8):
        letters += manager.decide(Step(i, 8, 0.0), hidden(0)).compute.value
        levels.append(manager.reuse_level)
    assert letters == "FRRFRRFF"
    assert base.asked == [0, 3, 6, 7] and base.schedule.skipped == {1, 2, 4, 5}
    assert levels == ["tokens" if i in base.schedule.skipped else "velocity" for i in range(8)]


def test_a_composition_config_is_both_and_is_validated_as_both():
    config = composed_config(PabConfig)(cache_thresh=0.1, pab_self_range=3)
    assert isinstance(config, PabConfig) and isinstance(config, TeaCacheConfig)
    for bad in ({"cache_thresh": -1}, {"pab_self_range": 0}, {"teacache_signal": "x"}):
        with pytest.raises(ValueError, match=next(iter(bad)).replace("_", "-")):
            composed_config(PabConfig)(**bad)


def test_a_composed_base_counts_only_the_steps_that_run():
    """PAB of range 2 under a TeaCache that keeps every second step: of the kept ones, every second broadcasts."""
    run = Schedule(tuple(range(12, 0, -1)), {"e": (0.0, *[0.06] * 11)})
    composed = with_teacache(pab.MODE)
    config = composed.config(cache_thresh=0.1, pab_window_start=0.0, pab_window_end=1.0)
    manager = composed.build(config, TOY)(Branch.COND, run)
    decisions = [manager.decide(Step(i, 12, 0.0), hidden(0)) for i in range(12)]
    assert decision_string(decisions) == "FRBRBRBRBRBB"
    broadcasts = ["self_attn" in d.cached_sublayers for d in decisions if d.compute is not Compute.REUSE]
    assert broadcasts == [False, True, False, True, False, True, False]


@pytest.mark.parametrize(
    "config, bad, message",
    [
        (TeaCacheConfig, {"cache_thresh": -0.1}, "--cache-thresh must not be negative"),
        (TeaCacheConfig, {"teacache_signal": "e1"}, "--teacache-signal must be e or e0"),
        (MagCacheConfig, {"magcache_thresh": -1.0}, "--magcache-thresh must not be negative"),
        (MagCacheConfig, {"magcache_max_skips": -1}, "--magcache-max-skips must not be negative"),
        (MagCacheConfig, {"magcache_retention": 1.5}, "--magcache-retention must be between 0 and 1"),
        (EasyCacheConfig, {"easycache_thresh": -1.0}, "--easycache-thresh must not be negative"),
        (EasyCacheConfig, {"easycache_first": 0}, "--easycache-first must be at least 1"),
    ],
)
def test_bad_settings_name_their_flag(config, bad, message):
    with pytest.raises(ValueError, match=message):
        config(**bad)
