"""Editor: a loaded pipeline that edits clips under a mode, within the memory that there is."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeVar

import torch

from hetcache.core.flops import ModelShape
from hetcache.core.mode import Mode, RunContext
from hetcache.core.options import EditSettings
from hetcache.core.ranks import ranks_of
from hetcache.core.session import now_ms
from hetcache.core.vocabulary import Schedule
from hetcache.files import UserError
from hetcache.media.clip import Clip
from hetcache.models.backend import EditResult, LoadOptions, Pipeline, backend, must_tile
from hetcache.modes.budget import GIB, as_before, fit_to_budget
from hetcache.modes.planning import branches_of
from hetcache.run.job import Job
from hetcache.run.progress import StepBar
from hetcache.run.studio import Studio
from hetcache.run.turns import Turns, Wait

T = TypeVar("T")

KEPT_FREE = 0.8
CACHED_SHARE = 0.5
"""Of what is free beside the weights, unless `--cache-budget-gib` says otherwise; steps and the VAE need the rest."""
HALF = "half of the GPU's free memory"
IN_TURNS = "step by step, in turn"
SMALLER = "a smaller --height and --width, fewer --frames or a smaller --window"


class OutOfMemoryError(UserError):
    """The GPU is too small for these settings; the message says which to change."""


class Editor:
    """Loads the job's pipeline at once, if `studio` does not hold it, and settles `--vae-tiling auto` for all its
    edits. When CUDA runs out of memory, it goes on once with the VAE in tiles and the weights offloaded, and keeps
    these; `notes` says so, for the record, and `planned` what an exact plan promises. `kept`: the settings of
    the windows that were finished before, with which a resumed run goes on. Raises ValueError for weights that cannot
    be loaded, OutOfMemoryError for a GPU that is too small even so.
    """

    def __init__(self, job: Job, studio: Studio | None = None, kept: Mapping[str, Any] | None = None) -> None:
        self._job = job
        self._kept = kept
        self._studio = studio or Studio()
        self._vram = job.vram
        self._tiled = job.settings.vae_tiling == "on"
        self._has_retried = False
        self.notes: list[str] = []
        self.planned: dict[str, Any] = {}
        self._backend = backend(job.info.backend)
        if job.settings.compile:
            self._backend.check_compile(job.device)
        start_ms = now_ms()
        self._pipeline: Pipeline | None = None
        try:
            self._pipeline = self._load()
        except torch.cuda.OutOfMemoryError:
            self._has_retried = True
        if self._pipeline is None:
            self._make_room()
        self._tiled = self._tiled or must_tile(job.settings.vae_tiling, *job.clip.size, job.device)
        self.load_s = (now_ms() - start_ms) / 1e3

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline that is loaded now."""
        assert self._pipeline is not None
        return self._pipeline

    @cached_property
    def schedule(self) -> tuple[Schedule, ModelShape]:
        """The run's timesteps with their static signals, and the model's dimensions."""
        settings = self._job.settings
        return self.pipeline.schedule(settings), self.pipeline.shape(settings)

    def within_budget(self, mode: Mode, config: Any, context: RunContext) -> Any:
        """The config that keeps to `--cache-budget-gib`; without one, on a GPU, a mode that can do with less keeps to
        half of what is free, with several processes where that is least, so that all take the same; windows that were
        finished before have settled it. What it gave up is in `notes`. Raises ValueError."""
        job = self._job
        budget_gib, kept, unasked = job.settings.cache_budget_gib, None, ""
        if budget_gib is None:
            if not job.device.startswith("cuda") or not mode.lighter(config):
                return config
            ranks = ranks_of(job.settings.parallel, job.settings.parallel_timeout)
            unasked = HALF
            budget_gib = CACHED_SHARE * min(ranks.gather(torch.cuda.mem_get_info(job.device)[0])) / GIB
            kept = self._kept
            config = config if kept is None else as_before(mode, config, kept)
        num_branches = len(branches_of(job.settings.cfg_scale))
        _, shape = self.schedule
        fitted, reasons = fit_to_budget(
            mode, config, budget_gib, shape, context.num_tokens, job.dtype.itemsize, num_branches, unasked
        )
        if kept is not None and fitted != config:
            raise UserError(
                "--resume: the cache that the finished windows were made with is more than half of the GPU's free "
                f"memory now, {budget_gib:.4g} GiB: free memory there, or delete the finished windows to start over"
            )
        self.notes += reasons
        return fitted

    def doubt(self, mode: Mode, config: Any, context: RunContext) -> None:
        """Note where the model's calibration was measured under other conditions than the run's."""
        settings, schedule = self._job.settings, self.schedule[0]
        need = self._job.info.calibration(self._job.model)
        run = need.conditions(schedule.timesteps, settings.sigma_shift, settings.cfg_scale)
        self.notes += mode.doubts(config, context, run, schedule)

    def edit(
        self, clip: Clip, mode: Mode, config: Any, context: RunContext, settings: EditSettings, label: str
    ) -> EditResult:
        """Raises OutOfMemoryError when the GPU is too small even so."""
        return self.within_memory(lambda: self._edit(clip, mode, config, context, settings, label))

    def within_memory(self, edit: Callable[[], T]) -> T:
        """What `edit` gives, which runs `pipeline` with `settled` settings and begins anew when it is called again:
        once, with more room, after CUDA ran out of memory. Raises OutOfMemoryError when that is too little."""
        try:
            with self._told():
                return edit()
        except torch.cuda.OutOfMemoryError:
            if self._has_retried:
                raise OutOfMemoryError(self._remedy()) from None
            self._has_retried = True
        self._make_room()
        try:
            with self._told():
                return edit()
        except torch.cuda.OutOfMemoryError:
            raise OutOfMemoryError(self._remedy()) from None

    def settled(self, settings: EditSettings) -> EditSettings:
        """The settings with the tiling that was settled; weights that move are not compiled."""
        is_compiled = settings.compile and self._vram.limit_gib is None
        return replace(settings, vae_tiling="on" if self._tiled else "off", compile=is_compiled)

    def edit_in_turns(
        self, clip: Clip, runs: Sequence[tuple[Mode, Any]], context: RunContext, settings: EditSettings
    ) -> tuple[list[EditResult], str]:
        """(results of two modes with their configs whose steps were computed in turn, how they were timed). No results
        where that cannot be; the text then says why."""
        refused = self._why_not_in_turns(settings)
        if refused:
            return [], refused

        def run(number: int) -> Callable[[Wait], EditResult]:
            def play(wait: Wait) -> EditResult:
                pipeline, (mode, config) = self.pipeline.taking_turns(wait), runs[number]
                assert pipeline is not None
                # Two bars would write over each other, and both runs are at the same step.
                label = f"{mode.name} and {runs[1][0].name}" if number == 0 else ""
                return self._edit(clip, mode, config, context, settings, label, pipeline)

            return play

        try:
            return list(Turns[EditResult]().run(run(0), run(1))), IN_TURNS
        except (torch.cuda.OutOfMemoryError, OutOfMemoryError):
            return [], "memory does not hold both"

    def _why_not_in_turns(self, settings: EditSettings) -> str:
        if settings.compile or settings.parallel != "off":
            return "not with --compile or --parallel"
        if self._vram.limit_gib is not None:
            return "weights are offloaded"
        if self.pipeline.taking_turns(lambda: None) is None:
            return f"not with {self._job.info.backend}"
        return ""

    def _edit(
        self,
        clip: Clip,
        mode: Mode,
        config: Any,
        context: RunContext,
        settings: EditSettings,
        label: str,
        pipeline: Pipeline | None = None,
    ) -> EditResult:
        with self._told(), StepBar(settings.num_steps, label) as bar:
            return (pipeline or self.pipeline).edit(
                clip, mode.build(config, context), self.settled(settings), self._studio.observer(bar.observe)
            )

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn a CPU's full memory into an OutOfMemoryError."""
        try:
            yield
        except RuntimeError as error:
            # What torch raises when a CPU's memory is full has no class of its own.
            if "DefaultCPUAllocator" not in str(error):
                raise
            raise OutOfMemoryError(f"out of memory at {self._size()}: use {SMALLER}") from None

    def _make_room(self) -> None:
        """Load again with offloading, within what is free once the old weights are gone."""
        self._pipeline = None
        self._studio.clear()
        gc.collect()
        torch.cuda.empty_cache()
        if self._vram.limit_gib is None:
            free_bytes, _ = torch.cuda.mem_get_info(self._job.device)
            self._vram = replace(self._vram, limit_gib=KEPT_FREE * free_bytes / GIB)
        self._tiled = True
        without = " and without --compile" if self._job.settings.compile else ""
        self.notes.append(
            f"CUDA ran out of memory: tried again with --vae-tiling on --vram-limit {self._vram.limit_gib:.1f}{without}"
        )
        try:
            self._pipeline = self._load()
        except torch.cuda.OutOfMemoryError:
            raise OutOfMemoryError(self._remedy()) from None

    def _load(self) -> Pipeline:
        job = self._job
        options = LoadOptions(job.device, job.dtype, job.settings.prompts, self._vram, job.revision, job.huggingface)
        try:
            return self._studio.pipeline(self._backend, job.model, options)
        except (torch.cuda.OutOfMemoryError, MemoryError, ValueError, OSError):
            raise
        except Exception as error:
            # Hubs and weight readers raise errors of their own for damaged files and failed downloads.
            raise ValueError(f"--model {job.model}: cannot be loaded ({error}); fetch its files again") from error

    def _remedy(self) -> str:
        return (
            f"CUDA is out of memory at {self._size()}, also with --vae-tiling on and --vram-limit "
            f"{self._vram.limit_gib:.1f}: use {SMALLER}, --fp8-storage, or --context-kv sampled in --mode hetcache"
        )

    def _size(self) -> str:
        height, width = self._job.clip.size
        return f"{width}x{height} and {self._job.clip.num_frames} frames"
