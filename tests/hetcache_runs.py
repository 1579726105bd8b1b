"""Runs of HetCache with a given decision string, on the fixture's pipeline."""

from __future__ import annotations

import torch

from diffsynth_patches.apply import patched
from hetcache.core.drift import IDENTITY
from hetcache.core.session import CacheSession
from hetcache.core.tokens import classify
from hetcache.core.vocabulary import Compute
from hetcache.method.hetcache import HetCacheConfig, HetCacheManager
from hetcache.method.selector import TokenSelector

# On the fixture's random time embedding e0 changes by some tenths a step: these give F, P and R in six steps.
DEFAULTS = {"cache_thresh": 0.3, "margin_width": 1, "refresh_band": 8.0, "context_kv": "cached"}


def hetcache_session(mask_THW, decisions=None, **settings):
    config = HetCacheConfig(**{**DEFAULTS, **settings})
    classes = classify(torch.from_numpy(mask_THW), config.margin_width, 0)
    selector = TokenSelector(classes, config.selection())

    class Scripted(HetCacheManager):
        """HetCache with a given decision string, so that a test says which steps it means."""

        def begin(self, schedule):
            super().begin(schedule)
            if decisions is not None:
                by_letter = {compute.value: compute for compute in Compute}
                self._decisions = [
                    type(d)(by_letter[c], "scripted") for c, d in zip(decisions, self._decisions, strict=True)
                ]

    return CacheSession(lambda branch: Scripted(config, selector, IDENTITY))


def run(pipe, kwargs, session):
    with patched(pipe, session):
        return pipe(**{**kwargs, "progress_bar_cmd": session.steps})
