"""Error tables: kept and read back, refused where they do not belong, taken between their steps for other schedules."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from error_tables import smooth_tables

from hetcache.core.conditions import flow_timesteps
from hetcache.planner.model import FULL
from hetcache.planner.search import Costs, Front
from hetcache.planner.tables import ErrorTablesError, load_tables

ORIGIN = smooth_tables().origin


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
        ({"margin_width": "9"}, "--margin-width by the grid, and this run has 9"),
        ({"context_sample": "of no clusters"}, "a context sample"),
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
    np.testing.assert_allclose(model.segments, tables.segments)
    assert model.weights.sum() == pytest.approx(1.0)


def test_errors_are_multiplied_by_what_comes_after_them():
    """By the mean over a segment's reused steps, and step by step for what a partial one missed."""
    tables = smooth_tables()
    falling = replace(tables, sensitivity=np.linspace(3.0, 1.0, 24))
    model = falling.model(falling.timesteps)
    widths = tables.model(tables.timesteps).weights
    for j, n in ((0, 1), (5, 4), (17, 6)):
        steps = slice(j + 1, j + 1 + n)
        mean = (falling.sensitivity[steps] * widths[steps]).sum() / widths[steps].sum()
        np.testing.assert_allclose(model.segments[j, :, n - 1], tables.segments[j, :, n - 1] * mean)
    np.testing.assert_allclose(model.weights, widths * falling.sensitivity)
    coarse = falling.model(flow_timesteps(12, 5.0))
    assert np.all(np.diff(coarse.weights / smooth_tables(12).model(flow_timesteps(12, 5.0)).weights) < 0)


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
    flatter = replace(tables, psnr_slope=0.5)
    assert flatter.psnr(0.01) == pytest.approx(40.0) and flatter.psnr(flatter.error_for(33.0)) == pytest.approx(36.0)
