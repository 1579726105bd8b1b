"""What looks at every step of a job: writes how far it is, and ends it when that was asked."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace

from hetcache.core.trace import StepRecord
from hetcache.core.vocabulary import Step
from hetcache.queue.job import Progress, QueuedJob

WRITE_S = 0.25
"""A short step's progress is not worth a file of its own."""


class CancelledError(KeyboardInterrupt):
    """Somebody asked for the end of the job. Like Ctrl-C it is no error of the run, which keeps its windows."""


class StepWatch:
    """Called after each step of a job with the step and its records."""

    def __init__(self, job: QueuedJob, num_edits: int) -> None:
        self._job = job
        self._progress = Progress(0, num_edits)
        self._last = time.perf_counter()
        self._written = 0.0
        self._put(Progress(1, num_edits))

    def __call__(self, step: Step, records: list[StepRecord]) -> None:
        """Raises CancelledError."""
        before, now = self._progress, time.perf_counter()
        letter = records[0].compute.value if records else "-"
        if step.is_first:
            before = Progress(before.edit + 1, before.num_edits, step.count)
        # The first step of an edit was preceded by loading and encoding, which no later step repeats.
        times = () if step.is_first else (*before.step_s, now - self._last)
        self._last = now
        self._progress = Progress(before.edit, before.num_edits, step.count, before.decisions + letter, times)
        if step.is_last or now - self._written > WRITE_S:
            self._put(self._progress)
            self._written = now
        self.check()

    def tell(self, words: str) -> None:
        """What is done before the first step. Raises CancelledError."""
        self._put(replace(self._progress, edit=max(self._progress.edit, 1), stage=words))
        self.check()

    def check(self) -> None:
        """Raises CancelledError if somebody asked for it."""
        if self._job.is_cancelled:
            raise CancelledError("cancelled")

    def _put(self, progress: Progress) -> None:
        # On a full disk the run itself will say so, in better words.
        with suppress(OSError):
            self._job.put_progress(progress)
