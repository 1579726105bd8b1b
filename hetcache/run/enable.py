"""enable_cache: caching for a pipeline in somebody's own program."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

from hetcache.core.mode import ManagerFactory, Mode, RunContext
from hetcache.core.ranks import ALONE, Ranks
from hetcache.core.session import CacheSession
from hetcache.core.vocabulary import Branch, CacheManager, Schedule
from hetcache.files import UserError
from hetcache.models.backend import backend_of
from hetcache.modes import MODES
from hetcache.run.record import table


class EnabledSession(CacheSession):
    """A session that is on its pipeline from the start, until `disable` or the end of its `with` block."""

    def __init__(self, pipe: Any, mode: Mode, make_managers: Callable[[], ManagerFactory], ranks: Ranks) -> None:
        super().__init__(make_managers(), make_stage=make_managers, ranks=ranks)
        self._mode = mode
        self._patches = ExitStack()
        self._patches.enter_context(backend_of(pipe).patched(pipe, self))

    def __enter__(self) -> EnabledSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._patches.__exit__(kind, error, trace)

    def disable(self) -> None:
        """Put every attribute of the pipeline back and drop what was cached; the trace and the times stay."""
        self._patches.close()

    def summary(self) -> str:
        """What the run did, in a few lines: decisions, FLOPs against the same calls without a cache, what was kept."""
        trace = self.trace
        rows = [("mode", self._mode.name)]
        for branch in Branch:
            if trace.of(branch):
                counts = ", ".join(f"{number} {name}" for name, number in trace.counts(branch).items() if number)
                rows.append((f"steps ({branch.value})", f"{trace.decisions(branch)}  ({counts})"))
        if not trace.records:
            rows.append(("steps", "none so far"))
        elif not trace.work.flops:
            rows.append(("FLOPs", "none"))
        else:
            ratio, run, uncached = trace.flops_uncached / trace.work.flops, trace.work.flops, trace.flops_uncached
            rows.append(("FLOPs", f"{ratio:.2f}x fewer ({run / 1e12:.4g} of {uncached / 1e12:.4g} TFLOPs)"))
        rows.append(("cache", f"{self.cache_bytes / 2**20:.1f} MiB"))
        return table(rows)


def enable_cache(
    pipe: Any,
    mode: str,
    mask: Any = None,
    model_id: str | None = None,
    ranks: Ranks = ALONE,
    calibration: str | Path | None = None,
    **settings: Any,
) -> EnabledSession:
    """Run one `pipe(...)` call of DiffSynth's `WanVideoPipeline`, or of a Wan pipeline of diffusers, under a mode.

    `mask` is the edit mask at the model's size, bool or 0/1, [T, H, W], T = 4k + 1, H and W multiples of 16; modes that
    choose tokens need one. Reference images are counted by themselves. `settings` are the fields of the mode's config.
    The calibration is `model_id`'s (None: of the model that the pipeline is) or the file that `calibration` names.

        with enable_cache(pipe, "hetcache", mask, cache_thresh=0.05) as session:
            video = pipe(...)               # DiffSynth's with progress_bar_cmd=session.steps
        print(session.summary())

    Without a `with` block, `session.disable()` ends it. `ranks` are the processes that all make this very call, of
    which each computes its share: `ranks_of("cfg", 600.0)` after `torch.distributed.init_process_group`
    (docs/scale.md).

    Nothing bounds what the cache keeps, because the memory is the program's and only it knows what else it will need:
    `context_kv="sampled"`, `max_partial_run=0` or `whole_steps_only=True` keep less (docs/methods.md, hetcache).

    A calibration that was measured under other conditions than the call's warns once, with the command for another.

    Raises ValueError for an unknown mode, a bad setting, mask or calibration, and for a pipeline that cannot be cached;
    RuntimeError for an untested version of its library.
    """
    if mode not in MODES:
        raise UserError(f"unknown mode {mode!r}: choose from {', '.join(MODES)}")
    chosen = MODES[mode]
    config = chosen.config(**{**dict(chosen.defaults), **settings})
    if mask is None:
        check_maskless(chosen, config)
    library = backend_of(pipe)
    if getattr(config, "decisions", None) is not None and library.num_experts(pipe) > 1:
        raise UserError(
            "decisions: this pipeline has two experts, each begins with steps of its own and one plan says nothing of "
            "where the second takes over: leave decisions out"
        )
    mask_THW = None if mask is None else torch.as_tensor(np.asarray(mask)).to(pipe.device)
    need = library.calibration(pipe, model_id)
    context = RunContext.of(mask_THW, lambda: need.load(calibration), chosen.margin_width(config))

    def make_managers() -> ManagerFactory:
        make, is_first = chosen.build(config, context), True

        def warned(branch: Branch, schedule: Schedule) -> CacheManager:
            nonlocal is_first
            if is_first:
                is_first = False
                for doubt in chosen.doubts(config, context, need.conditions(schedule.timesteps), schedule):
                    warnings.warn(doubt, stacklevel=2)
            return make(branch, schedule)

        return warned

    return EnabledSession(pipe, chosen, make_managers, ranks)


def check_maskless(mode: Mode, config: Any) -> None:
    """Raises UserError for a mode that works by a mask, with those that do not."""
    if not mode.needs_mask or mode.maskless(config):
        return
    free = [name for name, each in MODES.items() if not each.needs_mask]
    needing = [name for name in MODES if name not in free]
    raise UserError(
        f"--mode {mode.name} works by the mask: give one, or a mode that needs none ({', '.join(free)}); "
        f"{', '.join(needing)} need one"
    )
