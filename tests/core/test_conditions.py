"""Calibrations say under what they were measured; runs under other conditions say so, and take ratios by timestep."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

from baselines.magcache import MODE, MagCacheConfig, plan_magcache, ratios_by_timestep, run_ratios
from baselines.teacache import MODE as TEACACHE
from baselines.teacache import TeaCacheConfig
from hetcache.core.calibration import Calibration, CalibrationError, CalibrationNeed, load_calibration
from hetcache.core.conditions import Conditions, differences, doubts, flow_timesteps, same_schedule
from hetcache.core.drift import Rescale, decision_string
from hetcache.core.mode import RunContext
from hetcache.core.vocabulary import Branch, Schedule
from hetcache.modes import MODES

VACE = "wan2.1-vace-1.3b"


def schedule(num_steps, shift):
    return Schedule(flow_timesteps(num_steps, shift), {"e": (0.0,) * num_steps, "e0": (0.0,) * num_steps})


def context(calibration):
    return RunContext.of(None, lambda: calibration)


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0, 16.0])
def test_the_schedule_is_the_librarys(shift):
    from diffsynth.diffusion import FlowMatchScheduler

    scheduler = FlowMatchScheduler("Wan")
    scheduler.set_timesteps(50, shift=shift)
    assert same_schedule(flow_timesteps(50, shift), scheduler.timesteps.tolist())


def test_the_embedded_models_schedule_is_the_one_written_down():
    calibration = load_calibration("tiny")
    conditions = calibration.measured_on["magcache"]
    assert conditions.schedule() == calibration.drift.timesteps
    assert same_schedule(flow_timesteps(conditions.steps, conditions.sigma_shift), conditions.schedule())


@pytest.mark.parametrize("model", [VACE, "wan2.1-t2v-1.3b"])
def test_every_list_of_ratios_says_its_conditions(model):
    conditions = load_calibration(model).measured_on["magcache"]
    assert (conditions.steps, conditions.cfg_scale, conditions.sampler) == (50, 5.0, "unipc")
    assert conditions.sigma_shift == (16.0 if "vace" in model else 5.0)
    assert "not stated by the authors; inferred" in conditions.note
    assert len(conditions.schedule()) == len(load_calibration(model).magnitude_ratios(Branch.COND))


def test_on_its_own_schedule_a_list_is_taken_as_it_is():
    tiny, vace = load_calibration("tiny"), load_calibration(VACE)
    for branch in Branch:
        mine = run_ratios(schedule(50, 5.0), MagCacheConfig(), tiny, branch)
        assert tuple(mine) == tiny.magnitude_ratios(branch)
    assert tuple(run_ratios(schedule(50, 16.0), MagCacheConfig(), vace, Branch.COND)) == vace.magnitude_ratios(
        Branch.COND
    )


def ratios_oracle(ratios, measured, timesteps):
    """numpy's own interpolation of the running product's logarithm, inside the steps measured."""
    logs = np.cumsum(np.log(ratios))
    at = np.interp([-t for t in timesteps], [-t for t in measured], logs)
    return [1.0, *np.exp(np.diff(at)).tolist()]


@pytest.mark.parametrize("num_steps, shift", [(50, 16.0), (20, 16.0), (13, 20.0), (100, 16.0)])
def test_ratios_by_timestep_equal_the_oracle_inside_the_list(num_steps, shift):
    ratios = load_calibration(VACE).magnitude_ratios(Branch.COND)
    measured = flow_timesteps(50, 16.0)
    timesteps = [t for t in flow_timesteps(num_steps, shift) if t >= measured[-1]]
    assert ratios_by_timestep(ratios, measured, timesteps) == pytest.approx(ratios_oracle(ratios, measured, timesteps))


def test_a_step_over_several_has_their_product():
    measured, ratios = (1000.0, 900.0, 700.0, 500.0), (1.0, 0.9, 0.8, 0.5)
    assert ratios_by_timestep(ratios, measured, (1000.0, 700.0, 500.0)) == pytest.approx([1.0, 0.72, 0.5])
    half = ratios_by_timestep(ratios, measured, (1000.0, 900.0, 600.0))
    assert half[2] == pytest.approx(0.8 * math.sqrt(0.5))
    beyond = ratios_by_timestep(ratios, measured, (1000.0, 500.0, 400.0))
    assert beyond[2] == pytest.approx(math.sqrt(0.5))


@pytest.mark.parametrize(
    "ratios, num_steps, shift, computed",
    [
        ("index", 50, 16.0, 29), ("index", 30, 16.0, 17), ("index", 20, 16.0, 11),
        ("timestep", 50, 16.0, 29), ("timestep", 30, 16.0, 20), ("timestep", 20, 16.0, 14),
        ("index", 50, 5.0, 29), ("timestep", 50, 5.0, 36), ("timestep", 20, 5.0, 17),
    ],
)  # fmt: skip
def test_computed_steps_of_the_vace_list(ratios, num_steps, shift, computed):
    """By index as the authors' script decides (its counts, at its own schedule); by timestep at the run's."""
    config = MagCacheConfig(magcache_ratios=ratios)
    plan = MODE.plan(schedule(num_steps, shift), config, context(load_calibration(VACE)), Branch.COND)
    assert decision_string(plan).count("F") == computed


def test_a_list_of_unknown_conditions_is_read_by_index():
    calibration = Calibration("m", "", magcache={"cond": (1.0, 0.9, 0.8)})
    assert run_ratios(schedule(5, 3.0), MagCacheConfig(), calibration, Branch.COND) == [1.0, 1.0, 0.9, 0.8, 0.8]


def test_differences_are_named():
    measured = Conditions(50, 16.0, 5.0, "unipc")
    run = Conditions(50, 5.0, 1.0, "euler")
    assert differences(measured, run) == [
        "shift 5, not 16",
        "guidance 1, not 5",
        "sampler euler, not unipc",
        "3 of 50 steps outside its timesteps 1000 to 246",
    ]
    assert differences(measured, measured) == []
    assert differences(measured, Conditions(20, 16.0, 5.0, "unipc")) == []
    assert differences(Conditions(), run) == differences(run, Conditions()) == []


def test_a_doubt_names_the_command_that_mends_it():
    need = CalibrationNeed(VACE, asked=VACE)
    run = need.conditions(flow_timesteps(30, 5.0), 5.0, 5.0)
    (doubt,) = doubts(need.load(), "magcache", run, {})
    assert "shift 16" in doubt and "not stated by the authors" in doubt and "shift 5, not 16" in doubt
    assert f"python -m hetcache.calibrate --model {VACE} --steps 30 --sigma-shift 5 --cfg-scale 5" in doubt
    assert "\n" not in doubt


def test_the_embedded_model_at_its_own_conditions_gives_no_doubt():
    need = CalibrationNeed("tiny", asked="tiny")
    calibration = need.load()
    timesteps = calibration.drift.timesteps
    for part in ("magcache", "drift"):
        assert doubts(calibration, part, need.conditions(timesteps, 5.0, 2.0), {}) == []
        (doubt,) = doubts(calibration, part, need.conditions(flow_timesteps(50, 3.0), 3.0), {})
        assert "shift 3, not 5" in doubt and "1 of 50 steps outside" in doubt


def test_a_signal_outside_the_fitted_range_is_a_doubt():
    calibration = Calibration("m", "", {"e": Rescale((1.0, 0.0), domain=(0.1, 0.2))})
    inside, outside = {"e": (0.0, 0.1, 0.2)}, {"e": (0.0, 0.05, 0.15, 0.3)}
    assert doubts(calibration, "e", Conditions(), inside) == []
    assert "signal e outside the fitted range at 2 of its steps" in doubts(calibration, "e", Conditions(), outside)[0]
    mode = MODES["pab_teacache"]
    config = mode.config(teacache_signal="e")
    assert len(mode.doubts(config, context(calibration), Conditions(), Schedule((3.0, 2.0, 1.0, 0.5), outside))) == 1
    assert MODES["easycache"].doubts(MODES["easycache"].config(), None, Conditions(), schedule(4, 5.0)) == []


@pytest.mark.parametrize(
    "mode, model, expected",
    [
        ("teacache", VACE, ("e", 0.05)),
        ("teacache_fast", VACE, ("e", 0.08)),
        ("teacache", "wan2.1-vace-14b", ("e0", 0.1)),
        ("teacache_slow", "wan2.1-vace-14b", ("e0", 0.1)),
        ("teacache_fast", "wan2.1-vace-14b", ("e0", 0.2)),
        ("teacache", "tiny", ("e", 0.05)),
        ("teacache_fast", "tiny", ("e", 0.08)),
    ],
)
def test_teacache_takes_the_authors_point_for_the_model(mode, model, expected):
    chosen = MODES[mode]
    settled = chosen.settle(chosen.config(**chosen.defaults), context(load_calibration(model)))
    assert (settled.teacache_signal, settled.cache_thresh) == expected
    given = chosen.settle(TeaCacheConfig(0.3, "e"), context(load_calibration(model)))
    assert (given.teacache_signal, given.cache_thresh) == ("e", 0.3)
    if model == "wan2.1-vace-14b":
        other = chosen.settle(TeaCacheConfig(teacache_signal="e"), context(load_calibration(model)))
        assert other.cache_thresh == 0.14


def test_magcache_takes_the_authors_point_for_the_model():
    def point(model, **given):
        config = MODE.settle(MagCacheConfig(**given), context(load_calibration(model)))
        return config.magcache_thresh, config.magcache_max_skips

    assert point(VACE) == point("tiny") == (0.02, 3)
    assert point("wan2.1-vace-14b") == point("wan2.1-t2v-14b") == (0.24, 6)
    assert point("wan2.1-vace-14b", magcache_max_skips=2) == (0.24, 2)


@pytest.mark.parametrize("own", [{"signal": "e"}, {"signal": "e", "slow": 0.1}, {"signal": "x", "slow": {"x": 0.1}}])
def test_incomplete_thresholds_are_refused_by_name(own):
    calibration = Calibration("m", "", defaults={"teacache": own})
    with pytest.raises(CalibrationError, match="calibration of 'm': defaults of teacache"):
        TEACACHE.settle(TeaCacheConfig(), context(calibration))


def test_the_plan_is_made_of_the_settled_config():
    """Also where nobody settled it before: library and benchmark call the plan alone."""
    ratios = (1.0,) * 50
    calibration = Calibration("m", "", magcache={"cond": ratios}, defaults={"magcache": {"magcache_thresh": 0.5,
                              "magcache_max_skips": 9}})  # fmt: skip
    plan = MODE.plan(schedule(50, 5.0), MagCacheConfig(), context(calibration), Branch.COND)
    assert plan == plan_magcache(schedule(50, 5.0), MagCacheConfig(0.5, 9), ratios)
    run = Schedule((3.0, 2.0, 1.0), {"e0": (0.0, 0.1, 0.1), "e": (0.0, 0.1, 0.1)})
    published = {"signal": "e0", "slow": {"e0": 0.4}, "fast": {"e0": 9.0}}
    calibration = Calibration("m", "", {"e0": Rescale((1.0, 0.0))}, defaults={"teacache": published})
    plan = TEACACHE.plan(run, TeaCacheConfig(), context(calibration), Branch.COND)
    assert {decision.reason for decision in plan} == {"first steps"}


def test_a_published_list_that_is_not_here_is_named():
    with pytest.raises(CalibrationError, match="the authors publish them, .*MagCache4Wan2.1.*list for VACE-14B"):
        load_calibration("wan2.1-vace-14b").magnitude_ratios(Branch.COND)


def test_conditions_that_are_no_numbers_are_refused(tmp_path):
    file = tmp_path / "m.json"
    file.write_text('{"schema": 1, "model": "m", "magcache_on": {"steps": "many"}}')
    with pytest.raises(CalibrationError, match="not a calibration file"):
        load_calibration("m", file)


def test_a_pipeline_of_ones_own_warns_once(pipe, call_kwargs):
    from hetcache.run.enable import enable_cache

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with enable_cache(pipe, "magcache", model_id="tiny") as session:
            pipe(**{**call_kwargs, "num_inference_steps": 4, "sigma_shift": 0.2, "progress_bar_cmd": session.steps})
    told = [str(each.message) for each in caught if "hetcache.calibrate" in str(each.message)]
    assert len(told) == 1 and "1 of 4 steps outside its timesteps 1000 to 93" in told[0]
