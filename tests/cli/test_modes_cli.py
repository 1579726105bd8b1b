"""`inference.py --mode M` for every mode: a valid video and record from the example, on random weights."""

from __future__ import annotations

import json

import pytest
from toys import lend_calibration

import inference  # noqa: E402
from diffsynth_patches.backend import WanPipeline
from diffsynth_patches.tiny import TinyConfig, build_tiny_pipeline, save_tiny_weights
from hetcache.core.calibration import load_calibration
from hetcache.files import CALIBRATIONS
from hetcache.media.read import probe
from hetcache.modes import MODES

pytestmark = pytest.mark.skipif(
    not (CALIBRATIONS / "tiny.json").is_file() or load_calibration("tiny").drift is None,
    reason="tiny is not calibrated yet",
)


# Sixteen steps change more per step than the fifty of the defaults.
COARSE = {
    "seacache": ["--seacache-thresh", "2.0"],
    "dbcache": ["--dbcache-thresh", "0.5"],
    "teacache": ["--cache-thresh", "0.3"],
    "easycache": ["--easycache-thresh", "0.5"],
    "hetcache_paper": ["--cache-thresh", "0.5"],
}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """The committed model's shape, so that its calibration fits, with random weights."""
    folder = tmp_path_factory.mktemp("model")
    config = TinyConfig(vae_width=16, vae_encoder_depth=1, vae_decoder_depth=1, vae_refine_width=8)
    save_tiny_weights(build_tiny_pipeline(config), config, folder, {})
    lend_calibration(folder)
    return folder


@pytest.mark.parametrize("name", [name for name, mode in MODES.items() if not mode.defaults])
def test_every_mode_runs_on_the_example(model_folder, tmp_path, name):
    output = tmp_path / "out.mp4"
    code = inference.main(
        [
            "--mode",
            name,
            "--model",
            str(model_folder),
            "--device",
            "cpu",
            "--dtype",
            "float32",
            "--frames",
            "5",
            "--height",
            "48",
            "--width",
            "80",
            "--steps",
            "16",
            "--output",
            str(output),
            *COARSE.get(name, []),
        ]
    )
    assert code == 0
    assert probe(output).height == 480
    run = json.loads(output.with_suffix(".json").read_text(), parse_constant=lambda c: pytest.fail(f"{c} in JSON"))
    assert run["mode"] == name
    assert [len(run["decisions"][branch]) for branch in ("cond", "uncond")] == [16, 16]
    assert run["accelerated"] == (name != "baseline")
    assert run["flops"]["ratio"] > 1.01 or name == "baseline"


def test_a_front_that_the_model_has_not_is_refused_before_it_runs(model_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(WanPipeline, "edit", lambda *_: pytest.fail("the model ran"))
    small = ["--device", "cpu", "--frames", "5", "--height", "48", "--width", "80", "--output", str(tmp_path / "o.mp4")]
    code = inference.main(["--mode", "dbcache", "--dbcache-front", "9", "--model", str(model_folder), *small])
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert code == 2 and "--dbcache-front 9" in line and "8 DiT blocks to skip; give 7 together at most" in line
    assert not list(tmp_path.iterdir())


def test_a_schedule_that_dpcache_has_no_table_for_is_refused_in_one_line(model_folder, tmp_path, capsys):
    small = ["--device", "cpu", "--frames", "5", "--height", "48", "--width", "80", "--output", str(tmp_path / "o.mp4")]
    code = inference.main(["--mode", "dpcache", "--model", str(model_folder), "--steps", "15", *small])
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert code == 2 and f"run python -m hetcache.calibrate --model {model_folder} --paths only --steps 15" in line
    assert not list(tmp_path.iterdir())
