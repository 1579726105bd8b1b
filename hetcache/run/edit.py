"""A job edited and saved: as one window, or as many that can be resumed. Says what is decided on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hetcache.core.mode import RunContext
from hetcache.core.settings import flag_of
from hetcache.core.terminal import say
from hetcache.models.backend import EditResult
from hetcache.modes import MODES
from hetcache.modes.planning import branches_of, check_cfg_batch, describe_plan, find_setting, plan_run
from hetcache.run.editor import Editor
from hetcache.run.exact import exact_plan, promise
from hetcache.run.identity import run_identity
from hetcache.run.job import Job
from hetcache.run.saving import save_edit, save_windows
from hetcache.run.studio import Studio
from hetcache.run.window_store import WindowStore
from hetcache.run.windows import edit_windows
from hetcache.run.wish import Wish


def ready(
    job: Job, context: RunContext, studio: Studio | None = None, kept: Mapping[str, Any] | None = None
) -> tuple[Editor, Any]:
    """(loaded editor, this model's config that keeps to --cache-budget-gib and to what was asked of the plan). Says the
    plan if it was asked for. `kept`: see `Editor`."""
    studio = studio or Studio()
    with studio.stage("loading the model"):
        editor = Editor(job, studio, kept)
    config = job.mode.settle(job.config, context)
    job.mode.check_model(config, editor.schedule[1])
    if job.wish is None:
        config = editor.within_budget(job.mode, config, context)
    editor.doubt(job.mode, config, context)
    for note in editor.notes:
        say(f"  {note}")
    if job.wish is not None:
        config = say_exact_plan(job, job.wish, config, context, editor)
    elif job.plan or job.target_speedup is not None:
        config = say_plan(job, config, context, editor)
    if job.settings.cfg_batch:
        check_cfg_batch(job.mode, config, context, editor.schedule[0])
    return editor, config


def say_plan(job: Job, config: Any, context: RunContext, editor: Editor) -> Any:
    """Say every step's decision and the expected speed-up; with --target-speedup, of the threshold it needs. Returns
    the config, with that threshold."""
    mode, target = job.mode, job.target_speedup
    schedule, shape = editor.schedule
    branches = branches_of(job.settings.cfg_scale)
    if target is None:
        plan = plan_run(mode, config, context, schedule, shape, branches)
    else:
        config, plan = find_setting(mode, config, target, context, schedule, shape, branches)
        dial = mode.dial_of(config)
        assert dial is not None
        name = dial.field
        say(f"  {flag_of(config, name)} {getattr(config, name):.6g} reaches --target-speedup {target:g}")
    say(describe_plan(plan, schedule))
    if len(job.windows) > 1:
        say("  this is the first window's plan: the others have the same decisions and their own tokens")
    return config


def say_exact_plan(job: Job, wish: Wish, config: Any, context: RunContext, editor: Editor) -> Any:
    """Say the exact plan for what was asked, and its promise, which the editor keeps. Returns the config with it."""
    found = exact_plan(job, wish, editor, config, context)
    editor.planned = found.facts
    say(describe_plan(found.plan, editor.schedule[0]))
    chosen = found.config
    given = f"--context-kv {chosen.context_kv} --forecast {chosen.forecast} --forecast-in {chosen.forecast_in}"
    say(f"  --decisions {chosen.decisions} {given}")
    if len(job.windows) > 1:
        say("  this is the plan of every window")
    say(f"  {promise(found.facts)}")
    return found.config


def edit_short(job: Job, context: RunContext, start: float, studio: Studio | None = None) -> dict[str, Any]:
    """Edit one window and write everything. `start`: when the run began, by `time.perf_counter`. Returns the record."""
    editor, config = ready(job, context, studio)
    results, timed = edited(job, config, context, editor)
    return save_edit(job, config, context, results, timed, editor, start)


def edited(job: Job, config: Any, context: RunContext, editor: Editor) -> tuple[list[EditResult], str]:
    """([result], "") or, with --compare, ([result, baseline result] of the same process, how they were timed), after
    one warm-up step."""
    mode, baseline = job.mode, MODES["baseline"]
    clip, settings = job.clip, job.settings
    if not job.compare:
        return [editor.edit(clip, mode, config, context, settings, mode.name)], ""
    runs = [(mode, config), (baseline, baseline.config())]
    while True:
        notes = len(editor.notes)
        editor.edit(clip, baseline, baseline.config(), context, replace(settings, num_steps=1), "warm-up")
        results, timed = editor.edit_in_turns(clip, runs, context, settings)
        if results:
            return results, timed
        results = [editor.edit(clip, each, chosen, context, settings, each.name) for each, chosen in runs]
        # One that ran out of memory went on with offloading: times of before and after cannot be compared.
        if len(editor.notes) == notes:
            return results, f"one after the other: {timed}"


def edit_long(job: Job, context: RunContext, studio: Studio | None = None) -> dict[str, Any]:
    """Edit a long video window by window, from the finished ones on, and write it whole. Returns the record."""
    store = WindowStore(job.outputs.video)
    store.open(run_identity(job), job.resume)
    load_s = 0.0

    def begin() -> tuple[Editor, Any]:
        nonlocal load_s
        editor, fitted = ready(job, context, studio, store.settings())
        load_s = editor.load_s
        return editor, fitted

    if job.resume:
        say(f"  {store.finished()} of {len(job.windows)} windows were finished before")
    try:
        edit_windows(job, store, begin)
        record = save_windows(job, store, load_s)
    except (KeyboardInterrupt, ValueError, OSError, MemoryError) as error:
        done = store.finished()
        if done == 0:
            store.remove()
            raise
        kept = f"{done} of {len(job.windows)} windows are finished and kept in {store.folder}"
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(f"{kept}; the same command with --resume goes on") from None
        raise ValueError(f"{error} ({kept})") from error
    store.remove()
    return record
