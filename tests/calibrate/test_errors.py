"""What calibration says a kind of step errs by is what a run with that step errs by."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from error_tables import smooth_tables

from diffsynth_patches.apply import patched
from hetcache.calibrate.errors import BACKS, REACH, ErrorManager, ErrorTally, Shadow, latent_mask, widths
from hetcache.calibrate.real_runs import psnr_map, tolerance, weighed
from hetcache.calibrate.tables import by_age, segments_of
from hetcache.core.mode import RunContext
from hetcache.core.session import CacheSession
from hetcache.core.time_curve import Powers
from hetcache.core.tokens import classify
from hetcache.core.vocabulary import Branch, Compute
from hetcache.method.config import HetCacheConfig
from hetcache.method.hetcache import MODE
from hetcache.modes import MODES
from hetcache.planner.model import FULL, Kind

STEPS, CFG_SCALE = 6, 3.0
CONFIG = HetCacheConfig(context_kv="cached", forecast=1, forecast_in="sigma", margin_width=1, context_ratio=0.3)


@pytest.fixture(scope="module")
def context(mask_THW):
    return RunContext.of(classify(torch.from_numpy(mask_THW), 1), "tiny")


def velocities(pipe, call_kwargs, make_manager):
    """(guided velocities of every step, the video) of a run under these managers."""
    found = {}
    session = CacheSession(make_manager)
    with patched(pipe, session):
        inner = pipe.model_fn

        def watched(**kwargs):
            velocity = inner(**kwargs)
            branch = Branch.COND if kwargs.get("positive", True) else Branch.UNCOND
            found[session.step.index, len([k for k in found if k[0] == session.step.index])] = (branch, velocity)
            return velocity

        pipe.model_fn = watched
        video = pipe(**{**call_kwargs, "num_inference_steps": STEPS, "progress_bar_cmd": session.steps})
        pipe.model_fn = inner
    guided = []
    for index in range(STEPS):
        cond, uncond = found[index, 0][1], found[index, 1][1]
        guided.append(uncond + CFG_SCALE * (cond - uncond))
    return guided, video, session


def given(context, words):
    """The managers of a run that decides so."""
    return MODE.build(replace(CONFIG, decisions=words), context)


@pytest.fixture(scope="module")
def measured(pipe, call_kwargs, context):
    tally = ErrorTally(context.classes, CFG_SCALE)
    shadows = [Shadow(MODE.cache(CONFIG, context), 0.3, phase) for phase in (2, 4)]
    baseline = MODES["baseline"].build(MODES["baseline"].config(), context)
    truth, video, _ = velocities(pipe, call_kwargs, baseline)

    def make(branch, schedule):
        return ErrorManager(branch, schedule, tally, shadows, Powers())

    seen, same, session = velocities(pipe, call_kwargs, make)
    assert all(torch.equal(a, b) for a, b in zip(truth, seen, strict=True)), "the trajectory is left alone"
    assert np.array_equal(np.asarray(video), np.asarray(same))
    return tally, truth, session.schedule


def real_error(pipe, call_kwargs, context, truth, words, index):
    """Of the velocity at a step up to which all were computed in full, on the generative tokens."""
    seen, _, _ = velocities(pipe, call_kwargs, given(context, words))
    for step in range(index):
        torch.testing.assert_close(seen[step], truth[step], rtol=1e-4, atol=1e-5)
    difference = seen[index] - truth[index]
    inside = difference[latent_mask(context.classes, difference).expand_as(difference)]
    return float(inside.square().mean().sqrt())


@pytest.mark.parametrize("words, index, key", [("F,F,F,R0,F,F", 3, (2, 0, 1)), ("F,R0,F,F,F,F", 1, (0, 0, 1))])
def test_a_reused_step_errs_as_measured(pipe, call_kwargs, context, measured, words, index, key):
    tally, truth, schedule = measured
    real = real_error(pipe, call_kwargs, context, truth, words, index)
    assert tally.errors[key] == pytest.approx(real * widths(schedule.timesteps)[index], rel=1e-3)


def test_a_forecast_step_errs_as_measured(pipe, call_kwargs, context, measured):
    tally, truth, schedule = measured
    real = real_error(pipe, call_kwargs, context, truth, "F,F,F,R1,F,F", 3)
    assert tally.errors[2, 1, 1] == pytest.approx(real * widths(schedule.timesteps)[3], rel=1e-3)
    assert tally.errors[2, 1, 1] != pytest.approx(tally.errors[2, 0, 1], rel=1e-2)


def test_a_partial_step_errs_as_measured(pipe, call_kwargs, context, measured):
    tally, truth, _ = measured
    real = real_error(pipe, call_kwargs, context, truth, "F,P,F,F,F,F", 1)
    assert tally.errors["p", 0, 1] == pytest.approx(real, rel=1e-3)
    assert {key[2] for key in tally.errors if key[0] == "p" and key[1] == 0} == {1, 3, 4, 5}


def test_every_segment_has_its_errors_and_between_anchors_the_nearest(measured):
    tally, _, _ = measured
    table = segments_of(tally, STEPS)
    assert table.shape == (STEPS, max(BACKS) + 1, REACH)
    for j in range(STEPS):
        for n in range(1, REACH + 1):
            assert np.isfinite(table[j, 0, n - 1]) == (j + n < STEPS)
            for back in range(1, max(BACKS) + 1):
                assert np.isfinite(table[j, back, n - 1]) == (j + n < STEPS and back <= j)
    assert table[4, 2, 0] == tally.errors[4, 2, 1] and table[3, 3, 1] == tally.errors[3, 3, 2]


def test_the_errors_of_partial_steps_by_age_are_found_again():
    steps, ages = 30, 12
    own = 0.01 * np.exp(np.linspace(0, 2, steps))
    table = own[None] * (np.arange(1, ages + 1) ** 0.8)[:, None]
    samples = [(t, t % 6, table[t % 6 - 1, t]) for t in range(steps) if t % 6]
    np.testing.assert_allclose(by_age(samples, steps, ages), table, rtol=0.05)


def test_a_prediction_stands_for_the_psnr_that_such_runs_had():
    errors = 10 ** -(np.linspace(40, 60, 21) / 20)
    real = 10 + 0.8 * np.linspace(40, 60, 21) + np.array([-2.0, 0.5, 1.5] * 7)
    found = psnr_map(errors, real, 20)
    assert found["psnr_slope"] == pytest.approx(0.8, abs=0.05)
    typical = found["psnr_offset"] + found["psnr_slope"] * np.linspace(40, 60, 21)
    assert np.mean(real >= typical - found["margin_db"]) >= 0.9
    same = psnr_map([0.1, 0.1], [30.0, 32.0], 2)
    assert (same["psnr_offset"], same["psnr_slope"]) == (11.0, 1.0) and same["margin_db"] > 10


def test_partial_steps_are_weighed_by_real_runs():
    """Runs whose PSNR is that of tables with three times the partial errors."""
    tables = smooth_tables()
    true = replace(tables, partial=tables.partial * 3.0)
    reuse, partial = Kind(Compute.REUSE), Kind(Compute.PARTIAL)
    plans = [[FULL, *[step] * n] * (24 // (n + 1)) for n in (1, 2, 3, 5) for step in (reuse, partial)]
    runs = [(kinds, 15 - 20 * math.log10(true.model(true.timesteps).predict(kinds))) for kinds in plans]
    found = weighed(tables, runs, 20)
    assert found.partial[0, 0, 5] / tables.partial[0, 0, 5] == pytest.approx(3.0, rel=0.07)
    assert found.psnr_slope == pytest.approx(1.0, abs=0.03) and found.margin_db < 0.5


def test_few_clips_make_a_wide_margin():
    """One-sided tolerance factors of a normal distribution, nine in ten at confidence 0.9, from statistical tables."""
    for count, factor in ((4, 3.188), (10, 2.066), (30, 1.657)):
        assert tolerance(count) == pytest.approx(factor, rel=0.1)
    assert tolerance(2) > tolerance(4) > tolerance(30) > 1.2816
