"""DPCache: the dynamic program against all paths, the table against its definition, its file, and what is refused."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from replay import build, record, replay
from toys import lend_calibration, lend_path_errors

from baselines import dpcache
from baselines.dpcache import DpCacheConfig, best_path, path_costs, plan_dpcache
from hetcache.calibrate import command as calibrate
from hetcache.calibrate.measure import BranchMeasurements, MeasuringManager, path_errors
from hetcache.calibrate.options import Measured
from hetcache.core.calibration import Calibration, CalibrationError, load_calibration
from hetcache.core.calibration_files import calibration_digest
from hetcache.core.conditions import Conditions
from hetcache.core.drift import decision_string
from hetcache.core.mode import RunContext
from hetcache.core.paths import PathErrors, PathErrorsError, load_path_errors, save_path_errors
from hetcache.core.taylor import TaylorResidual
from hetcache.core.vocabulary import Branch, Compute, Grid, Hidden, Schedule, Step
from hetcache.files import CALIBRATIONS
from hetcache.planner.tables import tables_file


def schedule(num_steps: int) -> Schedule:
    return Schedule(tuple(1000.0 * (num_steps - i) / num_steps for i in range(num_steps)))


def random_errors(num_steps: int, seed: int, whole: bool = False) -> np.ndarray:
    rng = np.random.default_rng(seed)
    i, j, t = np.ogrid[:num_steps, :num_steps, :num_steps]
    values = rng.integers(0, 3, (num_steps,) * 3).astype(float) if whole else rng.random((num_steps,) * 3)
    return np.where((i < j) & (j < t), values, 0.0)


def cost_of(error_TTT: np.ndarray, path: tuple[int, ...]) -> float:
    """Step by step: what is forecast from the last two computed before it."""
    total = 0.0
    for t in range(len(error_TTT)):
        if t not in path:
            i, j = sorted(step for step in path if step < t)[-2:]
            total += error_TTT[i, j, t]
    return total


def all_paths(num_steps: int, budget: int):
    """Every path, in lexicographical order."""
    return [(0, 1, 2, *rest) for rest in itertools.combinations(range(3, num_steps), budget - 3)]


@pytest.mark.parametrize("num_steps, budget", [(4, 3), (5, 4), (9, 3), (9, 5), (10, 8), (11, 6)])
@pytest.mark.parametrize("whole", [False, True])
def test_the_path_is_the_cheapest_of_all_and_the_first_of_equals(num_steps, budget, whole):
    for seed in range(6):
        errors = random_errors(num_steps, seed, whole)
        path, total = best_path(path_costs(errors), budget)
        paths = all_paths(num_steps, budget)
        costs = [cost_of(errors, each) for each in paths]
        assert total == pytest.approx(min(costs))
        if whole:  # sums of integers: equal costs are equal, and there are many
            assert costs.count(min(costs)) >= 1
            assert tuple(path) == paths[costs.index(min(costs))]
        else:
            assert cost_of(errors, tuple(path)) == pytest.approx(min(costs))
    assert path[:3] == [0, 1, 2] and len(set(path)) == budget


def test_where_everything_costs_nothing_the_first_steps_are_computed():
    path, total = best_path(path_costs(np.zeros((20, 20, 20))), 7)
    assert (path, total) == (list(range(7)), 0.0)


def test_a_larger_budget_never_costs_more_and_the_plan_keeps_to_it():
    errors, totals = random_errors(30, 1), []
    for budget in range(3, 31):
        plan = plan_dpcache(schedule(30), DpCacheConfig(budget), errors)
        letters = decision_string(plan)
        assert letters.count("F") == budget and letters.startswith("FFF")
        computed = tuple(i for i, letter in enumerate(letters) if letter == "F")
        totals.append(cost_of(errors, computed))
        signals = [d.signal for d in plan if d.compute is Compute.REUSE]
        assert sum(signals) == pytest.approx(totals[-1])
    assert all(b <= a + 1e-9 for a, b in itertools.pairwise(totals)) and totals[-1] == 0.0
    assert decision_string(plan_dpcache(schedule(30), DpCacheConfig(99), errors)) == "F" * 30


def test_between_two_anchors_the_forecast_is_the_line_through_them():
    class Known:
        def path_errors(self, timesteps):
            i, j, t = np.ogrid[:9, :9, :9]
            return PathErrors(tuple(timesteps), np.where((i < j) & (j < t), 1.0 * (t - j) ** 2, 0.0), {})

    make = dpcache.MODE.build(DpCacheConfig(4), RunContext.of(None, Known))
    manager, anchors = make(Branch.COND, schedule(9)), []
    assert isinstance(manager, TaylorResidual)
    empty = torch.zeros(1)
    for index in range(9):
        h = Hidden(torch.full((1, 1, 1), 7.0 * index), empty, empty, empty, empty, Grid(1, 1, 1))
        decision = manager.decide(Step(index, 9, 0.0), h)
        if decision.compute is Compute.FULL:
            anchors.append((index, float(index * index)))
            manager.commit(Step(index, 9, 0.0), decision, h, h.x_BND + anchors[-1][1], h.x_BND)
        else:
            (i, a), (j, b) = anchors[-2:]
            expected = b + (b - a) * (index - j) / (j - i)
            assert manager.reuse(Step(index, 9, 0.0), h).item() == pytest.approx(7.0 * index + expected)
    assert [i for i, _ in anchors] == [0, 1, 2, 5]
    assert manager.cache_bytes == 2 * 4


def test_the_table_is_what_a_forecast_of_the_residual_misses(pipe, call_kwargs, mask_THW):
    recording = record(pipe, call_kwargs, mask_THW, 5)
    measured = {branch: BranchMeasurements() for branch in Branch}
    replay(recording, lambda b, s: MeasuringManager(measured[b], s, keeps_features=True))
    h = [feature.double() for feature in measured[Branch.COND].features]
    assert len(h) == 5 and h[0].shape == (recording.classes.num_tokens, 48)
    error_TTT = path_errors(measured[Branch.COND].features)
    for i, j, t in itertools.product(range(5), repeat=3):
        expected = 0.0
        if i < j < t:
            expected = (h[j] + (h[j] - h[i]) * (t - j) / (j - i) - h[t]).abs().mean().item()
        assert error_TTT[i, j, t] == pytest.approx(expected, rel=1e-4)


def test_a_table_survives_its_file_in_half_precision(tmp_path):
    errors = PathErrors(schedule(50).timesteps, 1e6 * random_errors(50, 2), {"model": "m", "sigma_shift": 5.0})
    save_path_errors(tmp_path / "x.safetensors", errors)
    loaded = load_path_errors(tmp_path / "x.safetensors")
    assert (tmp_path / "x.safetensors").stat().st_size < 48_000
    assert loaded.timesteps == errors.timesteps and loaded.facts == errors.facts
    np.testing.assert_allclose(loaded.error_TTT, errors.error_TTT, rtol=1e-3, atol=1e2)
    assert loaded.describe() == "50 steps at shift 5"
    assert loaded.is_for([t + 0.4 for t in errors.timesteps]) and not loaded.is_for(errors.timesteps[:-1])
    assert not loaded.is_for([t - 9 for t in errors.timesteps])
    (tmp_path / "y.safetensors").write_bytes(b"nothing")
    with pytest.raises(PathErrorsError, match=r"y.safetensors holds no path errors"):
        load_path_errors(tmp_path / "y.safetensors")


def test_another_schedules_table_is_refused_with_the_command(tmp_path):
    lend_calibration(tmp_path)
    calibration = load_calibration("tiny", tmp_path / "tiny.json")
    table = load_path_errors(lend_path_errors(tmp_path / "tiny.json"))
    assert calibration.path_errors(table.timesteps).is_for(table.timesteps)
    message = (
        "'tiny': no errors of paths, which DPCache plans with, for these 30 timesteps, only for 16 steps at shift 5: "
        "run python -m hetcache.calibrate --model tiny --paths only --steps 30 with this run's shift"
    )
    with pytest.raises(CalibrationError, match=message):
        dpcache.plan(schedule(30), DpCacheConfig(), RunContext.of(None, lambda: calibration), Branch.COND)
    run = RunContext.of(None, lambda: calibration)
    with pytest.raises(CalibrationError, match=message):  # before anything is encoded
        dpcache.MODE.doubts(DpCacheConfig(), run, Conditions(timesteps=schedule(30).timesteps), schedule(30))
    known = Schedule(table.timesteps)
    assert dpcache.MODE.doubts(DpCacheConfig(), run, Conditions(timesteps=known.timesteps), known) == []
    (tmp_path / "tiny.dpcache-16-5.safetensors").write_bytes(b"broken")
    with pytest.raises(CalibrationError, match="--paths only --steps 16"):
        calibration.path_errors(table.timesteps)


@pytest.mark.parametrize(
    "facts", [{"model": "other"}, {"library": "diffusers"}, {"sampler": "unipc"}, {"weights": "y"}]
)
def test_a_table_of_other_origin_is_not_used(tmp_path, facts):
    lend_calibration(tmp_path)
    file = tmp_path / "tiny.json"
    table = load_path_errors(lend_path_errors(file))
    if "weights" in facts:
        file.write_text(file.read_text().replace('"schema": 1', '"schema": 1, "weights": "x"'))
    own = PathErrors(table.timesteps, table.error_TTT, {**table.facts, **facts})
    save_path_errors(lend_path_errors(file), own)
    with pytest.raises(CalibrationError, match="no errors of paths"):
        load_calibration("tiny", file).path_errors(table.timesteps)


def test_the_digest_of_a_calibration_counts_its_tables(tmp_path):
    lend_calibration(tmp_path)
    before = calibration_digest("tiny", str(tmp_path))
    lend_path_errors(tmp_path / "tiny.json", 20)
    with_paths = calibration_digest("tiny", str(tmp_path))
    tables_file(tmp_path / "tiny.json").write_bytes(b"an exact plan's")
    assert len({before, with_paths, calibration_digest("tiny", str(tmp_path))}) == 3


def test_the_embedded_model_has_a_table_for_its_default_schedule():
    sigmas = [1 - i / 50 for i in range(50)]
    timesteps = [5000 * sigma / (1 + 4 * sigma) for sigma in sigmas]
    table = load_calibration("tiny", model="tiny").path_errors(timesteps)
    assert table.error_TTT[0, 1, 2] > 0 and table.facts["model"] == "tiny"
    plan = plan_dpcache(Schedule(tuple(timesteps)), DpCacheConfig(), table.error_TTT)
    assert decision_string(plan).count("F") == 10
    assert all(file.stat().st_size < 48_000 for file in CALIBRATIONS.glob("*.dpcache-*"))


def test_the_calibration_refuses_what_it_cannot_do(tmp_path, capsys):
    with pytest.raises(ValueError, match="--paths must be off or also or only"):
        Measured(paths="all")
    assert calibrate.main(["--paths", "only", "--output", str(tmp_path / "none.json")]) == 2
    assert "no calibration for model 'tiny' (none.json not found)" in capsys.readouterr().err


def test_the_contract_run_reuses_what_the_plan_says(pipe, call_kwargs, mask_THW):
    recording = record(pipe, call_kwargs, mask_THW, 9)
    _, session = replay(recording, build("dpcache", recording, dpcache_budget=5))
    decisions = session.trace.decisions(Branch.COND)
    assert decisions == session.trace.decisions(Branch.UNCOND) and decisions.count("F") == 5


def test_bad_settings_name_their_flag():
    with pytest.raises(ValueError, match="--dpcache-budget must be at least 3"):
        DpCacheConfig(2)


@pytest.mark.parametrize("num_steps, budget", [(1, 4), (3, 4), (8, 13)])
def test_a_run_that_computes_every_step_needs_no_table(num_steps, budget):
    context = RunContext.of(None, lambda: Calibration("toy", ""))
    few = schedule(num_steps)
    assert dpcache.MODE.doubts(DpCacheConfig(budget), context, Conditions(timesteps=few.timesteps), few) == []
    assert decision_string(dpcache.plan(few, DpCacheConfig(budget), context, Branch.COND)) == "F" * num_steps
