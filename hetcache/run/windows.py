"""A long video under a mode, window by window; finished windows are kept, so the run can be interrupted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache
from typing import Any

import numpy as np

from hetcache.media.clip import Clip
from hetcache.media.fill_reader import fill_reader, going_on, with_fill
from hetcache.media.windows import Frames, Window, given_known, join, join_after, num_anchors
from hetcache.run.editor import Editor
from hetcache.run.job import Job
from hetcache.run.long_clip import WindowReader, known_frames
from hetcache.run.put_back import matched, prepared_facts
from hetcache.run.record import session_facts, timing_s
from hetcache.run.window_store import WindowStore


def edit_windows(job: Job, store: WindowStore, ready: Callable[[], tuple[Editor, Any]]) -> None:
    """Edit the windows that `store` lacks, in order. `ready` loads the model and gives the mode's config; it is called
    once, at the first window that has something to edit."""
    done = store.finished()
    if done == len(job.windows):
        return
    ready_once = cache(ready)
    placements = [job.placement(index) for index in range(len(job.windows))]
    todo = list(zip(job.windows, placements, strict=True))[done:]
    (first, placement), moved = todo[0], todo if len(set(placements)) > 1 else []
    with (
        WindowReader(job.source, placement, job.num_frames, first.start, moved) as reader,
        fill_reader(job.source, placement, first.start, moved) as fills,
    ):
        for index, (window, placement) in enumerate(todo, done):
            clip = reader.read(window, placement)
            if job.fill == "propagate":
                clip = with_fill(clip, fills, window, job.source.options.keep_seen, placement)
            earlier = known_frames(placements, store, job.windows, index)
            label = f"{job.mode.name}, window {index + 1} of {len(job.windows)}"
            frames_THWC, facts = edit_window(ready_once, job, window, clip, earlier, label)
            store.save(index, frames_THWC, {**facts, "focus_box": placement.focus})


def edit_window(
    ready: Callable[[], tuple[Editor, Any]],
    job: Job,
    window: Window,
    clip: Clip,
    known: list[Frames],
    label: str,
) -> tuple[Frames, dict[str, Any]]:
    """(finished frames [T, H, W, 3] at the model's size, facts for the record) of one window, the first of which are
    `known` from the window before. Token sets and cache state are this window's own; one whose mask is empty in all
    other frames is not computed."""
    known_KHWC = clip.frames_THWC[:0] if not known else np.stack(known)
    feather_px = round(job.feather_px * job.clip.placement.scale)
    facts: dict[str, Any] = {"window": asdict(window)}
    if not clip.mask_THW[len(known) :].any():
        frames_THWC, _ = given_known(clip, known_KHWC, feather_px)
        masked = clip.source_mask_THW[len(known) :].any()
        why = "nothing is left to invent in its new frames" if masked else "the mask is empty in its new frames"
        return join(known_KHWC, frames_THWC), {**facts, "skipped": why}
    anchors = num_anchors(len(known))
    frames_THWC, mask_THW = given_known(clip, known_KHWC[:anchors], feather_px)
    editor, config = ready()
    filled = None if clip.filled is None else going_on(frames_THWC, mask_THW, clip.filled)
    given = replace(clip, frames_THWC=frames_THWC, mask_THW=mask_THW, filled=filled)
    context = job.context(config, given)
    result = editor.edit(given, job.mode, config, context, job.settings, label)
    measured = session_facts(result.session, context.tokens)
    del measured["steps"]
    stage_ms = result.session.stage_ms
    edited_THWC, coloured = matched(job, given, result.frames_THWC)
    return join_after(anchors, known_KHWC, edited_THWC), {
        **facts,
        **measured,
        **prepared_facts(job, given),
        "put_back": coloured,
        "timing_s": timing_s(stage_ms, 0.0, 0.0, sum(stage_ms.values()) / 1e3),
        "peak_memory_gib": round(result.peak_memory_gib, 3),
        "settings": asdict(config),
        "fell_back": list(editor.notes),
    }
