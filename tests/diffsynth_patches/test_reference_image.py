"""DiffSynth's vace_reference_image adds latent frames that the mask does not cover."""

from __future__ import annotations

import pytest
import torch
from baseline_runs import baseline, run
from hetcache_runs import hetcache_session
from PIL import Image
from pipeline_calls import SHAPE

from diffsynth_patches.apply import patched


@pytest.fixture
def with_reference(call_kwargs):
    image = Image.new("RGB", (SHAPE["width"], SHAPE["height"]), (200, 30, 60))
    return {**call_kwargs, "vace_reference_image": image}


def test_a_mode_that_chooses_tokens_refuses_it_by_name(pipe, with_reference, mask_THW):
    session = hetcache_session(mask_THW, "FPRPRF")
    with (
        patched(pipe, session),
        pytest.raises(ValueError, match="mask has 72 tokens and the denoiser 96 .*vace_reference_image"),
    ):
        pipe(**{**with_reference, "progress_bar_cmd": session.steps})


def test_enable_cache_refuses_it_by_name(pipe, with_reference, mask_THW):
    from hetcache import enable_cache

    settings = {"whole_steps_only": False, "cache_thresh": 0.3, "refresh_band": 1e9}
    with (
        enable_cache(pipe, "hetcache", mask_THW, model_id="tiny", **settings) as session,
        pytest.raises(ValueError, match="vace_reference_image"),
    ):
        pipe(**{**with_reference, "progress_bar_cmd": session.steps})


def test_whole_steps_take_it(pipe, with_reference):
    video, _ = run(pipe, with_reference, baseline)
    assert torch.equal(video, pipe(**with_reference))
