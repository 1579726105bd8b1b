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
    from diffsynth_patches.run import EditResult
    from hetcache.job import Job
    from hetcache.modes import RunContext

FEATHER_PX_AT_480P = 6


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 when the edit is written, 2 for input or settings that cannot be run, 130 after Ctrl-C."""
    try:
        args, config = parse(argv)
        args.words = sys.argv[1:] if argv is None else argv
    except UsageError as error:
        return _fail(error)
    try:
        return run(args, config)
    except KeyboardInterrupt:
        print("\ninference.py: interrupted, no output was written", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        if args.debug:
            raise
        return _fail(error)


def run(args: Namespace, config: Any) -> int:
    """Check everything that needs no model, then load, edit, composite, save and report."""
    from hetcache.job import plan_rows, prepare
    from hetcache.record import table

    start = time.perf_counter()
    job = prepare(args)
    if not job.clip.source_mask_THW.any():
        return write_source(job, args.mode)
    context = job.context(config)
    print(table(plan_rows(job, context)))

    from diffsynth_patches.loader import VramOptions, load_pipeline, use_hugging_face

    if args.huggingface:
        use_hugging_face()
    load_start = time.perf_counter()
    vram = VramOptions(args.vram_limit, args.fp8_storage)
    pipe, _ = load_pipeline(job.model, job.device, job.dtype, job.settings.prompts, vram)
    load_s = time.perf_counter() - load_start
    if args.plan or args.target_speedup is not None:
        config = show_plan(args, config, job, context, pipe)
        if args.plan:
            return 0
    results = edit(args, config, pipe, job, context)
    return save(args, config, job, context, results, load_s, start)


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


def edit(args: Namespace, config: Any, pipe: Any, job: Job, context: RunContext) -> list[EditResult]:
    """[result] or, with --compare, [result, baseline result] of the same process, after one warm-up step."""
    from diffsynth_patches.run import run_edit
    from hetcache.modes import MODES
    from hetcache.progress import StepBar

    def under(mode: Any, mode_config: Any, settings: Any, label: str) -> EditResult:
        with StepBar(settings.num_steps, label) as bar:
            return run_edit(pipe, job.info, job.clip, mode.build(mode_config, context), settings, bar.observe)

    mode, baseline = MODES[args.mode], MODES["baseline"]
    if not args.compare:
        return [under(mode, config, job.settings, mode.name)]
    under(baseline, baseline.config(), replace(job.settings, num_steps=1), "warm-up")
    return [
        under(mode, config, job.settings, mode.name),
        under(baseline, baseline.config(), job.settings, "baseline"),
    ]


def save(
    args: Namespace, config: Any, job: Job, context: RunContext, results: list[EditResult], load_s: float, start: float
) -> int:
    """Composite, write the video and its record, print the summary."""
    from hetcache import record as records
    from hetcache.compare import compare
    from hetcache.video import composite, resize_frames, write_video

    result, clip, output = results[0], job.clip, job.output
    composite_start = time.perf_counter()
    height, width = clip.source_size
    feather_px = max(1, round(FEATHER_PX_AT_480P * height / 480))
    edited = resize_frames(result.frames_THWC, height, width)
    frames = composite(clip.source_THWC, edited, clip.source_mask_THW, feather_px)
    write_video(output, frames, clip.fps, audio_from=clip.path, pixel_aspect=clip.pixel_aspect)
    raw = output.with_name(f"{output.stem}_raw.mp4") if args.save_raw else None
    if raw is not None:
        write_video(raw, result.frames_THWC, clip.fps)
    now = time.perf_counter()
    record = {
        "schema": records.SCHEMA,
        "mode": args.mode,
        "model": job.info.model_id,
        "config": {
            **asdict(config), **asdict(job.settings), "frames": clip.num_frames, "height": clip.size[0],
            "width": clip.size[1], "video": str(args.video), "mask": str(args.mask), "dtype": result.dtype,
        },
        "versions": records.package_versions(),
        "hardware": records.hardware(result.device),
        "seed": job.settings.seed,
        "timing_s": records.timing_s(result.session.stage_ms, load_s, now - composite_start, now - start),
        **records.session_facts(result.session, result.shape, context.classes),
        "peak_memory_gib": round(result.peak_memory_gib, 3),
        "outputs": {
            "video": str(output), "raw": str(raw) if raw else None, "record": str(output.with_suffix(".json")),
            "report": str(output.with_suffix(".html")) if args.report else None,
        },
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


def write_source(job: Job, mode: str) -> int:
    """An empty mask asks for nothing: the source comes back, and the record says so."""
    from hetcache.record import SCHEMA, write_record
    from hetcache.video import write_video

    write_video(job.output, job.clip.source_THWC, job.clip.fps)
    note = f"the mask is empty in these {job.clip.num_frames} frames: nothing to edit, the source is returned"
    record = {"schema": SCHEMA, "mode": mode, "note": note, "outputs": {"video": str(job.output), "raw": None}}
    write_record(job.output.with_suffix(".json"), record)
    print(f"{note} in {job.output}")
    return 0


def _fail(error: Exception) -> int:
    print(f"inference.py: error: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
