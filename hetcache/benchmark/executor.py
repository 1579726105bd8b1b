"""Runs the cells of a benchmark on one loaded pipeline. The order, the table and the page are hetcache's."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hetcache.benchmark import quality
from hetcache.benchmark.cells import Case, Cell, Record, Store
from hetcache.benchmark.methods import BASELINE, Method
from hetcache.core.calibration import Calibration
from hetcache.core.facts import hardware
from hetcache.core.mode import ManagerFactory, Mode, RunContext
from hetcache.core.options import EditSettings
from hetcache.core.session import Observer
from hetcache.media.clip import Clip, read_clip
from hetcache.media.read import probe
from hetcache.media.write import write_video
from hetcache.method.config import HetCacheConfig
from hetcache.method.replay import replayed
from hetcache.method.selector import TokenSelector
from hetcache.metrics.registry import ReadyView
from hetcache.models import ModelInfo
from hetcache.models.backend import EditResult, Pipeline
from hetcache.modes import MODES
from hetcache.modes.exact import Ground, as_measured, at_speedup, check_exact
from hetcache.modes.planning import branches_of, check_cfg_batch
from hetcache.report.tokens import token_map
from hetcache.run.exact import tables_for
from hetcache.run.record import SCHEMA, session_facts, timing_s

Frames = NDArray[np.uint8]
Progress = Callable[[int, str], AbstractContextManager[Observer | None]]


@dataclass(frozen=True)
class BenchSettings:
    """`size` (height, width) None: the model's own area at the video's aspect. `decisions` replaces HetCache's own
    decisions by those of a string, one letter a step, for models whose weights are random; `model` is the model as it
    was asked for, None for random weights, which no calibration fits."""

    edit: EditSettings
    num_frames: int
    size: tuple[int | None, int | None] = (None, None)
    decisions: str | None = None
    model: str | None = None


class LazyPipeline:
    """Loads the pipeline at the first use: a benchmark whose cells are all finished needs none."""

    def __init__(self, load: Callable[[], Pipeline]) -> None:
        self._load = load
        self._pipeline: Pipeline | None = None

    def __call__(self) -> Pipeline:
        if self._pipeline is None:
            self._pipeline = self._load()
        return self._pipeline


class Bench:
    """Executor of `hetcache.benchmark.runner` for one pipeline."""

    def __init__(
        self,
        pipeline: LazyPipeline,
        info: ModelInfo,
        settings: BenchSettings,
        store: Store,
        progress: Progress,
        ready: ReadyView | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._info = info
        self._settings = settings
        self._store = store
        self._progress = progress
        self._ready = ready or {}
        self._clip: tuple[Case, Clip] | None = None
        self._calibration: Calibration | None = None

    def warm_up(self, case: Case) -> None:
        self._edit(case, Method(BASELINE, BASELINE), replace(self._settings.edit, num_steps=1), "warm-up")

    def run(self, cell: Cell, num_steps: int) -> tuple[Record, Frames]:
        """See `hetcache.benchmark.runner.Executor`."""
        edit = replace(self._settings.edit, num_steps=num_steps, seed=cell.seed)
        _forget_peak_memory()
        try:
            result, context, config = self._edit(cell.case, cell.method, edit, cell.method.name)
        finally:
            # A failed cell's tensors must not count against the next one.
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        session = result.session
        record: Record = {
            "schema": SCHEMA,
            "mode": cell.method.mode,
            "model": self._info.model_id,
            "seed": cell.seed,
            "config": {
                **asdict(config),
                **asdict(edit),
                "frames": self._settings.num_frames,
                "height": result.frames_THWC.shape[1],
                "width": result.frames_THWC.shape[2],
                "dtype": result.dtype,
            },
            "hardware": hardware(result.device),
            "timing_s": timing_s(session.stage_ms, 0.0, 0.0, sum(session.stage_ms.values()) / 1e3),
            **session_facts(session, context.classes),
            "peak_memory_gib": round(result.peak_memory_gib, 3),
            "doubts": self._doubts(MODES[cell.method.mode], config, context, edit),
        }
        if session.trace.plans:
            record["token_map"] = token_map(context.classes, session.trace.plans)
        return record, result.frames_THWC

    def judge(self, cell: Cell, frames: Frames, baseline: Frames | None) -> Record:
        if self._settings.decisions is not None:
            return {}
        clip = self.clip(cell.case)
        return dict(quality.judge(frames, baseline, clip.frames_THWC, clip.mask_THW, self._ready))

    def save_video(self, cell: Cell, frames: Frames) -> None:
        write_video(self._store.video(cell), frames, self.clip(cell.case).fps)

    def clip(self, case: Case) -> Clip:
        """The video at the model's size; the last one is kept."""
        if self._clip is None or self._clip[0] != case:
            source = probe(case.video)
            height, width = self._info.default_size(source.height, source.width)
            size = (self._settings.size[0] or height, self._settings.size[1] or width)
            self._clip = (case, read_clip(case.video, case.mask, self._settings.num_frames, size))
        return self._clip[1]

    def _edit(self, case: Case, method: Method, edit: EditSettings, label: str) -> tuple[EditResult, RunContext, Any]:
        """(result, what the mode knew, its config for this model)."""
        clip, config, pipeline, mode = self.clip(case), method.config(), self._pipeline(), MODES[method.mode]
        mask_THW = torch.from_numpy(clip.mask_THW).to(pipeline.device)
        context = RunContext.of(mask_THW, self._load_calibration, mode.margin_width(config))
        config = mode.settle(config, context)
        mode.check_model(config, pipeline.shape(edit))
        if method.exact is not None:
            config = self._planned(mode, config, context, edit, method.exact)
        if edit.cfg_batch:
            check_cfg_batch(mode, config, context, pipeline.schedule(edit))
        with self._progress(edit.num_steps, label) as observe:
            factory = self._factory(method, config, context)
            return pipeline.edit(clip, factory, edit, observe), context, config

    def _planned(self, mode: Mode, config: Any, context: RunContext, edit: EditSettings, speedup: float) -> Any:
        """The config with the exact plan for that speed-up. Raises ValueError where there is none."""
        if self._settings.model is None:
            raise ValueError("an exact plan is made with a model's error tables, and these weights are random")
        check_exact(mode, config)
        assert edit.cfg_scale is not None
        tables = tables_for(self._info, self._settings.model, edit.cfg_scale, config, context)
        schedule, shape = self._pipeline().schedule(edit), self._pipeline().shape(edit)
        measured, branches = as_measured(config, tables), branches_of(edit.cfg_scale)
        ground = Ground(mode, measured, context, schedule, shape, branches, tables)
        return ground.run(at_speedup(ground, speedup))[0]

    def _doubts(self, mode: Mode, config: Any, context: RunContext, edit: EditSettings) -> list[str]:
        if not mode.calibrated(config) or self._settings.decisions is not None:
            return []
        schedule = self._pipeline().schedule(edit)
        need = self._info.calibration(self._settings.model)
        run = need.conditions(schedule.timesteps, edit.sigma_shift, edit.cfg_scale)
        return mode.doubts(config, context, run, schedule)

    def _factory(self, method: Method, config: Any, context: RunContext) -> ManagerFactory:
        letters = self._settings.decisions
        if letters is None or method.mode == BASELINE:
            return MODES[method.mode].build(config, context)
        if not isinstance(config, HetCacheConfig):
            raise ValueError(f"{method.mode}: its decisions come from the weights, and these are random")
        selector = TokenSelector(context.classes, config.selection())
        return replayed(config, selector, letters)

    def _load_calibration(self) -> Calibration:
        """Read once: a file that changes during a benchmark must not divide it into two."""
        if self._calibration is None:
            self._calibration = self._info.calibration(self._settings.model).load()
        return self._calibration


def _forget_peak_memory() -> None:
    """Lower the process's peak resident memory to what it holds now, where the system can do that (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
