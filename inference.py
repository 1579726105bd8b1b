"""Edit one masked video: `python inference.py --mode hetcache`. See --help and README.md."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hetcache.cli import UsageError, flag, parse

if TYPE_CHECKING:
    from diffsynth_patches.run import EditResult
    from hetcache.core.mode import RunContext
    from hetcache.run.editor import Editor
    from hetcache.run.job import Job


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 when the edit is written, 2 for input or settings that cannot be run, 130 after Ctrl-C."""
    try:
        args, config = parse(argv)
        args.words = sys.argv[1:] if argv is None else argv
    except UsageError as error:
        return _fail(error)
    try:
        return run(args, config)
    except KeyboardInterrupt as interrupt:
        state = str(interrupt) or "no output was written"
        print(f"\ninference.py: interrupted: {state}", file=sys.stderr)
        return 130
    except (ValueError, OSError, MemoryError) as error:
        if args.debug:
            raise
        return _fail(error)


def run(args: Namespace, config: Any) -> int:
    """Check everything that needs no model, then load, edit, composite, save and report."""
    from hetcache.modes import MODES
    from hetcache.modes.planning import check_plannable
    from hetcache.run.job import plan_rows, prepare
    from hetcache.run.mask_picture import write_mask_picture
    from hetcache.run.record import summary_rows, table
    from hetcache.run.saving import save_edit, save_source

    start = time.perf_counter()
    if args.plan or args.target_speedup is not None:
        check_plannable(MODES[args.mode], args.target_speedup)
    job = prepare(args)
    if len(job.windows) == 1 and not job.clip.source_mask_THW.any():
        if job.mask_report is not None:
            print(table(job.mask_report.rows()))
        print("the mask is empty: there is nothing to plan" if args.plan else save_source(job, args.mode))
        return 0
    context = job.context(MODES[args.mode], config)
    print(table(plan_rows(job, context)))
    if args.plan:
        ready(args, config, job, context)
        if job.mask_report is not None:
            print(f"  mask over the video: {write_mask_picture(job)}")
        return 0
    if len(job.windows) > 1:
        record = edit_long(args, config, job, context)
    else:
        editor, config = ready(args, config, job, context)
        results = edit(args, config, editor, job, context)
        record = save_edit(args, config, job, context, results, editor, start)
    print(table(summary_rows(record)))
    return 0


def load(args: Namespace, job: Job) -> Editor:
    """The pipeline, on the device."""
    from diffsynth_patches.compiled import check_compiler
    from diffsynth_patches.loader import VramOptions, use_hugging_face
    from hetcache.run.editor import Editor

    if job.settings.compile:
        check_compiler(job.device)
    if args.huggingface:
        use_hugging_face()
    return Editor(job, VramOptions(args.vram_limit, args.fp8_storage), args.revision)


def ready(args: Namespace, config: Any, job: Job, context: RunContext) -> tuple[Editor, Any]:
    """(loaded editor, the config that keeps to --cache-budget-gib and reaches --target-speedup). Prints the plan if it
    was asked for."""
    from hetcache.modes import MODES
    from hetcache.modes.planning import check_cfg_batch

    editor = load(args, job)
    config = editor.within_budget(MODES[args.mode], config, context)
    for note in editor.notes:
        print(f"  {note}")
    if args.plan or args.target_speedup is not None:
        config = show_plan(args, config, job, context, editor)
    if job.settings.cfg_batch:
        check_cfg_batch(MODES[args.mode], config, context, editor.schedule[0])
    return editor, config


def edit_long(args: Namespace, config: Any, job: Job, context: RunContext) -> dict[str, Any]:
    """Edit a long video window by window, from the finished ones on, and write it whole. Returns the record."""
    from hetcache.core.facts import facts_of_weights
    from hetcache.modes import MODES
    from hetcache.run.identity import run_identity
    from hetcache.run.saving import save_windows
    from hetcache.run.window_store import WindowStore
    from hetcache.run.windows import edit_windows

    store = WindowStore(job.output)
    store.open(run_identity(args, config, job, facts_of_weights(job.model)), args.resume)
    load_s = 0.0

    def begin() -> tuple[Editor, Any]:
        nonlocal load_s
        editor, fitted = ready(args, config, job, context)
        load_s = editor.load_s
        return editor, fitted

    if args.resume:
        print(f"  {store.finished()} of {len(job.windows)} windows were finished before")
    try:
        edit_windows(job, MODES[args.mode], store, begin)
        record = save_windows(args, config, job, store, load_s)
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


def show_plan(args: Namespace, config: Any, job: Job, context: RunContext, editor: Editor) -> Any:
    """Print every step's decision and the expected speed-up; with --target-speedup, of the threshold it needs.
    Returns the config, with that threshold."""
    from hetcache.core.vocabulary import Branch
    from hetcache.modes import MODES
    from hetcache.modes.planning import describe_plan, find_setting, plan_run

    mode = MODES[args.mode]
    schedule, shape = editor.schedule
    branches = tuple(Branch) if job.settings.cfg_scale != 1 else (Branch.COND,)
    if args.target_speedup is None:
        plan = plan_run(mode, config, context, schedule, shape, branches)
    else:
        config, plan = find_setting(mode, config, args.target_speedup, context, schedule, shape, branches)
        assert mode.dial is not None
        value = getattr(config, mode.dial.field)
        print(f"  {flag(mode.dial.field)} {value:.6g} reaches --target-speedup {args.target_speedup:g}")
    print(describe_plan(plan, schedule))
    if len(job.windows) > 1:
        print("  this is the first window's plan: the others have the same decisions and their own tokens")
    return config


def edit(args: Namespace, config: Any, editor: Editor, job: Job, context: RunContext) -> list[EditResult]:
    """[result] or, with --compare, [result, baseline result] of the same process, after one warm-up step."""
    from hetcache.modes import MODES

    mode, baseline = MODES[args.mode], MODES["baseline"]
    clip, settings = job.clip, job.settings
    if not args.compare:
        return [editor.edit(clip, mode, config, context, settings, mode.name)]
    while True:
        notes = len(editor.notes)
        editor.edit(clip, baseline, baseline.config(), context, replace(settings, num_steps=1), "warm-up")
        results = [
            editor.edit(clip, mode, config, context, settings, mode.name),
            editor.edit(clip, baseline, baseline.config(), context, settings, "baseline"),
        ]
        # One that ran out of memory went on with offloading: times of before and after cannot be compared.
        if len(editor.notes) == notes:
            return results


def _fail(error: Exception) -> int:
    print(f"inference.py: error: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
