"""Error tables: kept and read back, refused where they do not belong, taken between their steps for other schedules."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hetcache.core.conditions import flow_timesteps
from hetcache.planner.model import FULL
from hetcache.planner.search import Costs, Front
from hetcache.planner.tables import ErrorTables, ErrorTablesError, Origin, load_tables

ORIGIN = Origin("toy", "diffsynth", "", "abc", 2.0, "cached", 0.7, "two clips")
REACH, BACK, AGES = 6, 4, 6


def smooth_tables(steps=24, shift=5.0):
    """A velocity that turns evenly with sigma: reuse errs by the distance, order 1 by a tenth of that and by how far
    apart its anchors are, a partial step by the age of its context."""
    timesteps = flow_timesteps(steps, shift)
    levels = np.array([*timesteps, 0.0]) / 1000
    segments = np.full((steps, BACK + 1, REACH), np.nan)
    partial = np.full((2, AGES, steps), np.nan)
    for j in range(steps):
        for n in range(1, min(REACH, steps - j - 1) + 1):
            width = levels[j + 1] - levels[j + n + 1]
            lag = levels[j] - (levels[j + 1] + levels[j + n + 1]) / 2
            segments[j, 0, n - 1] = width * lag
            for b in range(1, min(BACK, j) + 1):
                segments[j, b, n - 1] = width * lag * 0.1
        for age in range(1, min(AGES, j) + 1):
            partial[:, age - 1, j] = np.array([0.2, 0.1]) * (levels[j - age] - levels[j])
    return ErrorTables(ORIGIN, timesteps, (0.05, 0.3), segments, partial, 2.0, 20.0, 3.0, {"clips": ["a.mp4"]})


def test_tables_are_read_back_as_they_were_kept(tmp_path):
    tables = smooth_tables()
    tables.save(tmp_path / "toy.errors.safetensors")
    again = load_tables(tmp_path / "toy.errors.safetensors", "run it")
    assert again.origin == ORIGIN and again.budgets == tables.budgets and again.measured_on == tables.measured_on
    np.testing.assert_allclose(again.segments, tables.segments, rtol=1e-6)
    np.testing.assert_allclose(again.partial, tables.partial, rtol=1e-6)
    assert again.timesteps == pytest.approx(tables.timesteps)
    for damage in (b"", b"{}" * 40):
        (tmp_path / "broken").write_bytes(damage)
        with pytest.raises(ErrorTablesError, match="holds no error tables .*: run it"):
            load_tables(tmp_path / "broken", "run it")
    with pytest.raises(ErrorTablesError, match=r"absent not found\): run it"):
        load_tables(tmp_path / "absent", "run it")


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"weights": "def"}, "weights abc, and this run has def"),
        ({"cfg_scale": 5.0}, "guidance 2.0, and this run has 5.0"),
        ({"context_kv": "sampled"}, "--context-kv cached"),
        ({"note": "another"}, None),
    ],
)
def test_another_model_or_guidance_is_refused_with_the_command(changed, said):
    tables, run = smooth_tables(), replace(ORIGIN, **changed)
    if said is None:
        tables.check(run, "measure it")
        return
    with pytest.raises(ErrorTablesError, match=f"{said}.*: measure it"):
        tables.check(run, "measure it")


def test_the_measured_schedule_is_taken_as_it_is():
    tables = smooth_tables()
    model = tables.model(tables.timesteps)
    assert model.segments is tables.segments and model.weights.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("steps, shift", [(12, 5.0), (18, 5.0), (24, 3.0), (40, 5.0)])
def test_another_schedule_is_interpolated(steps, shift):
    """Against the tables measured at that schedule itself, where both have a value."""
    own, taken = smooth_tables(steps, shift), smooth_tables().model(flow_timesteps(steps, shift))
    for one, other in ((taken.segments, own.segments), (taken.partial, own.partial)):
        both = np.isfinite(one) & np.isfinite(other)
        assert both.sum() > 0.25 * np.isfinite(other).sum()
        ratio = one[both] / other[both]
        assert np.median(np.abs(np.log(ratio))) < 0.2
    front = Front(taken, Costs(100, 1, (30, 40)))
    assert front.plan(0).kinds[0] == FULL and front.errors[-1] < front.errors[0]


def test_the_floor_keeps_its_margin():
    tables = smooth_tables()
    assert tables.psnr(0.01) == pytest.approx(60.0) and tables.psnr(0.0) == float("inf")
    assert tables.psnr(tables.error_for(45.0)) == pytest.approx(48.0)
