"""scripts/measure/scale.py: its formulas against what they stand for."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest

from hetcache.core.flops import full_step_flops, partial_step_flops
from scripts.measure.scale import MODELS, Fleet, Machine, Workload, clips_per_hour, given_up, loop_s, step_ms, ways

ROOT = Path(__file__).resolve().parents[2]
FREE = Machine(400.0, math.inf, 0.0, 0.0)
LINKED = Machine(400.0, 300.0, 25.0, 300.0)


def work(model: str = "14b", num_tokens: int = 32760, **more: object) -> Workload:
    return Workload(*MODELS[model], num_tokens, "FPR", 0.3, **more)  # type: ignore[arg-type]


def test_one_device_costs_its_flops() -> None:
    shape, _ = MODELS["14b"]
    assert step_ms(work(), "F", FREE, 1, 1) == pytest.approx(2 * full_step_flops(shape, 32760) / 400e9)
    assert step_ms(work(), "P", FREE, 1, 1) == pytest.approx(2 * partial_step_flops(shape, 32760, 9828) / 400e9)


@pytest.mark.parametrize("kind", "FP")
def test_without_exchange_the_blocks_are_divided(kind: str) -> None:
    assert step_ms(work(), kind, FREE, 2, 1) == pytest.approx(step_ms(work(), kind, FREE, 1, 1) / 2)
    assert step_ms(work(), kind, FREE, 1, 4) == pytest.approx(step_ms(work(), kind, FREE, 1, 1) / 4, rel=0.03)


def test_exchange_costs_and_more_devices_never_gain_more_than_their_number() -> None:
    for num in (2, 4, 8):
        for cfg, sp in ways(num, 40).values():
            seconds = loop_s(work(), LINKED, cfg, sp)
            assert loop_s(work(), FREE, cfg, sp) < seconds
            assert loop_s(work(), LINKED) / num < seconds < loop_s(work(), LINKED)


def test_heads_that_do_not_divide_are_left_out() -> None:
    assert ways(8, 12) == {"cfg+sp": (2, 4)} and ways(2, 12).keys() == {"cfg", "sp"}
    assert ways(16, 12) == {} and ways(1, 12) == {"off": (1, 1)}


def test_measured_steps_take_the_place_of_flops() -> None:
    slow = work(measured_ms=(100.0, 40.0, 2.0))
    assert step_ms(slow, "F", FREE, 1, 1) == pytest.approx(200.0)
    assert step_ms(slow, "F", FREE, 2, 1) == pytest.approx(100.0)
    assert step_ms(slow, "P", FREE, 1, 2) == pytest.approx(2 * (19.0 + 2.0))


@pytest.mark.parametrize("failures", [0.0, 0.5, 5.0])
def test_clips_an_hour_agree_with_a_simulation(failures: float) -> None:
    """One GPU that fails at random, for a long time."""
    rng, clip_s, load_s = random.Random(0), 300.0, 120.0
    clock, done = 0.0, 0
    while done < 20000:
        fails_in = rng.expovariate(failures / 3600) if failures else math.inf
        if fails_in < clip_s:
            clock += fails_in + load_s
        else:
            clock += clip_s
            done += 1
    assert clips_per_hour(Fleet(1, failures, load_s), clip_s) == pytest.approx(done / clock * 3600, rel=0.02)


def test_given_up_is_the_chance_of_every_try() -> None:
    assert given_up(Fleet(1, 0.0, 0.0), 300, 2) == 0
    assert given_up(Fleet(1, 12.0, 0.0), 300, 1) == pytest.approx((1 - math.exp(-1)) ** 2)


def test_it_prints_tables_and_writes_json(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "scripts.measure.scale", "--output", str(tmp_path / "s.json")]
    said = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    assert "| 8 | cfg+sp |" in said and "given up" in said
    rows = json.loads((tmp_path / "s.json").read_text())["rows"]
    assert all(0 < row["hetcache_efficiency"] <= 1.0001 for row in rows if "parallel" in row)
