"""What a run leaves behind: the composited video, the raw one, the record and the page."""

from __future__ import annotations

import shlex
import time
from argparse import Namespace
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffsynth_patches.run import EditResult
from hetcache.core.facts import hardware, package_versions
from hetcache.core.mode import RunContext
from hetcache.files import write_json, write_text
from hetcache.media.masks import composite
from hetcache.media.write import write_video
from hetcache.run import record as records
from hetcache.run.compare import compare
from hetcache.run.editor import Editor
from hetcache.run.job import Job, raw_of
from hetcache.run.long_clip import composited, finished_frames
from hetcache.run.window_store import WindowStore


def save_edit(
    args: Namespace, config: Any, job: Job, context: RunContext, results: list[EditResult], editor: Editor, start: float
) -> dict[str, Any]:
    """Composite and write one window's edit, `results[0]`; `results[1]` is the baseline's with --compare. Returns the
    record."""
    result, clip = results[0], job.clip
    composite_start = time.perf_counter()
    frames = composite(clip.source_THWC, clip.to_source(result.frames_THWC), clip.source_mask_THW, job.feather_px)
    lost_sound = write_result(job, frames)
    raw = raw_path(args, job)
    if raw is not None:
        write_video(raw, result.frames_THWC[: job.num_frames], clip.fps)
    now, stage_ms = time.perf_counter(), result.session.stage_ms
    composite_s = now - composite_start
    # With --compare the clock has also seen the baseline.
    total_s = editor.load_s + sum(stage_ms.values()) / 1e3 + composite_s if args.compare else now - start
    record = {
        **run_facts(args, asdict(config), job, [*editor.notes, *lost_sound]),
        "timing_s": records.timing_s(stage_ms, editor.load_s, composite_s, total_s),
        **records.session_facts(result.session, result.shape, context.classes),
        "peak_memory_gib": round(result.peak_memory_gib, 3),
        "outputs": outputs(args, job, raw),
    }
    if args.compare:
        baseline = results[1]
        record["compare"] = compare(
            stage_ms, baseline.session.stage_ms, result.frames_THWC, baseline.frames_THWC, clip.mask_THW
        )
    write_json(job.output.with_suffix(".json"), record)
    if args.report:
        from hetcache.run.page import run_html

        page = run_html(
            record,
            shlex.join(["python", "inference.py", *args.words]),
            clip,
            frames,
            context.classes,
            result.session.trace.plans,
            results[1].frames_THWC if args.compare else None,
        )
        write_text(job.output.with_suffix(".html"), page)
    return record


def save_windows(args: Namespace, config: Any, job: Job, store: WindowStore, load_s: float) -> dict[str, Any]:
    """Composite and write the finished windows of a long video as a stream. Returns the record."""
    clip = job.clip
    composite_start = time.perf_counter()
    frames = composited(job.source, clip.placement, store, job.windows, job.num_frames, job.feather_px)
    lost_sound = write_result(job, frames)
    raw = raw_path(args, job)
    if raw is not None:
        write_video(raw, finished_frames(store, job.windows, 0, job.num_frames), clip.fps)
    composite_s = time.perf_counter() - composite_start
    facts = [store.facts(index) for index in range(len(job.windows))]
    edited = [window for window in facts if "skipped" not in window]
    settings = edited[0].pop("settings") if edited else asdict(config)
    fell_back = dict.fromkeys(note for window in edited for note in window.pop("fell_back"))
    for window in edited[1:]:
        del window["settings"]
    record = {
        **run_facts(args, settings, job, [*fell_back, *lost_sound]),
        "timing_s": records.sum_timing_s([window["timing_s"] for window in edited], load_s, composite_s),
        **records.all_windows(facts),
        "outputs": outputs(args, job, raw),
    }
    write_json(job.output.with_suffix(".json"), record)
    return record


def write_result(job: Job, frames: Iterable[NDArray[np.uint8]]) -> list[str]:
    """Write the output with the source's sound, or without when that cannot be read: why, as a list of notes."""
    lost_sound: list[str] = []
    clip = job.clip
    write_video(
        job.output, frames, clip.fps, audio_from=clip.path, pixel_aspect=clip.pixel_aspect, lost_sound=lost_sound
    )
    return lost_sound


def save_source(job: Job, mode: str) -> str:
    """An empty mask asks for nothing: the source comes back, and the record says so. Returns what to tell."""
    note = f"the mask is empty in these {job.num_frames} frames: nothing to edit, the source is returned"
    for lost_sound in write_result(job, job.clip.source_THWC):
        note += f"; {lost_sound}"
    record = {
        "schema": records.SCHEMA,
        "mode": mode,
        "note": note,
        **mask_facts(job),
        "outputs": {"video": str(job.output), "raw": None},
    }
    write_json(job.output.with_suffix(".json"), record)
    return f"{note} in {job.output}"


def run_facts(args: Namespace, settings: dict[str, Any], job: Job, fell_back: Sequence[str]) -> dict[str, Any]:
    """The part of a record that does not depend on what the denoising loop did."""
    height, width = job.clip.size
    return {
        "schema": records.SCHEMA,
        "mode": args.mode,
        "model": job.info.model_id,
        "config": {
            **settings,
            **asdict(job.settings),
            **asdict(job.source.options),
            "feather_px": job.feather_px,
            "frames": job.num_frames,
            "height": height,
            "width": width,
            "video": str(args.video),
            "mask": None if args.mask is None else str(args.mask),
            "revision": args.revision,
            "dtype": str(job.dtype).removeprefix("torch."),
        },
        "versions": package_versions(),
        "hardware": hardware(job.device),
        "determinism": records.determinism(job.device),
        "seed": job.settings.seed,
        **mask_facts(job),
        **({"fell_back": list(fell_back)} if fell_back else {}),
    }


def mask_facts(job: Job) -> dict[str, Any]:
    """What was understood of the mask, for a record."""
    return {} if job.mask_report is None else {"mask": job.mask_report.facts()}


def raw_path(args: Namespace, job: Job) -> Path | None:
    """Where the model's output before compositing goes, if it was asked for."""
    return raw_of(job.output) if args.save_raw else None


def outputs(args: Namespace, job: Job, raw: Path | None) -> dict[str, str | None]:
    """The paths in a record."""
    return {
        "video": str(job.output),
        "raw": str(raw) if raw else None,
        "record": str(job.output.with_suffix(".json")),
        "report": str(job.output.with_suffix(".html")) if args.report else None,
    }
