"""Sees to it that a worker is there when a job waits: a killed one is followed by another."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import suppress

from hetcache.queue.store import Queue

LOOK_S = 0.5
IDLE_S = 120.0
"""A worker that has had nothing to do for so long ends and gives its memory back."""


class Supervisor:
    """Starts `hetcache-queue run` as a process of its own, which goes on when the server ends."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._stop = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Look no more. The worker goes on with what waits."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(LOOK_S):
            with suppress(OSError, ValueError):
                if self._process is not None and self._process.poll() is None:
                    continue
                unfinished = any(job.standing.state in ("waiting", "running") for job in self._queue.jobs())
                if unfinished and not self._queue.has_worker():
                    self._begin()

    def _begin(self) -> None:
        queue = ["--queue", str(self._queue.folder)]
        words = [sys.executable, "-m", "hetcache.queue", *queue, "run", "--idle", f"{IDLE_S:g}"]
        # Of the worker's progress bars nobody sees anything: the jobs' own files say how far they are.
        environment = {**os.environ, "TQDM_DISABLE": "1"}
        with (self._queue.folder / ".worker.log").open("wb") as log:
            self._process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )
