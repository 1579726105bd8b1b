"""What a run leaves behind: the composited video, the raw one, the record and the page."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hetcache.core.facts import hardware, package_versions
from hetcache.core.mode import RunContext
from hetcache.files import write_json, write_text
from hetcache.media.masks import composite
from hetcache.media.probe import probe_facts, truncation
from hetcache.media.result import notes_of, result_planes
from hetcache.media.write import write_edit, write_video
from hetcache.models.backend import EditResult
from hetcache.run import record as records
from hetcache.run.compare import compare
from hetcache.run.editor import Editor
from hetcache.run.exact import kept
from hetcache.run.job import Job
from hetcache.run.joins import JoinWatch
from hetcache.run.long_clip import edited_frames, finished_frames
from hetcache.run.put_back import PutBack, matched, mean_shift, prepared_facts
from hetcache.run.window_store import WindowStore


def save_edit(
    job: Job, config: Any, context: RunContext, results: list[EditResult], timed: str, editor: Editor, start: float
) -> dict[str, Any]:
    """Composite and write one window's edit, `results[0]`; `results[1]` is the baseline's with --compare, and `timed`
    how the two were timed. Returns the record."""
    result, clip = results[0], job.clip
    composite_start = time.perf_counter()
    edited_THWC, coloured = matched(job, clip, result.frames_THWC)
    laying = PutBack(job)
    edited: Iterable[NDArray[np.uint8]] = laying.stream(clip.iter_to_source(edited_THWC))
    if job.outputs.report is not None:  # which shows them again
        edited = list(edited)
    lost_sound = write_result(job, edited)
    if job.outputs.raw is not None:
        write_video(job.outputs.raw, result.frames_THWC[: job.num_frames], clip.fps)
    now, stage_ms = time.perf_counter(), result.session.stage_ms
    composite_s = now - composite_start
    # With --compare the clock has also seen the baseline.
    total_s = editor.load_s + sum(stage_ms.values()) / 1e3 + composite_s if job.compare else now - start
    record = {
        **run_facts(job, asdict(config), [*editor.notes, *lost_sound]),
        "timing_s": records.timing_s(stage_ms, editor.load_s, composite_s, total_s),
        **records.session_facts(result.session, context.tokens),
        **prepared_facts(job, clip),
        "put_back": {**coloured, **laying.facts()},
        "peak_memory_gib": round(result.peak_memory_gib, 3),
        "outputs": job.outputs.as_json(),
    }
    if job.compare:
        baseline = results[1]
        record["compare"] = {
            "timed": timed,
            **compare(stage_ms, baseline.session.stage_ms, result.frames_THWC, baseline.frames_THWC, clip.mask_THW),
        }
    if editor.planned:
        record["plan"] = kept(editor.planned, record)
    write_json(job.outputs.record, record)
    if job.outputs.report is not None:
        from hetcache.run.page import run_html

        frames = composite(clip.source_THWC, np.stack(list(edited)), clip.source_mask_THW, job.feather_px)
        page = run_html(
            record,
            job.command,
            clip,
            frames,
            context.classes,
            result.session.trace.plans,
            results[1].frames_THWC if job.compare else None,
        )
        write_text(job.outputs.report, page)
    return record


def save_windows(job: Job, store: WindowStore, load_s: float) -> dict[str, Any]:
    """Composite and write the finished windows of a long video as a stream. Returns the record."""
    clip = job.clip
    composite_start = time.perf_counter()
    laying, watch = PutBack(job), JoinWatch(job.windows)
    placements = [job.placement(index) for index in range(len(job.windows))]
    frames = laying.stream(edited_frames(placements, store, job.windows, job.num_frames))
    lost_sound = write_result(job, watch.watch(job, frames))
    if job.outputs.raw is not None:
        write_video(job.outputs.raw, finished_frames(store, job.windows, 0, job.num_frames), clip.fps)
    composite_s = time.perf_counter() - composite_start
    facts = [store.facts(index) for index in range(len(job.windows))]
    edited = [window for window in facts if "skipped" not in window]
    settings = edited[0].pop("settings") if edited else asdict(job.config)
    fell_back = dict.fromkeys(note for window in edited for note in window.pop("fell_back"))
    for window in edited[1:]:
        del window["settings"]
    facts = [{**window, **joins} for window, joins in zip(facts, watch.facts(), strict=True)]
    record = {
        **run_facts(job, settings, [*fell_back, *lost_sound]),
        "timing_s": records.sum_timing_s([window["timing_s"] for window in edited], load_s, composite_s),
        **records.all_windows(facts),
        **prepared_facts(job, clip),
        "put_back": {**mean_shift(edited), **laying.facts()},
        "outputs": job.outputs.as_json(),
    }
    write_json(job.outputs.record, record)
    return record


def write_result(job: Job, edited: Iterable[NDArray[np.uint8]] | None) -> list[str]:
    """Write the output: `edited` frames [H, W, 3] at the source's size in the mask, or nothing (None), and the source's
    own planes, times and sound around them. Without the sound when that cannot be read: why, as a list of notes."""
    lost_sound: list[str] = []
    source, count = job.source, job.num_frames
    with ExitStack() as opened:
        # The masks of one window are read already.
        one = len(job.windows) == 1
        masks = iter(job.clip.source_mask_THW) if one else opened.enter_context(closing(source.every_mask(count)))
        planes = result_planes(source, edited, masks, job.feather_px, job.look, count)
        write_edit(job.outputs.video, planes, source.timeline(count), job.look, source.info, lost_sound)
    return lost_sound


def save_source(job: Job) -> str:
    """An empty mask asks for nothing: the source comes back, and the record says so. Returns what to tell."""
    note = f"the mask is empty in these {job.num_frames} frames: nothing to edit, the source is returned"
    return _save_without_model(job, None, note)


def save_seen(job: Job) -> str:
    """Nothing is left to invent: other frames show all that is masked, and the record says so. Returns what to tell."""
    note = f"other frames show all that is masked in these {job.num_frames} frames: the model is not run"
    return _save_without_model(job, PutBack(job).stream(iter(job.clip.source_THWC)), note)


def _save_without_model(job: Job, edited: Iterable[NDArray[np.uint8]] | None, note: str) -> str:
    for lost_sound in write_result(job, edited):
        note += f"; {lost_sound}"
    record = {
        "schema": records.SCHEMA,
        "mode": job.mode.name,
        "identity": job.identity,
        "note": note,
        **({} if edited is None else prepared_facts(job, job.clip)),
        **source_facts(job),
        **mask_facts(job),
        "outputs": {"video": str(job.outputs.video), "raw": None},
    }
    write_json(job.outputs.record, record)
    return f"{note} in {job.outputs.video}"


def run_facts(job: Job, settings: dict[str, Any], fell_back: Sequence[str]) -> dict[str, Any]:
    """The part of a record that does not depend on what the denoising loop did."""
    height, width = job.clip.size
    return {
        "schema": records.SCHEMA,
        "mode": job.mode.name,
        "identity": job.identity,
        "model": job.info.model_id,
        "config": {
            **settings,
            **asdict(job.settings),
            **asdict(job.source.options),
            "focus_box": job.clip.placement.focus,
            "task": job.task,
            "match_colour": job.match_colour,
            "restore_seen": job.restore_seen,
            "regrain": job.regrain,
            "feather_px": job.feather_px,
            "frames": job.num_frames,
            "height": height,
            "width": width,
            "video": str(job.source.video),
            "mask": None if job.source.mask is None else str(job.source.mask),
            "revision": job.revision,
            "dtype": str(job.dtype).removeprefix("torch."),
        },
        "versions": package_versions(),
        "hardware": hardware(job.device),
        "determinism": records.determinism(job.device),
        "seed": job.settings.seed,
        **source_facts(job),
        **mask_facts(job),
        **({"fell_back": list(fell_back)} if fell_back else {}),
    }


def source_facts(job: Job) -> dict[str, Any]:
    """What the video is and how it is written, for a record."""
    info, look, timeline = job.source.info, job.look, job.source.timeline(job.num_frames)
    cut_off = truncation(info)
    return {
        "source": {
            **probe_facts(info),
            **timeline.facts(),
            "notes": notes_of(job.source, look),
        },
        "written": {"pixel_format": look.pixels.name, "crf": look.crf, "lossless": look.crf is None},
        **({} if cut_off is None else {"warnings": [cut_off]}),
    }


def mask_facts(job: Job) -> dict[str, Any]:
    """What was understood of the mask, for a record."""
    return {} if job.mask_report is None else {"mask": job.mask_report.facts()}
