"""The worker: one process that runs the jobs of a queue one after another and keeps the model loaded."""

from __future__ import annotations

import signal
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from types import FrameType

from hetcache.core.terminal import say
from hetcache.files import UserError
from hetcache.queue.job import QueuedJob, State
from hetcache.queue.store import Queue
from hetcache.queue.watch import StepWatch
from hetcache.run.attempt import go_on
from hetcache.run.options import Request
from hetcache.run.studio import Studio

LOOK_S = 0.3
"""How often an idle worker looks for a job."""


def work(queue: Queue, until_empty: bool = False, idle_s: float | None = None) -> None:
    """Run the waiting jobs as they come, until the process is told to stop, until none waits, or until none has come
    for `idle_s`. Raises UserError when another worker is at it."""
    lock = queue.worker_lock()
    # Whoever only looks whether there is a worker holds its lock for a moment.
    for _ in range(5):
        if lock is None:
            time.sleep(0.1)
            lock = queue.worker_lock()
    if lock is None:
        raise UserError(f"queue {queue.folder}: another worker is at it; one is enough")
    with lock, stopped_by(signal.SIGTERM):
        for left in queue.recover():
            say(f"job {left.number}: {left.standing.state} after its worker was killed")
        studio = Studio()
        idle_since = time.monotonic()
        while True:
            job = queue.take()
            if job is not None:
                do(queue, job, studio)
                idle_since = time.monotonic()
            elif until_empty or (idle_s is not None and time.monotonic() - idle_since > idle_s):
                return
            else:
                time.sleep(LOOK_S)


def do(queue: Queue, job: QueuedJob, studio: Studio) -> None:
    """Run one job to its end and settle it. Raises KeyboardInterrupt when the worker is told to stop; the job then
    waits again."""
    say(f"job {job.number}: {job.title}, {'resumed' if job.standing.attempts > 1 else 'begun'}")
    state: State = "failed"
    stopped = False
    message = ""
    try:
        with job.log.open("a", encoding="utf-8", errors="backslashreplace") as log, redirect_stdout(log):
            try:
                run_job(job, studio)
                state = "done"
            except Exception as error:
                message = one_line(error)
                log.write(f"{message}\n" if isinstance(error, ValueError | OSError) else traceback.format_exc())
    except KeyboardInterrupt as interrupt:
        state = "cancelled" if job.is_cancelled else "waiting"
        stopped = not job.is_cancelled
        message = str(interrupt) if job.is_cancelled else "its worker was stopped: it goes on with the next one"
    except OSError as error:
        # The log itself cannot be written.
        message = one_line(error)
    settle(queue, job, state, message)
    say(f"job {job.number}: {state}" + (f" ({message})" if message else ""))
    if stopped:
        raise KeyboardInterrupt


def settle(queue: Queue, job: QueuedJob, state: State, message: str) -> None:
    """Write the job's state; on a full disk as soon as there is room for it, since no other job can be run before."""
    told = False
    while True:
        try:
            queue.settle(job, state, message)
            return
        except OSError as error:
            if not told:
                say(f"job {job.number}: {state}, but its state cannot be written ({error.strerror or error}); waiting")
            told = True
            time.sleep(1)


def run_job(job: QueuedJob, studio: Studio) -> None:
    """Edit as `inference.py` does. Windows that an earlier attempt finished are kept if they are this very run's."""
    request = job.request()
    say("$ inference.py " + " ".join(job.words_with_files()))
    watch = StepWatch(job, count_edits(request))
    studio.watch, studio.told = watch, watch.tell
    watch.check()
    go_on(request, studio)


def count_edits(request: Request) -> int:
    """How many times the model runs: windows, or the three runs of --compare. Raises ValueError as the run would."""
    from hetcache.media.source import Source
    from hetcache.models import choose_model, model_info
    from hetcache.run.job import choose_device
    from hetcache.run.length import plan_length

    if request.output.compare:
        return 3
    device, _ = choose_device(request.model)
    info = model_info(choose_model(request.model.model, device.startswith("cuda"))[0])
    return len(plan_length(request, Source.open(request.video, request.mask, request.input), info.window)[1])


def one_line(error: BaseException) -> str:
    """What went wrong, for a list of jobs."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {text} (the log has more)"


@contextmanager
def stopped_by(number: signal.Signals) -> Iterator[None]:
    """The signal stops the process as Ctrl-C does, so that the job under way goes back to the waiting ones."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(number, stop)
    try:
        yield
    finally:
        signal.signal(number, before)
