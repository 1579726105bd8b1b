"""Two runs that take turns: one computes at a time, both end whatever happens to one, edits come out bit for bit."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from long_runs import make_clip, make_mask

from hetcache.core.mode import RunContext
from hetcache.core.options import EditSettings, VramOptions
from hetcache.core.session import CacheSession
from hetcache.core.vocabulary import Schedule
from hetcache.media.clip import read_clip
from hetcache.models import model_info
from hetcache.models.backend import LoadOptions, backend
from hetcache.modes import MODES
from hetcache.run.edit import edited
from hetcache.run.editor import IN_TURNS, Editor, OutOfMemoryError
from hetcache.run.turns import StoppedError, Turns, Wait


def steps(name: str, count: int, seen: list[str]) -> Callable[[Wait], str]:
    def run(wait: Wait) -> str:
        for index in range(count):
            wait()
            seen.append(f"{name}{index}")
        wait()
        return name

    return run


def test_steps_alternate_from_the_first_on() -> None:
    seen: list[str] = []
    assert Turns[str]().run(steps("a", 3, seen), steps("b", 3, seen)) == ("a", "b")
    assert seen == ["a0", "b0", "a1", "b1", "a2", "b2"]


def test_one_that_ends_leaves_the_rest_to_the_other() -> None:
    for first, second in ((1, 4), (4, 1)):
        seen: list[str] = []
        Turns[str]().run(steps("a", first, seen), steps("b", second, seen))
        assert [name for name in seen if name[0] == "a"] == [f"a{i}" for i in range(first)]
        assert [name for name in seen if name[0] == "b"] == [f"b{i}" for i in range(second)]


def test_only_one_computes_at_a_time() -> None:
    busy = threading.Lock()

    def run(wait: Wait) -> bool:
        for _ in range(20):
            assert busy.acquire(blocking=False)
            time.sleep(0.001)
            busy.release()
            wait()
        return True

    assert Turns[bool]().run(run, run) == (True, True)


@pytest.mark.parametrize("fails", ["a", "b"])
def test_an_error_of_one_ends_the_other_and_is_raised(fails: str) -> None:
    ended: list[str] = []

    def run(name: str) -> Callable[[Wait], None]:
        def play(wait: Wait) -> None:
            try:
                for index in range(100):
                    wait()
                    if name == fails and index == 3:
                        raise ValueError(f"{name} failed")
            except StoppedError:
                ended.append(name)
                raise

        return play

    with pytest.raises(ValueError, match=f"{fails} failed"):
        Turns[None]().run(run("a"), run("b"))
    assert ended == [{"a": "b", "b": "a"}[fails]]
    assert not [thread for thread in threading.enumerate() if thread.name == "hetcache-second-run"]


@pytest.mark.parametrize("computes", ["first", "second"])
def test_ctrl_c_ends_both(computes: str) -> None:
    """Whichever computes when it comes; it reaches the main thread, which runs the first."""
    ended: list[str] = []

    def run(name: str) -> Callable[[Wait], None]:
        def play(wait: Wait) -> None:
            try:
                for index in range(200):
                    if index == 2 and name == computes:
                        signal.raise_signal(signal.SIGINT)
                    time.sleep(0.01)
                    wait()
            except StoppedError:
                ended.append(name)
                raise

        return play

    with pytest.raises(KeyboardInterrupt):
        Turns[None]().run(run("first"), run("second"))
    assert ended == ["second"]


def test_the_session_leaves_waiting_out_of_its_times() -> None:
    calls = []

    def wait() -> None:
        calls.append(session.step)
        time.sleep(0.05)

    session = CacheSession(lambda branch, schedule: None, wait=wait)  # type: ignore[arg-type, return-value]
    session.measure_schedule = lambda timesteps: Schedule(tuple(float(t) for t in timesteps))
    for _ in session.steps(torch.tensor([3.0, 2.0, 1.0])):
        time.sleep(0.01)
    assert [None if step is None else step.index for step in calls] == [None, 0, 1, 2]
    assert 30 <= session.stage_ms["denoise"] < 30 + 4 * 50


SETTINGS = EditSettings("textured still", "", 4, 2.0, 5.0, 0)
METHODS = ("hetcache", "teacache", "pab", "adacache")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What an editor asks of a job, on the embedded model."""
    folder = tmp_path_factory.mktemp("turns")
    make_clip(folder)
    make_mask(folder / "some.mp4", range(8))
    clip = read_clip(folder / "v.mp4", folder / "some.mp4", 5, (48, 64))
    info = model_info("tiny")
    return SimpleNamespace(
        model="tiny",
        device="cpu",
        dtype=torch.float32,
        settings=SETTINGS,
        clip=clip,
        info=info,
        vram=VramOptions(),
        revision=None,
        huggingface=False,
        compare=True,
    )


def context_of(job: Any, mode: str, config: Any) -> RunContext:
    mask = torch.from_numpy(job.clip.mask_THW)
    return RunContext.of(mask, job.info.calibration("tiny").load, MODES[mode].margin_width(config))


@pytest.mark.parametrize("mode", METHODS)
def test_edits_in_turn_are_those_one_after_the_other(job: Any, mode: str) -> None:
    chosen = MODES[mode]
    config = chosen.config(**dict(chosen.defaults))
    context, editor = context_of(job, mode, config), Editor(job)
    pipe = editor.pipeline.pipe  # type: ignore[attr-defined]
    before = (pipe.model_fn, pipe.unit_runner, pipe.scheduler)
    baseline = MODES["baseline"]
    runs = [(chosen, config), (baseline, baseline.config())]
    alone = [editor.edit(job.clip, each, given, context, SETTINGS, each.name) for each, given in runs]
    both, timed = editor.edit_in_turns(job.clip, runs, context, SETTINGS)
    assert timed == IN_TURNS
    for one, other in zip(alone, both, strict=True):
        assert np.array_equal(one.frames_THWC, other.frames_THWC)
        assert one.session.trace.steps_json() == other.session.trace.steps_json()
        assert one.session.cache_bytes == other.session.cache_bytes
        assert other.session.stage_ms.keys() == one.session.stage_ms.keys()
    assert (pipe.model_fn, pipe.unit_runner, pipe.scheduler) == before


def test_two_runs_in_turn_have_one_bar(job: Any, capsys: pytest.CaptureFixture[str]) -> None:
    editor, baseline = Editor(job), MODES["baseline"]
    runs = [(MODES["easycache"], MODES["easycache"].config()), (baseline, baseline.config())]
    editor.edit_in_turns(job.clip, runs, context_of(job, "baseline", baseline.config()), SETTINGS)
    bars = {
        line.split(":")[0]
        for line in capsys.readouterr().err.replace("\r", "\n").split("\n")
        if "step" in line or "%|" in line
    }
    assert bars == {"easycache and baseline"}


def test_an_error_in_mid_run_leaves_the_pipeline_as_it_was(job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    editor, baseline = Editor(job), MODES["baseline"]
    pipe, context = editor.pipeline.pipe, context_of(job, "baseline", baseline.config())  # type: ignore[attr-defined]
    before = dict(vars(pipe))

    def watch(step: Any, records: Any) -> None:
        if step.index == 1:
            raise ValueError("enough")

    monkeypatch.setattr(editor._studio, "watch", watch)
    with pytest.raises(ValueError, match="enough"):
        editor.edit_in_turns(job.clip, [(baseline, baseline.config())] * 2, context, SETTINGS)
    assert vars(pipe) == before


def both(job: Any, editor: Editor, **changes: Any) -> str:
    job = SimpleNamespace(**{**vars(job), "mode": MODES["teacache"], "settings": replace(SETTINGS, **changes)})
    config = MODES["teacache"].config()
    results, timed = edited(job, config, context_of(job, "teacache", config), editor)
    assert len(results) == 2
    return timed


def test_the_record_says_how_the_two_were_timed(job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    editor = Editor(job)
    assert both(job, editor) == IN_TURNS
    monkeypatch.setattr(type(editor.pipeline), "taking_turns", lambda self, wait: None)
    assert both(job, editor) == "one after the other: not with diffsynth"
    monkeypatch.setattr(editor, "_vram", VramOptions(limit_gib=1.0))
    assert both(job, editor) == "one after the other: weights are offloaded"


def test_what_does_not_fit_at_once_runs_one_after_the_other(job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    editor, alone = Editor(job), Editor._edit

    def edit(self: Any, *args: Any) -> Any:
        if len(args) == 7:
            raise OutOfMemoryError("out of memory")
        return alone(self, *args)

    monkeypatch.setattr(Editor, "_edit", edit)
    assert both(job, editor) == "one after the other: memory does not hold both"


def test_a_second_pipeline_shares_every_weight() -> None:
    options = LoadOptions("cpu", torch.float32, ("textured still",))
    pipeline: Any = backend("diffsynth").load("tiny", options)
    other: Any = pipeline.taking_turns(lambda: None)
    assert other.pipe is not pipeline.pipe and other.pipe.scheduler is not pipeline.pipe.scheduler
    ours, theirs = (dict(each.pipe.named_parameters()) for each in (pipeline, other))
    assert ours.keys() == theirs.keys() and all(ours[name] is theirs[name] for name in ours)
    other.pipe.scheduler.set_timesteps(3, shift=2.0)
    other.pipe.model_fn = None
    assert pipeline.pipe.model_fn is not None and not hasattr(pipeline.pipe.scheduler, "timesteps")
