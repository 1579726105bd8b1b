"""A pipeline library is one class and one record: a toy one edits through Editor, and enable_cache finds it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from hetcache import enable_cache
from hetcache.core.calibration import CalibrationNeed
from hetcache.core.flops import ModelShape
from hetcache.core.mode import RunContext
from hetcache.core.options import EditSettings, VramOptions
from hetcache.core.session import CacheSession
from hetcache.core.vocabulary import Branch, Grid, Hidden, Schedule
from hetcache.media.clip import Clip
from hetcache.media.placement import Placement
from hetcache.models import MODELS
from hetcache.models.backend import BACKENDS, EditResult, LoadOptions, backend, backend_of
from hetcache.modes import MODES
from hetcache.run.editor import Editor

SHAPE = ModelShape(1, 1, 1, 0, 1, 1, 1, 1, 0, 1)
SETTINGS = EditSettings("a lawn", "", 4, 1.0, 5.0, 7)


class ToyPipeline:
    """Brightens what the mask covers by one level a step that is computed."""

    def __init__(self, device: str) -> None:
        self.device = device

    def shape(self, settings: EditSettings) -> ModelShape:
        return SHAPE

    def schedule(self, settings: EditSettings) -> Schedule:
        timesteps = tuple(1000.0 - index for index in range(settings.num_steps))
        return Schedule(timesteps, {"e0": (0.0, *(0.1 for _ in timesteps[1:]))})

    def edit(self, clip: Clip, make_manager: Any, settings: EditSettings, observer: Any = None) -> EditResult:
        session, frames_THWC = CacheSession(make_manager, observer), clip.frames_THWC.copy()
        session.begin(self.schedule(settings))
        while session.advance():
            x_BND = torch.zeros(1, 1, 1)
            decision = session.manager(Branch.COND).decide(
                session.step, Hidden(x_BND, x_BND, x_BND, x_BND, x_BND, Grid(1, 1, 1))
            )
            frames_THWC[clip.mask_THW] += decision.compute.value == "F"
        return EditResult(frames_THWC, session, SHAPE, 0.0, self.device, "float32")


class ToyBackend:
    """The library."""

    random_models = ()

    def load(self, model: str, options: LoadOptions) -> ToyPipeline:
        if model != "toy":
            raise OSError("no such weights")
        return ToyPipeline(options.device)

    def check_compile(self, device: str) -> None:
        raise ValueError("--compile: toys are not compiled")

    @contextmanager
    def patched(self, pipe: Any, session: CacheSession) -> Iterator[None]:
        pipe.session = session
        yield
        pipe.session = None

    def num_experts(self, pipe: Any) -> int:
        return 1

    def calibration(self, pipe: Any, model_id: str | None = None) -> CalibrationNeed:
        return CalibrationNeed(model_id or "toy")


class ToyLibraryPipeline:
    """What a user of the toy library holds."""

    device = "cpu"
    session: Any = None


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("toylib_patches")
    module.BACKEND = ToyBackend()
    monkeypatch.setitem(sys.modules, "toylib_patches", module)
    monkeypatch.setitem(BACKENDS, "toylib", "toylib_patches:BACKEND")
    monkeypatch.setattr(ToyLibraryPipeline, "__module__", "toylib.pipelines")


def job(model: str = "toy", **changes: Any) -> Any:
    frames, mask = np.zeros((5, 16, 32, 3), np.uint8), np.zeros((5, 16, 32), bool)
    mask[:, :, :16] = True
    clip = Clip(Path("v.mp4"), 12.0, frames, mask, frames, mask, Placement("stretch", (16, 32), (16, 32)))
    return SimpleNamespace(
        model=model,
        device="cpu",
        dtype=torch.float32,
        settings=replace(SETTINGS, **changes),
        clip=clip,
        info=replace(MODELS["tiny"], backend="toylib"),
        vram=VramOptions(),
        revision=None,
        huggingface=False,
    )


def test_an_edit_runs_through_editor_on_a_toy_backend(toy: None) -> None:
    asked, mode = job(), MODES["baseline"]
    editor = Editor(asked)
    context = RunContext.of(torch.from_numpy(asked.clip.mask_THW), "tiny")
    result = editor.edit(asked.clip, mode, mode.config(), context, asked.settings, "toy")
    assert result.session.trace.records == [] and result.session.step is None
    assert np.unique(result.frames_THWC[asked.clip.mask_THW]).tolist() == [4]
    assert np.unique(result.frames_THWC[~asked.clip.mask_THW]).tolist() == [0]
    schedule, shape = editor.schedule
    assert (schedule.num_steps, shape) == (4, SHAPE)
    assert editor.notes == []


def test_its_refusals_reach_the_user_as_they_are(toy: None) -> None:
    with pytest.raises(OSError, match="no such weights"):
        Editor(job("another"))
    with pytest.raises(ValueError, match="--compile: toys are not compiled"):
        Editor(job(compile=True))


def test_enable_cache_tells_the_library_by_the_pipelines_class(toy: None) -> None:
    pipe = ToyLibraryPipeline()
    mask = np.ones((5, 16, 32), bool)
    with enable_cache(pipe, "baseline", mask, model_id="tiny") as session:
        assert pipe.session is session
    assert pipe.session is None


def test_other_libraries_and_names_are_refused() -> None:
    with pytest.raises(ValueError, match="object cannot be cached: give a pipeline of diffsynth"):
        backend_of(object())
    with pytest.raises(ValueError, match="unknown backend 'toylib': choose from diffsynth"):
        backend("toylib")


def test_diffsynth_is_found_by_a_pipelines_class(pipe: Any) -> None:
    from diffsynth_patches.backend import BACKEND

    assert backend_of(pipe) is BACKEND
