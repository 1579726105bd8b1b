"""The short table that a person reads before a run."""

from __future__ import annotations

from hetcache.core.mode import RunContext
from hetcache.media.describe import source_rows
from hetcache.media.result import notes_of
from hetcache.run.job import Job
from hetcache.run.put_back import shares

Row = tuple[str, str]


def plan_rows(job: Job, context: RunContext) -> list[Row]:
    """(name, value) rows: model, input, size with its tokens, windows, sampling."""
    clip, classes, settings = job.clip, context.classes, job.settings
    total = classes.num_tokens
    parts = ", ".join(
        f"{len(rows)} {name} ({len(rows) / total:.0%})"
        for name, rows in (
            ("generative", classes.generative_G),
            ("margin", classes.margin_M),
            ("context", classes.context_C),
        )
    )
    branches = "both branches" if settings.cfg_scale != 1 else "one branch"
    precision = str(job.dtype).removeprefix("torch.")
    return [
        ("model", f"{job.model} on {job.device} in {precision} ({job.why})"),
        (
            "input",
            f"{clip.path}, {clip.source_size[1]}x{clip.source_size[0]}, {_frames_text(job)}, "
            f"{clip.masked_fraction:.0%} masked",
        ),
        *video_rows(job),
        *known_rows(job),
        ("put back", _put_back_text(job)),
        ("model size", f"{clip.size[1]}x{clip.size[0]}, {total} tokens: {parts}"),
        *_window_rows(job),
        (
            "sampling",
            f"{settings.num_steps} steps of {branches}, guidance {settings.cfg_scale:g}, "
            f"seed {settings.seed}, prompt {settings.prompt!r}",
        ),
    ]


def _frames_text(job: Job) -> str:
    """How many frames are edited, and of how much where the rest of the video is left out."""
    count, info, timeline = job.num_frames, job.source.info, job.source.timeline(job.num_frames)
    if info.packets is None:
        whole = f"{info.num_frames}" if (info.num_frames or 1) > count else None
    else:
        # By time: packets are not frames in every codec.
        end_s = info.packets.video.end_s
        left_s = 0 if end_s is None else end_s - timeline.end_s
        whole = f"{float(left_s + timeline.duration_s):.1f} s" if left_s > 0.5 / timeline.mean_rate else None
    return f"{count} frames" if whole is None else f"the first {count} frames of {whole} (--frames all: all of them)"


def known_rows(job: Job) -> list[Row]:
    """What was understood of the mask, and what the model is to see."""
    return [*([] if job.mask_report is None else job.mask_report.rows()), *_focus_rows(job), *_fill_rows(job)]


def _focus_rows(job: Job) -> list[Row]:
    asked, focus = job.source.options.focus, job.clip.placement.focus
    if asked == "off":
        return []
    if job.source.options.fit != "stretch":
        return [("focus", f"the whole picture, by --fit {job.source.options.fit}")]
    if focus is None:
        return [("focus", "the whole picture: the mask and its surroundings are nearly all of it")]
    top, left, height, width = focus
    scale = f"{job.clip.placement.scale:.3g}"
    unit = "pixel" if scale == "1" else "pixels"
    corner = f"from ({left}, {top})" + (", follows the mask from window to window" if len(set(job.boxes)) > 1 else "")
    return [("focus", f"{width}x{height} {corner}, {scale} {unit} of the model for one of the video")]


def _fill_rows(job: Job) -> list[Row]:
    fill, filled = job.fill, job.clip.filled
    if filled is None:
        names = {"none": "the original", "grey": "grey", "push_pull": "an interpolation of what is around it"}
        return [("under the mask", names.get(fill, "nothing to fill"))]
    seen, kept = shares(job.clip)
    where = "" if len(job.windows) == 1 else " of the first window"
    rows = [("under the mask", f"what other frames show ({seen:.0%}{where}), else an interpolation")]
    return rows if kept is None else [*rows, ("kept", f"{kept:.0%} of what is masked comes from other frames as it is")]


def _put_back_text(job: Job) -> str:
    colours = "colours matched to the surroundings" if job.match_colour else "colours as the model makes them"
    grain = ", with their grain" if job.regrain else ""
    restored = ""
    if job.restore_seen and job.clip.filled is not None and job.clip.kept is None:
        restored = "; what other frames show restored where the edit agrees with it"
    return f"{colours}{grain}, blended over {job.feather_px} pixels{restored}"


def video_rows(job: Job) -> list[Row]:
    """What the source is, what is done to it by the stated rules, how it is written, and warnings."""
    look = job.look
    rows = source_rows(job.source.info, job.source.timeline(job.num_frames))
    rows += [("rule", note) for note in notes_of(job.source, look)]
    quality = "without loss" if look.crf is None else f"crf {look.crf}"
    return [*rows, ("output", f"H.264 {look.pixels.name}, {quality}")]


def _window_rows(job: Job) -> list[Row]:
    if len(job.windows) == 1:
        return []
    known = sorted({window.known for window in job.windows[1:]})
    overlap = f"{known[0]}" if len(known) == 1 else f"{known[0]} to {known[-1]}"
    return [
        (
            "windows",
            f"{len(job.windows)} of {job.clip.num_frames} frames, all but the first begin with {overlap} "
            "finished ones; tokens above are the first window's",
        )
    ]
