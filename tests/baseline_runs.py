"""Runs of the baseline and of any manager on the fixture's pipeline."""

from __future__ import annotations

from diffsynth_patches.apply import patched
from hetcache.core.mode import RunContext
from hetcache.core.session import CacheSession
from hetcache.modes import MODES


def run(pipe, kwargs, make_manager):
    session = CacheSession(make_manager)
    with patched(pipe, session):
        video = pipe(**{**kwargs, "progress_bar_cmd": session.steps})
    return video, session


def baseline(branch, schedule):
    mode = MODES["baseline"]
    return mode.build(mode.config(), RunContext.of(None, "none"))(branch, schedule)
