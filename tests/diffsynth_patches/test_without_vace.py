"""DiffSynth's text-to-video models, which have no VACE branch: nothing to mask."""

from __future__ import annotations

import pytest
import torch
from baseline_runs import baseline, run

from hetcache import enable_cache
from hetcache.core.vocabulary import Branch


@pytest.fixture
def text_to_video(pipe):
    vace, pipe.vace = pipe.vace, None
    yield pipe
    del pipe.vace
    pipe.vace = vace


@pytest.fixture
def without_video(call_kwargs):
    return {**call_kwargs, "vace_video": None, "vace_video_mask": None}


def test_baseline_equals_the_unpatched_pipeline(text_to_video, without_video):
    actual, session = run(text_to_video, without_video, baseline)
    assert torch.equal(actual, text_to_video(**without_video))
    assert session.trace.work.blocks == {"dit": 12 * 4, "vace": 0}


@pytest.mark.parametrize(
    "mode, settings", [("easycache", {"easycache_thresh": 1.0, "easycache_first": 2}), ("pab", {})]
)
def test_modes_that_need_no_mask(text_to_video, without_video, mode, settings):
    with enable_cache(text_to_video, mode, **settings) as session:
        text_to_video(**{**without_video, "progress_bar_cmd": session.steps})
    assert session.trace.accelerated and len(session.trace.decisions(Branch.COND)) == 6
    assert "x fewer" in session.summary()


def test_a_second_session_on_one_pipeline_is_refused(text_to_video):
    with enable_cache(text_to_video, "pab"):
        before = text_to_video.model_fn
        with pytest.raises(ValueError, match="under a session already"):
            enable_cache(text_to_video, "easycache")
        assert text_to_video.model_fn is before
