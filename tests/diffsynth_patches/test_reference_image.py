"""DiffSynth's vace_reference_image adds latent frames that the mask does not cover: they are counted by themselves."""

from __future__ import annotations

import pytest
import torch
from baseline_runs import baseline, run
from hetcache_runs import hetcache_session
from PIL import Image
from pipeline_calls import SHAPE

from diffsynth_patches.apply import patched
from hetcache import enable_cache
from hetcache.core.calibration import Calibration
from hetcache.core.drift import Rescale
from hetcache.core.mode import RunContext
from hetcache.core.session import CacheSession
from hetcache.core.vocabulary import Branch
from hetcache.modes import MODES

GRID = 4 * 6
IMAGES = [
    Image.new("RGB", (SHAPE["width"], SHAPE["height"]), (200, 30, 60)),
    Image.new("RGB", (SHAPE["width"], SHAPE["height"]), (20, 230, 60)),
]

DUAL = {"cache_thresh": 1e-6, "decision_rule": "dual", "refresh_band": 1e9, "last_full": True}
"""All steps between the first and the last are partial."""


@pytest.fixture
def with_reference(call_kwargs):
    return {**call_kwargs, "vace_reference_image": IMAGES[0]}


@pytest.mark.parametrize("decisions", ["FPRPRF", "FFFFFF"])
def test_a_mode_that_was_told_of_other_tokens_is_refused_at_the_first_step(pipe, with_reference, mask_THW, decisions):
    session = hetcache_session(mask_THW, decisions)
    with (
        patched(pipe, session),
        pytest.raises(ValueError, match="mask has 72 tokens and the denoiser 96 .*1 of them .*vace_reference_image"),
    ):
        pipe(**{**with_reference, "progress_bar_cmd": session.steps})
    assert session.trace.records == []


def test_a_mask_of_more_frames_is_refused_at_the_first_step(pipe, call_kwargs):
    """It has indices that the denoiser lacks."""
    mask_THW = torch.ones(17, SHAPE["height"], SHAPE["width"], dtype=torch.bool)
    with (
        enable_cache(pipe, "hetcache", mask_THW, model_id="tiny") as session,
        pytest.raises(ValueError, match="mask has 120 tokens and the denoiser 72"),
    ):
        pipe(**{**call_kwargs, "progress_bar_cmd": session.steps})


@pytest.mark.parametrize("images", [1, 2])
def test_enable_cache_computes_the_reference_and_what_the_mask_touches(pipe, call_kwargs, mask_THW, images):
    """A partial step's rows are the reference's, all of them, and the mask's, behind them."""
    kwargs = {**call_kwargs, "vace_reference_image": IMAGES[0] if images == 1 else IMAGES}
    settings = {**DUAL, "margin_ratio": 0.0, "context_ratio": 0.0}
    with enable_cache(pipe, "hetcache", mask_THW, model_id="tiny", **settings) as session:
        pipe(**{**kwargs, "progress_bar_cmd": session.steps})
    assert session.trace.decisions(Branch.COND) == "FPPPPF"
    plan = session.trace.plans[1]
    touched = RunContext.of(torch.from_numpy(mask_THW), "tiny").classes.generative_G
    assert torch.equal(plan.rows_A, torch.cat([torch.arange(images * GRID), touched + images * GRID]))
    assert plan.num_reference == images * GRID and plan.num_tokens == (3 + images) * GRID


def test_partial_steps_of_all_tokens_equal_full_ones_behind_a_reference(pipe, with_reference, mask_THW):
    mode = MODES["hetcache"]
    config = mode.config(**DUAL, margin_ratio=1.0, context_ratio=1.0)
    toy = Calibration("toy", "", {"e": Rescale((1.0, 0.0)), "e0": Rescale((1.0, 0.0))})
    session = CacheSession(mode.build(config, RunContext.of(torch.from_numpy(mask_THW), lambda: toy)))
    with patched(pipe, session):
        video = pipe(**{**with_reference, "progress_bar_cmd": session.steps})
    assert session.trace.decisions(Branch.COND) == "FPPPPF"
    assert (video - pipe(**with_reference)).abs().max() <= 1e-5


def test_whole_steps_take_it(pipe, with_reference):
    video, _ = run(pipe, with_reference, baseline)
    assert torch.equal(video, pipe(**with_reference))


def test_whole_steps_need_no_mask(pipe, call_kwargs):
    with enable_cache(pipe, "hetcache", model_id="tiny", whole_steps_only=True, cache_thresh=0.5) as session:
        pipe(**{**call_kwargs, "progress_bar_cmd": session.steps})
    assert "R" in session.trace.decisions(Branch.COND)
    with pytest.raises(ValueError, match="works by the mask"), enable_cache(pipe, "hetcache", model_id="tiny"):
        pass
