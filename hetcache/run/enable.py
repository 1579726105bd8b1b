"""enable_cache: caching for a pipeline in somebody's own program."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from hetcache.core.mode import ManagerFactory, RunContext
from hetcache.core.ranks import ALONE, Ranks
from hetcache.core.session import CacheSession
from hetcache.models.backend import backend_of
from hetcache.modes import MODES


@contextmanager
def enable_cache(
    pipe: Any,
    mode: str,
    mask: Any = None,
    model_id: str = "wan2.1-vace-1.3b",
    ranks: Ranks = ALONE,
    **settings: Any,
) -> Iterator[CacheSession]:
    """Run one `pipe(...)` call of a DiffSynth `WanVideoPipeline` under a caching mode.

    `mask` is the edit mask at the model's size, bool or 0/1, [T, H, W], T = 4k + 1, H and W multiples of 16; modes that
    choose tokens need one. Reference images are counted by themselves.
    `settings` are the fields of the mode's config. Pass `progress_bar_cmd=session.steps` to the pipeline:

        with enable_cache(pipe, "hetcache", mask, cache_thresh=0.05) as session:
            video = pipe(..., progress_bar_cmd=session.steps)
        print(session.trace.decisions(Branch.COND))

    `ranks` are the processes that all make this very call, of which each computes its share: `ranks_of("cfg", 600.0)`
    after `torch.distributed.init_process_group` (docs/scale.md).

    Raises ValueError for an unknown mode, a bad setting, mask or model id, and for a pipeline of another library.
    """
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r}: choose from {', '.join(MODES)}")
    chosen = MODES[mode]
    config = chosen.config(**{**dict(chosen.defaults), **settings})
    mask_THW = None if mask is None else torch.as_tensor(np.asarray(mask)).to(pipe.device)
    context = RunContext.of(mask_THW, model_id, chosen.margin_width(config))

    def make_managers() -> ManagerFactory:
        return chosen.build(config, context)

    session = CacheSession(make_managers(), make_stage=make_managers, ranks=ranks)
    with backend_of(pipe).patched(pipe, session):
        yield session
