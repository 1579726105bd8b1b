"""How many frames a run edits, in which windows, and what cannot be asked of so many."""

from __future__ import annotations

from collections.abc import Sequence

from hetcache.core.options import EditSettings
from hetcache.media.ffmpeg import VideoError
from hetcache.media.sizes import check_frame_count, largest_4k_plus_1, smallest_4k_plus_1
from hetcache.media.source import Source
from hetcache.media.windows import Window, check_window, default_overlap, plan_windows
from hetcache.run.options import Output, Request


def plan_length(request: Request, source: Source, model_window: int) -> tuple[int, list[Window]]:
    """(frames to edit, windows that cover them). `--frames all`, `--window` and `--overlap` allow any length; else the
    frames are one window, which `--fit pad` fills up and `--fit crop` cuts to 4k + 1. Raises VideoError."""
    asked, fit = request.length, source.options.fit
    num_frames = source.length() if asked.frames == "all" else asked.frames
    if asked.frames != "all" and asked.window is None and asked.overlap is None and not request.output.resume:
        if fit == "stretch":
            check_frame_count(num_frames)
        elif fit == "crop":
            num_frames = largest_4k_plus_1(num_frames)
        return num_frames, [Window(0, smallest_4k_plus_1(num_frames), 0)]
    length = model_window if asked.window is None else asked.window
    overlap = default_overlap(length) if asked.overlap is None else asked.overlap
    check_window(length, overlap)
    if asked.frames != "all":
        source.length(num_frames)
    if fit == "crop" and num_frames <= length:
        num_frames = largest_4k_plus_1(num_frames)
    return num_frames, plan_windows(num_frames, length, overlap)


def check_windows(wanted: Output, settings: EditSettings, num_frames: int, windows: Sequence[Window]) -> None:
    """Raises VideoError for what is for one window alone, or for several."""
    if len(windows) > 1 and (wanted.compare or wanted.report):
        raise VideoError(
            f"--compare and --report show one window and these {num_frames} frames need {len(windows)}: "
            f"give --frames {windows[0].count} to look at the first"
        )
    if len(windows) > 1 and wanted.seconds is not None:
        raise VideoError(
            f"--seconds is for one window and these {num_frames} frames need {len(windows)}: give --target-speedup, or "
            f"--frames {windows[0].count}"
        )
    if wanted.seconds is not None and settings.parallel != "off":
        raise VideoError(
            "--seconds: processes would time the steps each by itself; give --target-speedup, or no --parallel"
        )
    if len(windows) == 1 and wanted.resume:
        raise VideoError(f"--resume: these {num_frames} frames are one window, which leaves nothing to go on from")
