"""CUDA out of memory: one more try with tiling and offloading, said in the notes; then a message with the settings."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from diffsynth_patches import backend as editing
from diffsynth_patches import loader
from hetcache.core.flops import ModelShape
from hetcache.core.options import EditSettings, VramOptions
from hetcache.core.vocabulary import Branch, Step
from hetcache.modes import MODES
from hetcache.run import editor as editor_module
from hetcache.run.editor import Editor, OutOfMemoryError
from hetcache.run.step_times import time_steps

SETTINGS = EditSettings("a lawn", "", 2, 2.0, 5.0, 0)


@dataclass
class Machine:
    """A GPU on which the first `failures` edits run out of memory."""

    failures: int
    loads: list[VramOptions] = field(default_factory=list)
    tilings: list[str] = field(default_factory=list)

    def load(self, model: str, device: str, dtype: Any, prompts: Any, vram: VramOptions, revision: Any) -> Any:
        self.loads.append(vram)
        return SimpleNamespace(), None

    def run_edit(self, pipe: Any, info: Any, clip: Any, make_manager: Any, settings: Any, observer: Any) -> str:
        assert pipe is not None
        self.tilings.append(settings.vae_tiling)
        if len(self.tilings) <= self.failures:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return "edited"


def job(vram: VramOptions | None = None) -> Any:
    clip = SimpleNamespace(size=(480, 832), num_frames=81)
    return SimpleNamespace(
        model="m",
        device="cuda",
        dtype=torch.bfloat16,
        settings=SETTINGS,
        clip=clip,
        info=SimpleNamespace(backend="diffsynth"),
        vram=vram or VramOptions(),
        revision=None,
        huggingface=False,
    )


def edit(monkeypatch, failures: int, vram: VramOptions | None = None) -> tuple[Machine, Editor, Any]:
    machine = Machine(failures)
    monkeypatch.setattr(loader, "load_pipeline", machine.load)
    monkeypatch.setattr(editing, "run_edit", machine.run_edit)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * 2**30, 80 * 2**30))
    asked = job(vram)
    chosen = Editor(asked)
    mode = MODES["baseline"]
    context: Any = None
    return machine, chosen, lambda: chosen.edit(asked.clip, mode, mode.config(), context, SETTINGS, "baseline")


def test_timed_steps_are_tried_once_more_too(monkeypatch):
    """Anew: what the first try has timed does not count."""
    tilings = []

    def run_edit(pipe, info, clip, make_manager, settings, observer):
        tilings.append(settings.vae_tiling)
        make_manager(Branch.COND, SimpleNamespace())
        for index in range(settings.num_steps):
            if len(tilings) == 1 and index == 2:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            observer(Step(index, settings.num_steps, 0.0), [])

    machine, editor, _ = edit(monkeypatch, 0)
    monkeypatch.setattr(editing, "run_edit", run_edit)
    asked = editor._job
    asked.mode = SimpleNamespace(build=lambda config, context: lambda branch, schedule: None)
    times = time_steps(asked, editor, MODES["hetcache"].config(), SimpleNamespace(), (0.5,))
    assert tilings == ["off", "on"] and len(machine.loads) == 2 and len(times.partial_s) == 1
    assert "--vae-tiling on --vram-limit 8.0" in editor.notes[0]


def test_enough_memory_changes_nothing(monkeypatch):
    machine, editor, run = edit(monkeypatch, 0)
    assert run() == "edited"
    assert (machine.tilings, len(machine.loads), editor.notes) == (["off"], 1, [])


def test_out_of_memory_is_tried_once_more_with_tiling_and_offloading(monkeypatch):
    machine, editor, run = edit(monkeypatch, 1)
    assert run() == "edited"
    assert machine.tilings == ["off", "on"]
    assert machine.loads == [VramOptions(), VramOptions(limit_gib=8.0)]
    assert "--vae-tiling on --vram-limit 8.0" in editor.notes[0]
    assert run() == "edited"
    assert machine.tilings == ["off", "on", "on"]
    assert len(editor.notes) == 1


@pytest.mark.parametrize("device, free_gib, keeps", [("cuda", 2.0, True), ("cuda", 0.1, False), ("cpu", 0.1, True)])
def test_without_a_budget_a_cache_keeps_to_half_of_a_gpus_free_memory(monkeypatch, device, free_gib, keeps):
    _, editor, _ = edit(monkeypatch, 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free_gib * 2**30), 80 * 2**30))
    editor._job.device = device
    shape = ModelShape(64, 256, 4, 2, 16)
    editor.__dict__["schedule"] = (None, shape)
    mode = MODES["hetcache"]
    asked, context = mode.config(context_kv="forecast", forecast=1), SimpleNamespace(num_tokens=50_000)
    needed_gib = 2 * asked.cache_bytes(shape, 50_000, 2) / 2**30
    assert 0.05 < needed_gib < 1.0
    given = editor.within_budget(mode, asked, context)
    assert (given == asked) == keeps == (not editor.notes)
    if not keeps:
        assert given.max_partial_run == 0 and given.forecast == 1 and "keys and values" in editor.notes[0]
        assert editor.notes[0].endswith(" GiB would be over half of the GPU's free memory, 0.05 GiB)")
    pab = MODES["pab"]
    assert editor.within_budget(pab, pab.config(), context) == pab.config()


def test_a_gpu_too_full_for_the_least_that_is_kept_names_what_may_be_given(monkeypatch):
    with pytest.raises(
        ValueError, match="^half of the GPU's free memory, .* at the least; give --cache-budget-gib that"
    ):
        on_a_gpu(monkeypatch, 1e-5).within_budget(MODE, ASKED, CONTEXT)


def on_a_gpu(monkeypatch: pytest.MonkeyPatch, free_gib: float, kept: Any = None, **settings: Any) -> Editor:
    """An editor of a model whose keys and values need more than 0.05 GiB, beside which so much is free."""
    edit(monkeypatch, 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free_gib * 2**30), 80 * 2**30))
    asked = job()
    asked.settings = replace(SETTINGS, **settings)
    editor = Editor(asked, kept=kept)
    editor.__dict__["schedule"] = (None, ModelShape(64, 256, 4, 2, 16))
    return editor


MODE, CONTEXT = MODES["hetcache"], SimpleNamespace(num_tokens=50_000)
ASKED = MODE.config(context_kv="forecast", forecast=1)


def test_processes_keep_to_the_least_free_memory_of_all(monkeypatch):
    least = SimpleNamespace(gather=lambda free: [free, int(0.1 * 2**30)])
    monkeypatch.setattr(editor_module, "ranks_of", lambda kind, timeout_s: least)
    given = on_a_gpu(monkeypatch, 2.0).within_budget(MODE, ASKED, CONTEXT)
    assert given == on_a_gpu(monkeypatch, 0.1).within_budget(MODE, ASKED, CONTEXT) != ASKED


def test_a_resumed_run_goes_on_with_the_settings_of_its_finished_windows(monkeypatch):
    smaller = on_a_gpu(monkeypatch, 0.1).within_budget(MODE, ASKED, CONTEXT)
    for kept in (ASKED, smaller):
        resumed = on_a_gpu(monkeypatch, 2.0, asdict(kept))
        assert resumed.within_budget(MODE, ASKED, CONTEXT) == kept and not resumed.notes
    with pytest.raises(
        ValueError, match="^--resume: the cache that the finished windows .* 0.05 GiB: free memory there"
    ):
        on_a_gpu(monkeypatch, 0.1, asdict(ASKED)).within_budget(MODE, ASKED, CONTEXT)
    with pytest.raises(ValueError, match="^--resume: the finished windows have other settings of .*context_kv"):
        on_a_gpu(monkeypatch, 2.0, {}).within_budget(MODE, ASKED, CONTEXT)
    # A budget that was asked for is the same at every start.
    asked_for = on_a_gpu(monkeypatch, 2.0, asdict(ASKED), cache_budget_gib=0.05)
    assert asked_for.within_budget(MODE, ASKED, CONTEXT) == smaller


def test_weights_that_move_are_not_compiled_and_the_note_says_so(monkeypatch):
    machine, editor, _ = edit(monkeypatch, 1)
    compiled = []
    monkeypatch.setattr(editing, "run_edit", lambda *args: (compiled.append(args[4].compile), machine.run_edit(*args)))
    settings = replace(SETTINGS, compile=True)
    editor._job.settings = settings
    mode, context = MODES["baseline"], None
    editor.edit(editor._job.clip, mode, mode.config(), context, settings, "baseline")
    assert compiled == [True, False]
    assert "without --compile" in editor.notes[0]


def test_a_second_time_ends_in_a_message_with_the_settings_to_try(monkeypatch):
    machine, _, run = edit(monkeypatch, 9)
    with pytest.raises(OutOfMemoryError, match="832x480 and 81 frames.*--height and --width.*--fp8-storage"):
        run()
    assert machine.tilings == ["off", "on"]
    with pytest.raises(OutOfMemoryError):
        run()
    assert machine.tilings == ["off", "on", "on"]


def test_a_limit_that_was_asked_for_is_kept(monkeypatch):
    machine, _, run = edit(monkeypatch, 1, VramOptions(limit_gib=4.0, fp8_storage=True))
    assert run() == "edited"
    assert machine.loads[1] == VramOptions(limit_gib=4.0, fp8_storage=True)


def test_a_gpu_too_small_for_the_weights_is_offloaded_from_the_start(monkeypatch):
    machine = Machine(0)

    def load(*args):
        machine.load(*args)
        if len(machine.loads) == 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return SimpleNamespace(), None

    monkeypatch.setattr(loader, "load_pipeline", load)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * 2**30, 80 * 2**30))
    editor = Editor(job())
    assert machine.loads == [VramOptions(), VramOptions(limit_gib=8.0)]
    assert "--vram-limit 8.0" in editor.notes[0]


def test_weights_that_cannot_be_read_are_told_in_one_line(monkeypatch):
    def load(*args):
        raise RuntimeError("unexpected end of file")

    monkeypatch.setattr(loader, "load_pipeline", load)
    with pytest.raises(ValueError, match="--model m: cannot be loaded .unexpected end of file.; fetch"):
        Editor(job())


def test_a_cpu_without_memory_says_what_to_make_smaller(monkeypatch):
    _, editor, run = edit(monkeypatch, 0)

    def full(*args):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(editing, "run_edit", full)
    with pytest.raises(OutOfMemoryError, match="^out of memory at 832x480 and 81 frames: use a smaller --height"):
        run()
    assert editor.notes == []
