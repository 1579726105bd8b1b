"""The queue's folder: jobs added, listed and moved from state to state, by several processes at once."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO

from hetcache.cli import words_of_request
from hetcache.files import UserError, locked
from hetcache.queue.job import ENDED, QueuedJob, Standing, State
from hetcache.run.options import Request

MAX_ATTEMPTS = 3
"""Workers that may die in a job before it counts as failed."""

LOCK_WAIT_S = 30.0


def default_queue() -> Path:
    """`HETCACHE_QUEUE`, else XDG_DATA_HOME/hetcache/queue, else ~/.local/share/hetcache/queue."""
    chosen = os.environ.get("HETCACHE_QUEUE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser() / "hetcache" / "queue"


class Queue:
    """A folder of job folders, `00001` and up. A job appears whole or not at all; its state changes under a lock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"queue {folder}: cannot be made ({error.strerror or error}); give another --queue"
            ) from error

    def add(self, request: Request, owner: str = "", title: str = "", link: bool = False) -> QueuedJob:
        """A new job for the request, with its own copy of the inputs, or hard links to them with `link`: for files that
        nobody writes to again. Raises UserError for what is no job, and when the disk is full."""
        if request.output.plan or request.files.probe is not None:
            raise UserError("--plan and --probe answer at once: use inference.py for them, the queue runs edits")
        if request.edit.parallel != "off":
            raise UserError("--parallel is for several processes, which torchrun starts: the queue's worker is one")
        output = None if request.output.output is None else request.output.output.absolute()
        bare = replace(
            request,
            files=replace(request.files, video=None, mask=None),
            output=replace(request.output, output=None, resume=False),
        )
        temporary = Path(tempfile.mkdtemp(prefix=".new-", dir=self.folder))
        try:
            inputs = {}
            for name, path in (("video", request.files.video), ("mask", request.files.mask)):
                if path is not None:
                    inputs[name] = _take(path, temporary / "input" / name, name, link)
            name = title or request.video.name
            where = None if output is None else str(output)
            job = QueuedJob(temporary, tuple(words_of_request(bare)), name, time.time(), owner, inputs, where)
            job.write()
            job.put(Standing())
            with self.changing():
                folder = self.folder / f"{max(self._numbers(), default=0) + 1:05d}"
                temporary.rename(folder)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise UserError(f"queue {self.folder}: job not added ({error.strerror or error})") from error
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        return QueuedJob.read(folder)

    def jobs(self) -> list[QueuedJob]:
        """All jobs that can be read, the oldest first."""
        found = []
        for number in sorted(self._numbers()):
            try:
                found.append(QueuedJob.read(self.folder / f"{number:05d}"))
            except UserError:
                continue
        return found

    def job(self, number: int) -> QueuedJob:
        """Raises UserError for a number that no job has."""
        folder = self.folder / f"{number:05d}"
        if not folder.is_dir():
            raise UserError(f"job {number}: there is none in {self.folder}; hetcache-queue list shows them")
        return QueuedJob.read(folder)

    def take(self) -> QueuedJob | None:
        """The oldest waiting job, now running; None when none waits. For the worker alone."""
        with self.changing():
            for job in self.jobs():
                standing = job.standing
                if standing.state == "waiting":
                    job.forget_cancel()
                    job.put(Standing("running", "", time.time(), None, standing.attempts + 1))
                    return job
        return None

    def settle(self, job: QueuedJob, state: State, message: str = "") -> None:
        """A running job's end, or its return to the waiting ones, which then does not count as an attempt."""
        with self.changing():
            standing = job.standing
            attempts = standing.attempts - (state == "waiting")
            ended = time.time() if state in ENDED else None
            job.put(replace(standing, state=state, message=message, ended=ended, attempts=attempts))
            job.forget_cancel()

    def recover(self) -> list[QueuedJob]:
        """What a killed worker left running waits again, or is cancelled if that was asked; for the worker alone, while
        it holds its lock. A job in which MAX_ATTEMPTS workers died has failed."""
        left = []
        with self.changing():
            for job in self.jobs():
                standing = job.standing
                if standing.state != "running":
                    continue
                left.append(job)
                if job.is_cancelled:
                    job.put(replace(standing, state="cancelled", ended=time.time()))
                elif standing.attempts >= MAX_ATTEMPTS:
                    message = f"the worker was killed {standing.attempts} times in this job; is there enough memory?"
                    job.put(replace(standing, state="failed", message=message, ended=time.time()))
                else:
                    job.put(replace(standing, state="waiting", message="its worker was killed: it goes on"))
        return left

    def cancel(self, number: int) -> State:
        """End a job: a waiting one at once, a running one within a step. Returns the state it was in. Raises UserError
        for one that has ended."""
        with self.changing():
            job = self.job(number)
            standing = job.standing
            if standing.state in ENDED:
                raise UserError(f"job {number}: is {standing.state} already")
            if standing.state == "waiting":
                job.put(replace(standing, state="cancelled", message="", ended=time.time()))
            else:
                job.ask_to_cancel()
        return standing.state

    def again(self, number: int) -> None:
        """Let a job that failed or was cancelled wait once more; finished windows are kept. Raises UserError."""
        with self.changing():
            job = self.job(number)
            state = job.standing.state
            if state not in ("failed", "cancelled"):
                raise UserError(f"job {number}: is {state}; only a failed or cancelled one can be run again")
            job.put(Standing())

    def remove(self, number: int) -> None:
        """Delete a job's folder with all that is in it. Raises UserError for a running one."""
        with self.changing():
            job = self.job(number)
            if job.standing.state == "running":
                raise UserError(f"job {number}: is running; cancel it first")
            # Gone at once for everybody, however long the deletion takes.
            grave = self.folder / f".old-{job.folder.name}-{time.time_ns()}"
            job.folder.rename(grave)
        shutil.rmtree(grave, ignore_errors=True)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the queue's lock while states change. Raises UserError when somebody else holds it for very long."""
        until = time.monotonic() + LOCK_WAIT_S
        while (file := locked(self.folder / ".lock")) is None:
            if time.monotonic() > until:
                raise UserError(f"queue {self.folder}: locked by another program for {LOCK_WAIT_S:.0f} s; try again")
            time.sleep(0.02)
        try:
            yield
        finally:
            file.close()

    def worker_lock(self) -> IO[bytes] | None:
        """Held by the one worker as long as it lives; None when there is one already."""
        return locked(self.folder / ".worker")

    def has_worker(self) -> bool:
        """Whether a worker lives now."""
        file = self.worker_lock()
        if file is not None:
            file.close()
        return file is None

    def _numbers(self) -> list[int]:
        return [int(path.name) for path in self.folder.iterdir() if path.name.isdigit() and path.is_dir()]


def _take(path: Path, target: Path, what: str, link: bool) -> str:
    """Copy or link a file or a folder of frames; returns its path relative to the job."""
    if path.is_dir():
        shutil.copytree(path, target / path.name, copy_function=_link if link else shutil.copy2)
    elif path.is_file():
        target.mkdir(parents=True)
        (_link if link else shutil.copy2)(path, target / path.name)
    else:
        raise UserError(f"{what} {path}: no such file")
    return str(Path("input", target.name, path.name))


def _link(path: str | Path, target: str | Path) -> None:
    """A hard link, or a copy where the two are on different disks."""
    try:
        os.link(path, target)
    except OSError:
        shutil.copy2(path, target)
