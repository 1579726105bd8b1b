"""Rows of a benchmark say when a setting lies outside what the authors publish; presets that stand beside them."""

from __future__ import annotations

import pytest

from hetcache.benchmark.methods import default_methods, parse_method
from hetcache.core.flops import ModelShape
from hetcache.core.mode import RunContext
from hetcache.core.vocabulary import Grid, Schedule
from hetcache.modes import MODES
from hetcache.modes.planning import plan_run

VACE_1_3B = ModelShape(1536, 8960, 30, 15, 512)


@pytest.mark.parametrize(
    "text, outside",
    [
        ("easycache", ""),
        ("easycache:easycache_thresh=0.2", ""),
        ("easycache:easycache_thresh=0.1,easycache_first=3", "first 3 < 10"),
        ("easycache:easycache_thresh=0.3,easycache_first=3", "first 3 < 10, tau 0.3 > 0.2"),
        ("magcache", ""),
        ("magcache:magcache_thresh=0.24,magcache_max_skips=6", ""),
        (
            "magcache:magcache_thresh=1,magcache_max_skips=40,magcache_retention=0.04",
            "K 40 > 6, E 1 > 0.24, R 0.04 < 0.2",
        ),
        ("teacache:cache_thresh=0.25", ""),
    ],
)
def test_a_row_outside_the_published_range_says_so(text, outside):
    shown = parse_method(text).setting()
    assert (f"(outside the authors' range: {outside})" in shown) if outside else ("outside" not in shown)


def test_the_other_readings_stand_in_the_default_benchmark():
    rows = {method.name: method for method in default_methods()}
    assert {"fastcache", "fastcache_computed", "adacache", "adacache_slow", "pab", "pab_3_7", "pab_5_9"} <= rows.keys()
    assert rows["fastcache_computed"].setting() == "fastcache reference computed, fastcache estimate residual"
    assert rows["pab_5_9"].setting() == "pab self range 5, pab cross range 9"
    config = MODES["adacache_slow"].config(**MODES["adacache_slow"].defaults)
    assert config.adacache_codebook == "slow"


@pytest.mark.parametrize(
    "name, frames, ratio",
    [
        ("pab", 9, 1.33), ("pab", 21, 1.39),
        ("pab_3_7", 9, 1.47), ("pab_3_7", 21, 1.60),
        ("pab_5_9", 9, 1.62), ("pab_5_9", 21, 1.83),
    ],
)  # fmt: skip
def test_what_pabs_ranges_are_worth_on_the_real_model(name, frames, ratio):
    """At 33 and 81 frames of 480x832, 50 steps: docs/methods.md states these."""
    mode, grid = MODES[name], Grid(frames, 30, 52)
    context = RunContext(lambda: pytest.fail("PAB needs no calibration"), None, grid)
    plan = plan_run(mode, mode.config(**mode.defaults), context, Schedule(tuple(range(1000, 0, -20))), VACE_1_3B)
    assert plan.speedup == pytest.approx(ratio, abs=0.005)
