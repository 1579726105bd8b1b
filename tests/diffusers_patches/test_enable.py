"""enable_cache on diffusers' pipelines: the user passes nothing but the pipeline, the mode and the mask."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from diffusers_runs import ALL_TOKENS, build, call, mask_THW

from hetcache import enable_cache
from hetcache.core.calibration import CalibrationError
from hetcache.core.vocabulary import Branch
from hetcache.files import ROOT


@pytest.fixture(scope="module")
def pipe():
    return build(sampler="unipc")


@pytest.fixture
def calibration(tmp_path):
    file = tmp_path / "mine.json"
    data = {
        "schema": 1,
        "model": "wan2.1-vace-48-diffusers",
        "library": "diffusers",
        "sampler": "UniPCMultistepScheduler",
        "teacache": {name: {"coefficients": [1.0, 0.0]} for name in ("e", "e0")},
    }

    def write(**changes):
        file.write_text(json.dumps(data | changes))
        return file

    return write


def test_a_with_block_and_its_summary(pipe, calibration):
    with enable_cache(pipe, "hetcache", mask_THW(), calibration=calibration(), **ALL_TOKENS) as session:
        assert "none so far" in session.summary()
        latents = call(pipe)
    assert torch.equal(latents, call(pipe))
    lines = session.summary().splitlines()
    assert lines[0].split() == ["mode", "hetcache"]
    assert "FPPPPF  (2 full, 4 partial)" in lines[1] and "(uncond)" in lines[2]
    assert "x fewer" in lines[3] and "MiB" in lines[4]


def test_without_a_with_block(pipe):
    session = enable_cache(pipe, "easycache", easycache_thresh=1.0, easycache_first=3)
    latents = call(pipe, steps=8)
    session.disable()
    assert "R" in session.trace.decisions(Branch.COND)
    assert not torch.equal(latents, call(pipe, steps=8))
    session.disable()
    assert "forward" not in vars(pipe.transformer)


def test_hetcache_needs_no_calibration_with_the_outputs_signal(pipe):
    with enable_cache(pipe, "hetcache", mask_THW(), signal="output", cache_thresh=0.5) as session:
        call(pipe, steps=8)
    assert session.trace.accelerated


def test_a_run_without_a_mask_says_which_modes_need_one(pipe):
    with pytest.raises(ValueError, match="works by the mask.*none .baseline, teacache.*hetcache_slow.* need one"):
        enable_cache(pipe, "hetcache")
    assert "forward" not in vars(pipe.transformer)


def test_a_plan_for_two_experts_is_refused_before_the_run():
    pipe = build(experts=2)
    with pytest.raises(ValueError, match="^decisions: this pipeline has two experts, .*: leave decisions out$"):
        enable_cache(pipe, "hetcache", mask_THW(), decisions="F,Px2,Rx3")
    assert "forward" not in vars(pipe.transformer)


def test_a_mask_of_another_size_is_refused_at_the_first_step(pipe):
    with (
        enable_cache(pipe, "hetcache", mask_THW()[:5], signal="output"),
        pytest.raises(ValueError, match="mask has 48 tokens and the denoiser 72"),
    ):
        call(pipe)


def test_a_calibration_of_another_kind_is_refused_with_the_command(pipe, calibration):
    with pytest.raises(CalibrationError, match="no calibration for model 'wan2.1-vace-48-diffusers'.*--model FOLDER"):
        enable_cache(pipe, "teacache")
    with pytest.raises(CalibrationError, match="made for model 'other'"):
        enable_cache(pipe, "teacache", calibration=calibration(model="other"))
    for changes, origin in (
        ({"library": "diffsynth", "sampler": ""}, "diffsynth"),
        ({"sampler": "FlowMatchEulerDiscreteScheduler"}, "diffusers with FlowMatchEulerDiscreteScheduler"),
    ):
        remedy = f"measured in {origin} and this run is diffusers with UniPCMultistepScheduler.*hetcache.calibrate"
        with pytest.raises(CalibrationError, match=remedy):
            enable_cache(pipe, "teacache", calibration=calibration(**changes))
    with enable_cache(pipe, "teacache", calibration=calibration(), cache_thresh=0.9) as session:
        call(pipe)
    assert "R" in session.trace.decisions(Branch.COND)


def test_the_published_calibrations_are_not_diffusers(pipe):
    with pytest.raises(CalibrationError, match="measured in diffsynth and this run is diffusers"):
        enable_cache(pipe, "teacache", model_id="wan2.1-vace-1.3b")


@pytest.mark.parametrize("kind", ["t2v", "i2v22", "v2v"])
def test_pipelines_without_vace_have_no_command_for_a_calibration(kind):
    pipe = build(kind)
    with pytest.raises(CalibrationError, match="no command makes one for this pipeline; .* easycache"):
        enable_cache(pipe, "teacache")
    with enable_cache(pipe, "pab") as session:
        call(pipe)
    assert session.trace.accelerated


def test_the_other_library_is_not_imported():
    code = """
import sys; sys.path.insert(0, "tests")
from diffusers_runs import build
from hetcache import enable_cache
session = enable_cache(build(), "pab")
session.disable()
assert "diffusers_patches" in sys.modules
assert not {"diffsynth", "diffsynth_patches"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_library_that_is_not_there_is_named(monkeypatch):
    from hetcache.models.backend import backend

    monkeypatch.setitem(sys.modules, "diffusers", None)
    for name in [name for name in sys.modules if name.startswith("diffusers_patches")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ValueError, match=r"diffusers is not installed: pip install 'hetcache\[diffusers\]'"):
        backend("diffusers")
