"""Edit one masked video: `python inference.py --mode hetcache`. See --help and README.md."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

from hetcache.cli import UsageError, parse

FEATHER_PX_AT_480P = 6


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 when the edit is written, 2 for input or settings that cannot be run, 130 after Ctrl-C."""
    try:
        args, config = parse(argv)
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
    start = time.perf_counter()
    output = check_arguments(args)
    device, dtype = choose_device(args)
    from hetcache.models import choose_model, model_info

    model, why = choose_model(args.model, device.startswith("cuda"))
    info = model_info(model)
    clip = read_input(args, info)
    print(f"model {model} on {device} in {str(dtype).removeprefix('torch.')} ({why})")
    if not clip.source_mask_THW.any():
        return write_source(clip, output, args)

    from diffsynth_patches.loader import load_pipeline, use_hugging_face

    settings = edit_settings(args, info)
    context = run_context(clip, config, info)
    print_plan(args, clip, context.classes, settings)
    if args.huggingface:
        use_hugging_face()
    load_start = time.perf_counter()
    pipe, _ = load_pipeline(model, device, dtype)
    load_s = time.perf_counter() - load_start
    results = edit(args, config, pipe, info, clip, context, settings)
    return save(args, config, info, clip, context, settings, results, output, (load_s, start))


def check_arguments(args: Namespace) -> Path:
    """The output path. Raises ValueError or VideoError for what is wrong without looking into the videos."""
    from hetcache.clip import check_frame_count, check_side
    from hetcache.video import check_writable

    check_frame_count(args.frames)
    for side in ("height", "width"):
        if getattr(args, side) is not None:
            check_side(side, getattr(args, side))
    if args.steps < 1:
        raise ValueError(f"--steps {args.steps}: at least 1")
    output = args.output
    if output is None:
        output = Path("outputs") / f"{args.video.stem}_{args.mode}.mp4"
        output.parent.mkdir(exist_ok=True)
    return check_writable(output, [args.video, args.mask])


def choose_device(args: Namespace) -> tuple[str, Any]:
    import torch

    device = args.device if args.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {device}: no CUDA device here, use --device cpu")
    dtype = args.dtype if args.dtype != "auto" else "bfloat16" if device.startswith("cuda") else "float32"
    return device, getattr(torch, dtype)


def read_input(args: Namespace, info: Any) -> Any:
    from hetcache.clip import read_clip
    from hetcache.video import probe

    source = probe(args.video)
    height, width = info.default_size(source.height, source.width)
    return read_clip(args.video, args.mask, args.frames, (args.height or height, args.width or width))


def edit_settings(args: Namespace, info: Any) -> Any:
    from diffsynth_patches.run import EditSettings

    return EditSettings(
        prompt=info.prompt if args.prompt is None else args.prompt,
        negative_prompt=info.negative_prompt if args.negative_prompt is None else args.negative_prompt,
        num_steps=args.steps,
        cfg_scale=info.cfg_scale if args.cfg_scale is None else args.cfg_scale,
        sigma_shift=args.sigma_shift,
        seed=args.seed,
        apply_mask_to_input=args.apply_mask_to_input,
    )


def run_context(clip: Any, config: Any, info: Any) -> Any:
    import torch

    from hetcache.calibration import load_calibration
    from hetcache.modes import RunContext
    from hetcache.tokens import classify

    classes = classify(torch.from_numpy(clip.mask_THW), getattr(config, "margin_width", None))
    return RunContext(classes, lambda: load_calibration(info.model_id))


def print_plan(args: Namespace, clip: Any, classes: Any, settings: Any) -> None:
    from hetcache.record import table

    height, width = clip.size
    total = classes.num_tokens
    parts = ", ".join(
        f"{len(rows)} {name} ({len(rows) / total:.0%})"
        for name, rows in (("generative", classes.generative_G), ("margin", classes.margin_M),
                           ("context", classes.context_C))
    )
    branches = "both branches" if settings.cfg_scale != 1 else "one branch"
    print(table([
        ("input", f"{clip.path} {clip.source_size[1]}x{clip.source_size[0]}, {clip.num_frames} frames, "
                  f"{clip.masked_fraction:.0%} masked"),
        ("model size", f"{width}x{height}, {total} tokens: {parts}"),
        ("sampling", f"{settings.num_steps} steps of {branches}, guidance {settings.cfg_scale:g}, "
                     f"seed {settings.seed}, prompt {settings.prompt!r}"),
    ]))


def edit(args: Namespace, config: Any, pipe: Any, info: Any, clip: Any, context: Any, settings: Any) -> list[Any]:
    """[result] or, with --compare, [result, baseline result] of the same process, after one warm-up step."""
    from diffsynth_patches.run import run_edit
    from hetcache.modes import MODES
    from hetcache.progress import StepBar

    def under(mode: Any, mode_config: Any, run_settings: Any, label: str) -> Any:
        with StepBar(run_settings.num_steps, label) as bar:
            factory = mode.build(mode_config, context)
            return run_edit(pipe, info, clip, factory, run_settings, bar.observe)

    mode, baseline = MODES[args.mode], MODES["baseline"]
    if not args.compare:
        return [under(mode, config, settings, mode.name)]
    under(baseline, baseline.config(), replace(settings, num_steps=1), "warm-up")
    return [
        under(mode, config, settings, mode.name),
        under(baseline, baseline.config(), settings, "baseline"),
    ]


def save(args: Namespace, config: Any, info: Any, clip: Any, context: Any, settings: Any, results: list[Any],
         output: Path, clock: tuple[float, float]) -> int:
    from dataclasses import asdict

    from hetcache import record as records
    from hetcache.compare import compare
    from hetcache.video import composite, resize_frames, write_video

    load_s, start = clock
    result = results[0]
    composite_start = time.perf_counter()
    height, width = clip.source_size
    feather_px = max(1, round(FEATHER_PX_AT_480P * height / 480))
    edited = resize_frames(result.frames_THWC, height, width)
    write_video(output, composite(clip.source_THWC, edited, clip.source_mask_THW, feather_px), clip.fps)
    raw = output.with_name(f"{output.stem}_raw.mp4") if args.save_raw else None
    if raw is not None:
        write_video(raw, result.frames_THWC, clip.fps)
    now = time.perf_counter()
    record = {
        "schema": records.SCHEMA,
        "mode": args.mode,
        "model": info.model_id,
        "config": {**records.config_json(config), **asdict(settings), "frames": clip.num_frames,
                   "height": clip.size[0], "width": clip.size[1], "video": str(args.video), "mask": str(args.mask),
                   "dtype": result.dtype},
        "versions": records.package_versions(),
        "hardware": records.hardware(result.device),
        "seed": settings.seed,
        "timing_s": records.timing_s(result.session.stage_ms, load_s, now - composite_start, now - start),
        **records.session_facts(result.session, result.shape, context.classes),
        "peak_memory_gib": round(result.peak_memory_gib, 3),
        "outputs": {"video": str(output), "raw": str(raw) if raw else None,
                    "record": str(output.with_suffix(".json"))},
    }
    if args.compare:
        record["compare"] = compare(result.session.stage_ms, results[1].session.stage_ms, result.frames_THWC,
                                    results[1].frames_THWC, clip.mask_THW)
    records.write_record(output.with_suffix(".json"), record)
    print(records.table(records.summary_rows(record)))
    return 0


def write_source(clip: Any, output: Path, args: Namespace) -> int:
    """An empty mask asks for nothing: the source comes back, and the record says so."""
    from hetcache.record import SCHEMA, write_record
    from hetcache.video import write_video

    write_video(output, clip.source_THWC, clip.fps)
    note = f"the mask is empty in these {clip.num_frames} frames: nothing to edit, the source is returned"
    record = {"schema": SCHEMA, "mode": args.mode, "note": note, "outputs": {"video": str(output), "raw": None}}
    write_record(output.with_suffix(".json"), record)
    print(f"{note} in {output}")
    return 0


def _fail(error: Exception) -> int:
    print(f"inference.py: error: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
