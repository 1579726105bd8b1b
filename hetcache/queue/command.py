"""The command `hetcache-queue`: edits that wait for their turn, and the worker that does them."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from hetcache.cli import OneLineParser, parse
from hetcache.core.terminal import complain, say, take_any_character
from hetcache.queue.job import QueuedJob, span
from hetcache.queue.store import Queue, default_queue

PROGRAM = "hetcache-queue"
EPILOG = """examples:
  hetcache-queue add --video clip.mp4 --mask mask.mp4 --mode hetcache --report
  hetcache-queue run --until-empty
  hetcache-queue list
  hetcache-queue cancel 3
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0, 2 for what cannot be done, 130 after Ctrl-C."""
    take_any_character()
    words = list(sys.argv[1:] if argv is None else argv)
    # What follows `add` is inference.py's own.
    at = words.index("add") + 1 if "add" in words[:3] else len(words)
    asked = build_parser().parse_args(words[:at])
    try:
        act(asked, Queue(asked.queue), words[at:])
    except KeyboardInterrupt:
        complain(f"{PROGRAM}: stopped; a job under way goes on with the next worker")
        return 130
    except (ValueError, OSError) as error:
        complain(f"{PROGRAM}: error: {error}")
        return 2
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        PROGRAM,
        description="Edits that wait for their turn: folders on disk, and one worker that keeps the model loaded.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--queue", type=Path, default=default_queue(), metavar="FOLDER", help="the queue's folder (default %(default)s)"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("add", help="add an edit: all flags of inference.py; its inputs are copied", add_help=False)
    commands.add_parser("list", help="show all jobs")
    for name, text in (
        ("cancel", "end a job: a waiting one at once, a running one within a step"),
        ("again", "let a failed or cancelled job wait once more; its finished windows are kept"),
        ("remove", "delete a job that is not running, with its output"),
        ("log", "show what a job said"),
    ):
        commands.add_parser(name, help=text).add_argument("number", type=int, metavar="NUMBER")
    worker = commands.add_parser("run", help="be the worker: run the jobs one after another")
    worker.add_argument("--until-empty", action="store_true", help="stop when no job waits")
    worker.add_argument("--idle", type=float, metavar="SECONDS", help="stop when no job has come for so long")
    return parser


def act(asked: argparse.Namespace, queue: Queue, words: list[str]) -> None:
    """Raises ValueError or OSError, one line."""
    command = asked.command
    if command == "add":
        job = queue.add(parse(words))
        say(f"job {job.number} waits; it will write {job.video}")
        if not queue.has_worker():
            say(f"no worker is at it: {PROGRAM} run")
    elif command == "list":
        show(queue)
    elif command == "log":
        job = queue.job(asked.number)
        say(job.log.read_text(encoding="utf-8").rstrip() if job.log.exists() else f"job {job.number}: not begun")
    elif command == "cancel":
        was = queue.cancel(asked.number)
        say(f"job {asked.number}: " + ("cancelled" if was == "waiting" else "ends after its step"))
    elif command == "again":
        queue.again(asked.number)
        say(f"job {asked.number} waits")
    elif command == "remove":
        queue.remove(asked.number)
        say(f"job {asked.number}: removed")
    else:
        # Torch takes seconds to load, and nothing else here needs it.
        from hetcache.queue.worker import work

        work(queue, asked.until_empty, asked.idle)


def show(queue: Queue) -> None:
    jobs = queue.jobs()
    if not jobs:
        say(f"no jobs in {queue.folder}")
    for job in jobs:
        state = job.standing.state
        say(f"{job.number:5d}  {state:9s}  {job.title:24s}  {described(job)}")
    if any(job.standing.state == "waiting" for job in jobs) and not queue.has_worker():
        say(f"no worker is at it: {PROGRAM} run")


def described(job: QueuedJob) -> str:
    """What there is to say about a job in its state."""
    standing = job.standing
    if standing.state == "running":
        return "ends after its step" if job.is_cancelled else job.progress.describe()
    if standing.state == "done" and standing.started is not None and standing.ended is not None:
        return f"{job.video} ({span(standing.ended - standing.started)})"
    if standing.message:
        return standing.message
    return f"{shlex.join(job.words)} (added {time.strftime('%H:%M', time.localtime(job.added))})"
