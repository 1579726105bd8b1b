"""Edit one masked video: `python inference.py --mode hetcache`. See --help and README.md."""

from __future__ import annotations

import shlex
import sys
import time
from argparse import Namespace
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from hetcache.cli import UsageError, flag, parse

if TYPE_CHECKING:
    from pathlib import Path

    from diffsynth_patches.editor import Editor
    from diffsynth_patches.run import EditResult
    from hetcache.job import Job
    from hetcache.modes import RunContext


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
    except (ValueError, OSError) as error:
        if args.debug:
            raise
        return _fail(error)


def run(args: Namespace, config: Any) -> int:
    """Check everything that needs no model, then load, edit, composite, save and report."""
    from hetcache.job import plan_rows, prepare
    from hetcache.modes import MODES
    from hetcache.planning import check_plannable
    from hetcache.record import table

    start = time.perf_counter()
    if args.plan or args.target_speedup is not None:
        check_plannable(MODES[args.mode], args.target_speedup)
    job = prepare(args)
    if len(job.windows) == 1 and not job.clip.source_mask_THW.any():
        return write_source(job, args.mode)
    context = job.context(config)
    print(table(plan_rows(job, context)))
    if args.plan:
        show_plan(args, config, job, context, load(args, job).pipe)
        return 0
    if len(job.windows) > 1:
        return run_windows(args, config, job, context, start)
    editor, config = ready(args, config, job, context)
    results = edit(args, config, editor, job, context)
    return save(args, config, job, context, results, editor, start)


def load(args: Namespace, job: Job) -> Editor:
    """The pipeline, on the device."""
    from diffsynth_patches.editor import Editor
    from diffsynth_patches.loader import VramOptions, use_hugging_face

    if args.huggingface:
        use_hugging_face()
    return Editor(job, VramOptions(args.vram_limit, args.fp8_storage))


def ready(args: Namespace, config: Any, job: Job, context: RunContext) -> tuple[Editor, Any]:
    """(loaded editor, the config that reaches --target-speedup and keeps to --cache-budget-gib)."""
    from hetcache.modes import MODES

    editor = load(args, job)
    if args.target_speedup is not None:
        config = show_plan(args, config, job, context, editor.pipe)
    config = editor.within_budget(MODES[args.mode], config)
    for note in editor.notes:
        print(f"  {note}")
    return editor, config


def run_windows(args: Namespace, config: Any, job: Job, context: RunContext, start: float) -> int:
    """Edit a long video window by window, from the finished ones on, then composite and write it whole."""
    from diffsynth_patches.bench import facts_of_weights
    from diffsynth_patches.long_run import edit_windows
    from hetcache import record as records
    from hetcache.job import run_identity
    from hetcache.long_clip import composited, finished_frames
    from hetcache.modes import MODES
    from hetcache.video import write_video
    from hetcache.window_store import WindowStore

    store, clip, size = WindowStore(job.output), job.clip, job.clip.size
    store.open(run_identity(args, config, job, facts_of_weights(job.model)), args.resume)
    editors: list[Editor] = []

    def begin() -> tuple[Editor, Any]:
        editor, fitted = ready(args, config, job, context)
        editors.append(editor)
        return editor, fitted

    done = store.finished()
    if args.resume:
        print(f"  {done} of {len(job.windows)} windows were finished before")
    try:
        edit_windows(job, MODES[args.mode], store, begin)
        composite_start = time.perf_counter()
        frames = composited(job.source, size, store, job.windows, job.num_frames, job.feather_px)
        write_video(job.output, frames, clip.fps, audio_from=clip.path, pixel_aspect=clip.pixel_aspect)
        raw = raw_path(args, job)
        if raw is not None:
            write_video(raw, finished_frames(store, job.windows, 0, job.num_frames), clip.fps)
    except KeyboardInterrupt:
        kept = f"{store.finished()} of {len(job.windows)} windows are finished and kept in {store.folder}"
        raise KeyboardInterrupt(f"{kept}; the same command with --resume goes on") from None
    facts = [store.facts(index) for index in range(len(job.windows))]
    now = time.perf_counter()
    record = {
        **first_facts(args, config, job, editors),
        "timing_s": records.sum_timing_s(
            [window["timing_s"] for window in facts if "timing_s" in window],
            sum(editor.load_s for editor in editors), now - composite_start,
        ),
        **records.all_windows(facts),
        "outputs": outputs(args, job, raw),
    }
    records.write_record(job.output.with_suffix(".json"), record)
    store.remove()
    print(records.table(records.summary_rows(record)))
    return 0


def show_plan(args: Namespace, config: Any, job: Job, context: RunContext, pipe: Any) -> Any:
    """Print every step's decision and the expected speed-up; with --target-speedup, of the threshold it needs.
    Returns the config, with that threshold."""
    from diffsynth_patches.run import schedule_of
    from hetcache.api import Branch
    from hetcache.modes import MODES
    from hetcache.planning import describe_plan, find_setting, plan_run

    mode = MODES[args.mode]
    schedule, shape = schedule_of(pipe, job.settings)
    branches = tuple(Branch) if job.settings.cfg_scale != 1 else (Branch.COND,)
    if args.target_speedup is None:
        plan = plan_run(mode, config, context, schedule, shape, branches)
    else:
        config, plan = find_setting(mode, config, args.target_speedup, context, schedule, shape, branches)
        assert mode.dial is not None
        value = getattr(config, mode.dial.field)
        print(f"  {flag(mode.dial.field)} {value:.6g} reaches --target-speedup {args.target_speedup:g}")
    print(describe_plan(plan, schedule))
    return config


def edit(args: Namespace, config: Any, editor: Editor, job: Job, context: RunContext) -> list[EditResult]:
    """[result] or, with --compare, [result, baseline result] of the same process, after one warm-up step."""
    from hetcache.modes import MODES

    mode, baseline = MODES[args.mode], MODES["baseline"]
    clip, settings = job.clip, job.settings
    if not args.compare:
        return [editor.edit(clip, mode, config, context, settings, mode.name)]
    editor.edit(clip, baseline, baseline.config(), context, replace(settings, num_steps=1), "warm-up")
    return [
        editor.edit(clip, mode, config, context, settings, mode.name),
        editor.edit(clip, baseline, baseline.config(), context, settings, "baseline"),
    ]


def save(
    args: Namespace, config: Any, job: Job, context: RunContext, results: list[EditResult], editor: Editor, start: float
) -> int:
    """Composite, write the video and its record, print the summary."""
    from hetcache import record as records
    from hetcache.compare import compare
    from hetcache.video import composite, write_video

    result, clip, output = results[0], job.clip, job.output
    composite_start = time.perf_counter()
    edited = clip.to_source(result.frames_THWC)
    frames = composite(clip.source_THWC, edited, clip.source_mask_THW, job.feather_px)
    write_video(output, frames, clip.fps, audio_from=clip.path, pixel_aspect=clip.pixel_aspect)
    raw = raw_path(args, job)
    if raw is not None:
        write_video(raw, result.frames_THWC[: job.num_frames], clip.fps)
    now = time.perf_counter()
    record = {
        **first_facts(args, config, job, [editor]),
        "timing_s": records.timing_s(result.session.stage_ms, editor.load_s, now - composite_start, now - start),
        **records.session_facts(result.session, result.shape, context.classes),
        "peak_memory_gib": round(result.peak_memory_gib, 3),
        "outputs": outputs(args, job, raw),
    }
    if args.compare:
        baseline = results[1]
        record["compare"] = compare(
            result.session.stage_ms, baseline.session.stage_ms, result.frames_THWC, baseline.frames_THWC, clip.mask_THW
        )
    records.write_record(output.with_suffix(".json"), record)
    if args.report:
        from hetcache.report.run_page import run_html
        from hetcache.video import atomic_output

        page = run_html(
            record, shlex.join(["python", "inference.py", *args.words]), clip, frames, context.classes,
            result.session.trace.plans, results[1].frames_THWC if args.compare else None,
        )
        with atomic_output(output.with_suffix(".html")) as temporary:
            temporary.write_text(page)
    print(records.table(records.summary_rows(record)))
    return 0


def first_facts(args: Namespace, config: Any, job: Job, editors: list[Editor]) -> dict[str, Any]:
    """The part of a record that does not depend on what the denoising loop did."""
    from hetcache import record as records

    height, width = job.clip.size
    notes = [note for editor in editors for note in editor.notes]
    return {
        "schema": records.SCHEMA,
        "mode": args.mode,
        "model": job.info.model_id,
        "config": {
            **asdict(config), **asdict(job.settings), **asdict(job.source.options), "feather_px": job.feather_px,
            "frames": job.num_frames, "height": height, "width": width, "video": str(args.video),
            "mask": None if args.mask is None else str(args.mask), "dtype": str(job.dtype).removeprefix("torch."),
        },
        "versions": records.package_versions(),
        "hardware": records.hardware(job.device),
        "determinism": records.determinism(job.device),
        "seed": job.settings.seed,
        **({"fell_back": notes} if notes else {}),
    }


def raw_path(args: Namespace, job: Job) -> Path | None:
    from hetcache.job import raw_of

    return raw_of(job.output) if args.save_raw else None


def outputs(args: Namespace, job: Job, raw: Path | None) -> dict[str, str | None]:
    return {
        "video": str(job.output), "raw": str(raw) if raw else None, "record": str(job.output.with_suffix(".json")),
        "report": str(job.output.with_suffix(".html")) if args.report else None,
    }


def write_source(job: Job, mode: str) -> int:
    """An empty mask asks for nothing: the source comes back, and the record says so."""
    from hetcache.record import SCHEMA, write_record
    from hetcache.video import write_video

    clip = job.clip
    write_video(job.output, clip.source_THWC, clip.fps, audio_from=clip.path, pixel_aspect=clip.pixel_aspect)
    note = f"the mask is empty in these {job.num_frames} frames: nothing to edit, the source is returned"
    record = {"schema": SCHEMA, "mode": mode, "note": note, "outputs": {"video": str(job.output), "raw": None}}
    write_record(job.output.with_suffix(".json"), record)
    print(f"{note} in {job.output}")
    return 0


def _fail(error: Exception) -> int:
    print(f"inference.py: error: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
