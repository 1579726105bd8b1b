"""The process of one worker: `python -m hetcache.batch.worker`. Tasks come as JSON lines on standard input, events go
out as JSON lines on what was standard output; what runs print goes to the worker's log, its standard error.

It leads a process group of its own, ffmpeg with it, and takes it down when its parent is gone: no orphan stays.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from queue import SimpleQueue
from typing import IO, Any

from hetcache.batch.task import Task
from hetcache.files import to_json


def main(prompts: Sequence[str]) -> int:
    """Exit code 130 after SIGINT, which interrupts a run cleanly."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8") as events:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        tasks: SimpleQueue[str] = SimpleQueue()
        threading.Thread(target=_read, args=(sys.stdin, tasks), daemon=True).start()
        try:
            _serve(tasks, events, prompts)
        except KeyboardInterrupt:
            return 130
    return 0


def _serve(tasks: SimpleQueue[str], events: IO[str], prompts: Sequence[str]) -> None:
    from hetcache.batch.runner import Runner

    def tell(**event: Any) -> None:
        events.write(to_json(event, indent=None) + "\n")
        events.flush()

    runner = Runner(prompts, lambda done, count: tell(done=done, count=count))
    while True:
        outcome = runner(Task.of(json.loads(tasks.get())))
        tell(error=outcome.error, is_final=outcome.is_final)


def _read(stream: IO[str], tasks: SimpleQueue[str]) -> None:
    """Runs in a thread, so that the end of the parent is seen in mid-run."""
    for line in stream:
        tasks.put(line)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
