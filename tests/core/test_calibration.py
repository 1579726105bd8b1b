"""Calibrations: loaded by model id or refused, fitted from measurements, and used for other step counts."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from replay import build, record, replay
from toys import toy_config

from baselines.fastcache import BlockGate, FastCacheConfig
from diffsynth_patches.tiny import build_tiny_pipeline, save_tiny_weights
from hetcache.calibrate import command as calibrate
from hetcache.calibrate.measure import (
    BranchMeasurements,
    MeasuringManager,
    change_curve,
    fit_polynomial,
    gram,
    time_curve,
)
from hetcache.core.calibration import CalibrationError, load_calibration
from hetcache.core.calibration_files import calibration_digest, own_calibration_file
from hetcache.core.drift import ChangeCurve, Rescale
from hetcache.core.facts import weights_fingerprint
from hetcache.core.linear_maps import LinearFit, LinearMap, LinearMaps, load_linear_maps, save_linear_maps
from hetcache.core.time_curve import forecast_weights
from hetcache.core.vocabulary import Branch, Schedule
from hetcache.files import CALIBRATIONS

TOY = dict(num_layers=2, vace_layers=(0,))
PUBLISHED = sorted(path.stem for path in CALIBRATIONS.glob("wan*.json"))


@pytest.mark.parametrize("model", PUBLISHED)
def test_published_calibrations_load_and_say_where_they_come_from(model):
    calibration = load_calibration(model)
    assert calibration.model == model and "TeaCache4Wan2.1" in calibration.source
    for signal in ("e0", "e"):
        assert len(calibration.rescale(signal).coefficients) == 5
    assert calibration.drift is None and calibration.linear_maps() is None
    assert calibration.estimator() is calibration.rescale("e0")


def test_published_ratios_are_there_for_the_models_that_have_them():
    assert {m for m in PUBLISHED if load_calibration(m).magcache} == {"wan2.1-vace-1.3b", "wan2.1-t2v-1.3b"}
    vace = load_calibration("wan2.1-vace-1.3b")
    assert vace.magnitude_ratios(Branch.UNCOND) == vace.magnitude_ratios(Branch.COND)
    with pytest.raises(CalibrationError, match="magnitude ratios: run python -m hetcache.calibrate --model wan2.1"):
        load_calibration("wan2.1-t2v-14b").magnitude_ratios(Branch.COND)


def write(path, **changes):
    data = {"schema": 1, "model": "m", "source": "test", "teacache": {"e0": {"coefficients": [1.0, 0.0]}}}
    path.write_text(json.dumps({**data, **changes}))
    return path


def test_another_models_calibration_is_never_used(tmp_path):
    with pytest.raises(CalibrationError, match=r"no calibration for model 'x'.*hetcache.calibrate --model x"):
        load_calibration("x")
    with pytest.raises(CalibrationError, match="made for model 'm', not for 'x'"):
        load_calibration("x", write(tmp_path / "m.json"))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"schema": 2}, "schema 2; this version reads 1"),
        ({"teacache": {"e0": {}}}, "not a calibration file"),
        ({"teacache": {"e0": {"coefficients": []}}}, "at least one coefficient"),
        ({"drift": {"timesteps": [5.0, 6.0], "cumulative": [0.0, 1.0]}}, "must fall"),
        ({"drift": {"timesteps": [6.0, 5.0], "cumulative": [1.0, 0.0]}}, "must not fall"),
        ({"magcache": {"cond": [1.0]}}, "two or more positive numbers"),
        ({"fastcache": {"file": "../x.safetensors"}}, "beside the calibration file"),
    ],
)
def test_broken_files_are_refused(tmp_path, changes, message):
    with pytest.raises(CalibrationError, match=message):
        load_calibration("m", write(tmp_path / "m.json", **changes))


def test_a_missing_signal_names_the_command(tmp_path):
    calibration = load_calibration("m", write(tmp_path / "m.json"))
    with pytest.raises(CalibrationError, match="signal 'e': run python -m hetcache.calibrate --model m"):
        calibration.rescale("e")


def test_linear_maps_of_another_model_are_refused(tmp_path):
    one = LinearMap(torch.ones(3, 1), torch.ones(1, 3), torch.ones(3))
    save_linear_maps(tmp_path / "m.safetensors", LinearMaps("other", {("dit", 0): one}))
    file = write(tmp_path / "m.json", fastcache={"file": "m.safetensors"})
    with pytest.raises(CalibrationError, match="linear maps of 'other', not of 'm'"):
        load_calibration("m", file).linear_maps()
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    for unread in ("gone", "broken"):
        with pytest.raises(CalibrationError, match=f"{unread}.safetensors holds no linear maps"):
            load_calibration("m", write(tmp_path / "n.json", fastcache={"file": f"{unread}.safetensors"})).linear_maps()


def test_a_calibration_of_other_weights_is_refused(model_folder, tmp_path):
    """By name, with the command; wherever the weights lie, and however the folder is called."""
    made_with = weights_fingerprint(str(model_folder))
    file = write(tmp_path / "m.json", weights=made_with)
    load_calibration("m", file, str(model_folder))
    copied = tmp_path / "copy"
    shutil.copytree(model_folder, copied)
    load_calibration("m", file, str(copied))
    other = toy_config(**TOY)
    save_tiny_weights(build_tiny_pipeline(other, seed=1), other, copied, {})
    with pytest.raises(
        CalibrationError, match=rf"m.json .*{made_with}.*run python -m hetcache.calibrate --model {copied}"
    ):
        load_calibration("m", file, str(copied))
    # Neither a published calibration nor a model on a hub says which weights are meant: the model's name does.
    load_calibration("m", write(tmp_path / "p.json"), str(copied))
    load_calibration("m", file, "wan2.1-vace-1.3b")


def test_a_models_own_folder_brings_its_calibration(model_folder, tmp_path):
    """Read there first; and that is where a new one is written, so that the package's is left alone."""
    folder = tmp_path / "own"
    shutil.copytree(model_folder, folder)
    with pytest.raises(CalibrationError, match="was made with the weights"):
        load_calibration("tiny", model=str(folder))
    mine = write(folder / "tiny.json", model="tiny", source="mine", weights=weights_fingerprint(str(folder)))
    assert own_calibration_file("tiny", str(folder)) == mine
    assert own_calibration_file("tiny", "tiny") == CALIBRATIONS / "tiny.json"
    assert load_calibration("tiny", model=str(folder)).source == "mine"
    assert calibration_digest("tiny", str(folder)) != calibration_digest("tiny", "tiny")


def test_the_embedded_models_calibration_is_of_the_committed_weights():
    assert load_calibration("tiny", model="tiny").raw["weights"] == weights_fingerprint("tiny")


def test_a_curve_sums_to_the_same_change_at_any_step_count():
    timesteps = [1000.0, 900.0, 700.0, 400.0, 100.0]
    curve = change_curve(timesteps, [0.0, 0.1, 0.1, 0.3, 0.6])
    assert curve.changes(Schedule(tuple(timesteps))) == pytest.approx((0.0, 0.1, 0.1, 0.3, 0.6))
    assert curve.changes(Schedule((1000.0, 700.0, 100.0))) == pytest.approx((0.0, 0.2, 0.9))
    assert curve.changes(Schedule((1000.0, 550.0, 100.0))) == pytest.approx((0.0, 0.35, 0.75))
    assert curve.changes(Schedule((1000.0, 50.0))) == pytest.approx((0.0, 1.2))  # the last slope goes on
    fine = Schedule(tuple(np.linspace(1000, 100, 77).tolist()))
    assert sum(curve.changes(fine)) == pytest.approx(1.1)


def test_a_curve_is_checked():
    for bad in (((1.0,), (0.0,)), ((1.0, 0.5), (0.0,))):
        with pytest.raises(ValueError, match="change curve"):
            ChangeCurve(*bad)


def test_the_polynomial_is_recovered_and_the_better_space_chosen():
    x = np.linspace(0.03, 0.15, 49)
    truth = Rescale((3.0, 0.0, 0.2, 0.1, 0.01))
    fitted, r_squared = fit_polynomial([0.0, *x], [0.0, *(truth(v) for v in x)])
    assert fitted.space == "linear" and r_squared == pytest.approx(1.0)
    assert fitted(0.1) == pytest.approx(truth(0.1), rel=1e-6)
    assert fitted(9.0) == fitted(0.15)  # clamped to what it was fitted on
    steep, r_squared = fit_polynomial([0.0, *x], [0.0, *np.exp(60 * np.log(x) + 150)])
    assert steep.space == "log" and r_squared == pytest.approx(1.0)


def test_the_curve_of_time_keeps_the_distances_between_steps_and_carries_forecasts():
    """Features of three directions of time, whatever their tokens: distances are the curve's, and the weights that it
    gives forecast features that it was not measured on."""
    generator = torch.Generator().manual_seed(0)
    times = torch.linspace(1000, 50, 12, dtype=torch.float64)
    moves = [(times / 1000) ** 2, torch.sin(times / 150), torch.cos(times / 90)]

    def features(num_tokens):
        tokens = torch.randn(4, num_tokens, 5, generator=generator, dtype=torch.float64)
        return [tokens[0] + sum(float(m[i]) * t for m, t in zip(moves, tokens[1:], strict=True)) for i in range(12)]

    seen, unseen = features(3000), features(7)
    curve = time_curve(times.tolist(), [gram(seen)])
    points = torch.tensor(curve.points)
    size = torch.stack(seen).square().sum(dim=(1, 2)).mean()
    for i, j in ((0, 1), (3, 9), (11, 5)):
        moved = (seen[i] - seen[j]).square().sum() / size
        assert float((points[i] - points[j]).square().sum()) == pytest.approx(float(moved), rel=1e-6)
    assert points[:, 3:].abs().max() < 1e-6
    anchors = [times[i].item() for i in (7, 5, 2)]
    a, b = forecast_weights(curve, anchors, times[9].item())
    forecast = unseen[7] + a * (unseen[7] - unseen[5]) + b * (unseen[5] - unseen[2])
    missed = [(each - unseen[9]).norm() for each in (forecast, unseen[7])]
    assert missed[0] < 0.5 * missed[1]


def test_linear_maps_are_recovered_and_survive_the_file(tmp_path):
    torch.manual_seed(0)
    x = torch.randn(400, 6) + 2
    down, up, bias = torch.randn(6, 2), torch.randn(2, 6), torch.randn(6)
    fit = LinearFit(6)
    for rows in x.split(100):
        fit.add(rows, rows + rows @ down @ up + bias)
    solved = fit.solve(rank=2)
    torch.testing.assert_close(solved(x[None])[0], x + x @ down @ up + bias, rtol=1e-3, atol=1e-3)
    assert fit.unexplained(solved) < 1e-6 < fit.unexplained(fit.solve(rank=1))
    save_linear_maps(tmp_path / "m.safetensors", LinearMaps("m", {("vace", 3): solved}))
    loaded = load_linear_maps(tmp_path / "m.safetensors", "m").layers["vace", 3]
    torch.testing.assert_close(loaded(x[None]), solved(x[None]), rtol=1e-2, atol=2e-2)


def test_measuring_computes_what_the_baseline_does_and_records_every_step(pipe, call_kwargs, mask_THW):
    recording = record(pipe, call_kwargs, mask_THW, 5)
    expected, _ = replay(recording, build("baseline", recording))
    measured = {branch: BranchMeasurements() for branch in Branch}
    fits: dict = {}
    outputs, _ = replay(recording, lambda branch, schedule: MeasuringManager(measured[branch], schedule, fits))
    assert all(torch.equal(outputs[key], expected[key]) for key in expected)
    for run in measured.values():
        assert len(run.change) == len(run.magnitude) == 5
        assert run.change[0] == 0.0 and run.magnitude[0] == 1.0 and min(run.change[1:]) > 0
        assert len(run.schedule.timesteps) == 5
    assert sorted(fits) == [("dit", 0), ("dit", 1), ("dit", 2), ("dit", 3), ("vace", 0), ("vace", 1)]
    maps = LinearMaps("test", {layer: fit.solve(16) for layer, fit in fits.items()})
    assert all(fits[layer].unexplained(fitted) < 0.5 for layer, fitted in maps.layers.items())
    outputs, session = replay(recording, lambda branch, schedule: BlockGate(FastCacheConfig(), maps))
    assert session.trace.accelerated and session.notes()["cond"]["estimate"] == "linear maps"
    assert all(torch.isfinite(output).all() for output in outputs.values())


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    config = toy_config(**TOY)
    folder = tmp_path_factory.mktemp("model")
    save_tiny_weights(build_tiny_pipeline(config), config, folder, {})
    return folder


def arguments(model_folder, output, *extra):
    return [
        "--model",
        str(model_folder),
        "--frames",
        "5",
        "--height",
        "48",
        "--width",
        "80",
        "--steps",
        "4",
        "--device",
        "cpu",
        "--dtype",
        "float32",
        "--output",
        str(output),
        "--rank",
        "4",
        *extra,
    ]


def test_calibrate_writes_what_every_mode_needs(model_folder, tmp_path, capsys):
    assert calibrate.main(arguments(model_folder, tmp_path / "c.json")) == 0
    calibration = load_calibration("tiny", tmp_path / "c.json")
    run = Schedule(calibration.drift.timesteps, {"e": (0.0, 0.1, 0.2, 0.3), "e0": (0.0, 0.1, 0.2, 0.3)})
    for signal in ("e", "e0"):
        assert min(calibration.rescale(signal).changes(run, signal)[1:]) > 0
    assert calibration.estimator() is calibration.drift
    for branch in Branch:
        assert len(calibration.magnitude_ratios(branch)) == 4
    assert set(calibration.linear_maps().layers) == {("dit", 0), ("dit", 1), ("vace", 0)}
    assert (
        calibration.time_curve.timesteps == calibration.drift.timesteps and len(calibration.time_curve.points[0]) == 4
    )
    assert calibration.raw["measured_on"]["clips"] == ["real.mp4"]
    assert calibration.raw["weights"] == weights_fingerprint(str(model_folder))
    conditions = calibration.measured_on["magcache"]
    assert (conditions.steps, conditions.sigma_shift, conditions.cfg_scale) == (4, 5.0, 2.0)
    assert conditions.schedule() == calibration.drift.timesteps
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.fastcache.safetensors", "c.json"]


@pytest.mark.parametrize("model", ["wan2.1-vace-14b", "wan2.1-vace-14b-diffusers"])
def test_a_new_calibration_keeps_the_authors_thresholds(model):
    """They are published and not measured, for one model whatever library runs it."""
    kept = calibrate.published_defaults(model)["defaults"]
    assert kept == load_calibration("wan2.1-vace-14b").raw["defaults"]
    assert kept["magcache"] == {"magcache_thresh": 0.24, "magcache_max_skips": 6}
    assert calibrate.published_defaults("tiny") == {}


COEFFICIENTS = {
    ("wan2.1-t2v-1.3b", "e0"): (-5.21862437e4, 9.23041404e3, -5.28275948e2, 1.36987616e1, -4.99875664e-2),
    ("wan2.1-t2v-1.3b", "e"): (2.39676752e3, -1.31110545e3, 2.01331979e2, -8.29855975, 1.37887774e-1),
    ("wan2.1-t2v-14b", "e0"): (-3.03318725e5, 4.90537029e4, -2.65530556e3, 5.87365115e1, -3.15583525e-1),
    ("wan2.1-t2v-14b", "e"): (-5784.54975374, 5449.50911966, -1811.16591783, 256.27178429, -13.02252404),
    ("wan2.1-i2v-14b-480p", "e0"): (2.57151496e5, -3.54229917e4, 1.40286849e3, -1.35890334e1, 1.32517977e-1),
    ("wan2.1-i2v-14b-480p", "e"): (-3.02331670e2, 2.23948934e2, -5.25463970e1, 5.87348440, -2.01973289e-1),
    ("wan2.1-i2v-14b-720p", "e0"): (8.10705460e3, 2.13393892e3, -3.72934672e2, 1.66203073e1, -4.17769401e-2),
    ("wan2.1-i2v-14b-720p", "e"): (-114.36346466, 65.26524496, -18.82220707, 4.91518089, -0.23412683),
}
"""As TeaCache4Wan2.1 has them, typed a second time; VACE borrows T2V's of its size."""


@pytest.mark.parametrize("model, signal", COEFFICIENTS)
def test_published_coefficients_digit_by_digit(model, signal):
    assert load_calibration(model).rescale(signal).coefficients == COEFFICIENTS[model, signal]
    if "t2v" in model:
        borrowed = load_calibration(model.replace("t2v", "vace")).rescale(signal)
        assert borrowed.coefficients == COEFFICIENTS[model, signal]


def test_where_the_published_fits_of_t2v_1_3b_are_negative():
    """docs/methods.md states these ranges; a change there counts as 0."""
    for signal, inside, outside in (
        ("e", (0.1850, 0.25, 0.3104), (0.1848, 0.3106)),
        ("e0", (0.0, 0.0042, 0.1020, 0.2), (0.0044, 0.1018)),
    ):
        rescale = load_calibration("wan2.1-t2v-1.3b").rescale(signal)
        assert all(rescale(x) == 0.0 for x in inside), signal
        assert all(rescale(x) > 0.0 for x in outside), signal


def test_the_curve_of_time_alone_leaves_the_rest_as_it_is(model_folder, tmp_path, capsys):
    output = tmp_path / "c.json"
    assert calibrate.main(arguments(model_folder, output, "--time-curve", "only")) == 2
    assert "c.json not found" in capsys.readouterr().err
    assert calibrate.main(arguments(model_folder, output)) == 0
    before = json.loads(output.read_text())
    assert calibrate.main(arguments(model_folder, output, "--time-curve", "only", "--frames", "9", "--seed", "1")) == 0
    after = json.loads(output.read_text())
    assert after.pop("time_curve")["measured_on"]["frames"] == 9 != before.pop("time_curve")["measured_on"]["frames"]
    assert after == before


def test_calibrate_refuses_clips_without_masks(model_folder, tmp_path, capsys):
    code = calibrate.main(arguments(model_folder, tmp_path / "c.json", "--video", "a.mp4", "b.mp4"))
    assert code == 2 and "one mask per video" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
