"""Runs of HetCache with a given decision string, on the fixture's pipeline."""

from __future__ import annotations

import torch

from diffsynth_patches.apply import patched
from hetcache.core.drift import IDENTITY
from hetcache.core.lead import Planned
from hetcache.core.session import CacheSession
from hetcache.core.tokens import classify
from hetcache.core.vocabulary import Compute, Decision
from hetcache.method.config import HetCacheConfig
from hetcache.method.hetcache import CompactTokens
from hetcache.method.plan import plan_hetcache
from hetcache.method.selector import TokenSelector

# On the fixture's random time embedding e0 changes by some tenths a step: these give F, P and R in six steps.
DEFAULTS = {
    "cache_thresh": 0.3,
    "margin_width": 1,
    "decision_rule": "dual",
    "refresh_band": 8.0,
    "last_full": True,
    "context_kv": "cached",
    "forecast": 0,
}


def hetcache_session(mask_THW, decisions=None, **settings):
    config = HetCacheConfig(**{**DEFAULTS, **settings})
    classes = classify(torch.from_numpy(mask_THW), config.margin_width, 0)
    selector = TokenSelector(classes, config.selection())

    def scripted(branch, schedule):
        """HetCache with a given decision string, so that a test says which steps it means."""
        plan = plan_hetcache(schedule, config, IDENTITY)
        if decisions is not None:
            by_letter = {compute.value: compute for compute in Compute}
            plan = [Decision(by_letter[c], "scripted") for c, _ in zip(decisions, plan, strict=True)]
        return CompactTokens(config, selector, Planned(plan), branch)

    return CacheSession(scripted)


def run(pipe, kwargs, session):
    with patched(pipe, session):
        return pipe(**{**kwargs, "progress_bar_cmd": session.steps})
