"""The command `inference.py`, installed as `hetcache`: parse, prepare, edit, save."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from hetcache.cli import parse
from hetcache.core.terminal import complain, meanwhile, say, take_any_character
from hetcache.files import UserError
from hetcache.run.options import Request

if TYPE_CHECKING:
    from hetcache.run.output import Outputs
    from hetcache.run.studio import Studio

PROGRAM = "inference.py"


def installed() -> int:
    """The console command, which goes by its own name in what it says."""
    return main(program="hetcache")


def main(argv: Sequence[str] | None = None, program: str = PROGRAM) -> int:
    """Exit code 0 when the edit is written, 2 for input or settings that cannot be run, 130 after Ctrl-C. With `batch`
    for its first word it is another command, `hetcache.batch.command`."""
    take_any_character()
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["batch"]:
        from hetcache.batch.command import main as batch

        return batch(words[1:])
    debug = False
    try:
        request = parse(words, program=program)
        debug = request.output.debug
        if request.files.probe is not None:
            show_probe(request.files.probe, request.files.as_json)
        else:
            run(request)
    except KeyboardInterrupt as interrupt:
        complain(f"\n{program}: interrupted: {str(interrupt) or 'no output was written'}")
        return 130
    except (ValueError, OSError, MemoryError) as error:
        if debug:
            raise
        complain(f"{program}{who()}: error: {error}")
        return 2
    return 0


def who() -> str:
    """Which of several processes speaks, where that is not the first."""
    rank = os.environ.get("RANK", "0")
    return "" if rank == "0" or "WORLD_SIZE" not in os.environ else f" (rank {rank})"


def show_probe(path: Path, as_json: bool) -> None:
    """Print what is read from a file: for a person, or as the `source` of a record."""
    from hetcache.files import to_json
    from hetcache.media.describe import probe_rows
    from hetcache.media.probe import probe, probe_facts, scanned
    from hetcache.media.timeline import read_timeline
    from hetcache.run.record import table

    info = scanned(probe(path, "file"))
    timeline = read_timeline(info)
    if as_json:
        say(to_json({"file": path, "source": {**probe_facts(info), **timeline.facts()}}).rstrip())
    else:
        say(table(probe_rows(info, timeline)))


def run(request: Request, studio: Studio | None = None) -> None:
    """Hold the outputs, then edit, with the model that `studio` holds; a plan writes none."""
    # Imported here and below: --help and a bad flag need none of it, and torch takes seconds to load.
    from hetcache.run.parallel import joined

    start = time.perf_counter()
    with joined(request) as mine:
        from hetcache.media.source import check_files
        from hetcache.run.output import check_outputs, sole_run

        outputs = check_outputs(mine)
        check_files(mine.video, mine.mask, mine.input)
        with nullcontext() if mine.output.plan else sole_run(outputs):
            run_held(mine, outputs, start, studio)


def run_held(request: Request, outputs: Outputs, start: float, studio: Studio | None = None) -> None:
    """Check everything that needs no model, then load, edit, composite, save and report. `start`: when the run began,
    by `time.perf_counter`."""
    with meanwhile("loading libraries"):
        from hetcache.modes.planning import check_plannable
        from hetcache.run.edit import edit_long, edit_short, ready
        from hetcache.run.job import prepare
        from hetcache.run.mask_picture import write_mask_picture
        from hetcache.run.record import summary_rows, table
        from hetcache.run.saving import save_seen, save_source
        from hetcache.run.studio import Studio
        from hetcache.run.summary import known_rows, plan_rows, video_rows

    if request.output.wish is not None:
        from hetcache.modes.exact import check_exact

        check_exact(request.mode, request.config)
    elif request.output.plan or request.output.target_speedup is not None:
        check_plannable(request.mode, request.output.target_speedup)
        if request.output.target_speedup is not None and getattr(request.config, "decisions", None) is not None:
            raise UserError("--decisions is a plan already: leave --target-speedup out")
    studio = studio or Studio()
    with studio.stage("preparing the video, its mask and what goes under it"):
        job = prepare(request, outputs)
    if len(job.windows) == 1 and not job.clip.source_mask_THW.any():
        say(table([*video_rows(job), *([] if job.mask_report is None else job.mask_report.rows())]))
        say("the mask is empty: there is nothing to plan" if job.plan else save_source(job))
        return
    if len(job.windows) == 1 and not job.clip.mask_THW.any():
        say(table([*video_rows(job), *known_rows(job)]))
        say("nothing is left to invent: there is nothing to plan" if job.plan else save_seen(job))
        return
    context = job.context(job.config)
    say(table(plan_rows(job, context)))
    if job.plan:
        ready(job, context, studio)
        if job.mask_report is not None:
            say(f"  mask over the video: {write_mask_picture(job)}")
        return
    record = edit_long(job, context, studio) if len(job.windows) > 1 else edit_short(job, context, start, studio)
    say(table(summary_rows(record)))
