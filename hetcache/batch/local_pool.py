"""Workers as processes of this machine, one a slot; on GPUs each sees one of them."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from hetcache.batch.pool import Ended, Event, Lost, Stepped
from hetcache.batch.task import Task
from hetcache.files import ROOT, to_json
from hetcache.run.attempt import Outcome

WAIT_S = 0.5
TIDY_S = 15.0
"""How long an interrupted worker may take to remove what it has half-written."""


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    log: Path
    is_busy: bool = False
    unread: bytes = b""

    @property
    def events(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout

    @property
    def tasks(self) -> IO[bytes]:
        assert self.process.stdin is not None
        return self.process.stdin


class LocalPool:
    """See `hetcache.batch.pool.Pool`. `environments`: what each slot's worker finds changed in its environment, such
    as its CUDA_VISIBLE_DEVICES. Use as a context manager: on leaving, no worker is left, nor anything that it
    started."""

    def __init__(self, environments: Sequence[Mapping[str, str]], prompts: Sequence[str] = ()) -> None:
        self.slots = range(len(environments))
        self._environments = environments
        self._prompts = list(prompts)
        self._workers: dict[int, _Worker] = {}
        self._logs = tempfile.TemporaryDirectory(prefix="hetcache-batch-")

    def __enter__(self) -> LocalPool:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def submit(self, slot: int, task: Task) -> None:
        worker = self._workers.get(slot) or self._start(slot)
        worker.is_busy = True
        # One that has ended meanwhile is seen by `wait`.
        with suppress(BrokenPipeError):
            worker.tasks.write(to_json(task.to_json(), indent=None).encode() + b"\n")
            worker.tasks.flush()

    def wait(self) -> list[Event]:
        found: list[Event] = []
        with selectors.DefaultSelector() as selector:
            for slot, worker in self._workers.items():
                selector.register(worker.events, selectors.EVENT_READ, slot)
            for key, _ in selector.select(WAIT_S):
                found += self._read(key.data)
        return found

    def drop(self, slot: int) -> None:
        worker = self._workers.pop(slot, None)
        if worker is not None:
            _kill(worker)

    def close(self) -> None:
        """A second Ctrl-C kills at once."""
        workers, self._workers = list(self._workers.values()), {}
        try:
            for worker in workers:
                if worker.is_busy:
                    with suppress(ProcessLookupError):
                        worker.process.send_signal(signal.SIGINT)
            for worker in workers:
                if worker.is_busy:
                    with suppress(subprocess.TimeoutExpired):
                        worker.process.wait(TIDY_S)
        finally:
            for worker in workers:
                _kill(worker)
            self._logs.cleanup()

    def _start(self, slot: int) -> _Worker:
        log = Path(self._logs.name, f"worker_{slot}.log")
        paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        with log.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "hetcache.batch.worker", to_json(self._prompts, indent=None)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                env={**os.environ, "PYTHONPATH": paths, **self._environments[slot]},
                # Ctrl-C is for the batch, which then tells its workers.
                start_new_session=True,
            )
        self._workers[slot] = _Worker(process, log)
        return self._workers[slot]

    def _read(self, slot: int) -> list[Event]:
        worker = self._workers[slot]
        got = os.read(worker.events.fileno(), 1 << 16)
        if not got:
            worker.process.wait()
            if worker.is_busy:
                return [Lost(slot, _obituary(worker))]
            self.drop(slot)
        *lines, worker.unread = (worker.unread + got).split(b"\n")
        return [self._event(slot, worker, json.loads(line)) for line in lines]

    def _event(self, slot: int, worker: _Worker, said: Mapping[str, Any]) -> Event:
        if "done" in said:
            return Stepped(slot, said["done"], said["count"])
        worker.is_busy = False
        return Ended(slot, Outcome(said["error"], said["is_final"]))


def _obituary(worker: _Worker) -> str:
    """How a worker ended, with the last line that it wrote."""
    code = worker.process.returncode
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    lines = worker.log.read_text(encoding="utf-8", errors="replace").split("\n")
    said = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f"its worker was ended {how}" + (f"; it last wrote: {said.split(chr(13))[-1][-200:]}" if said else "")


def _kill(worker: _Worker) -> None:
    """The worker and what it has started, all of which are in its process group."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(worker.process.pid, signal.SIGKILL)
    worker.process.wait()
    for stream in (worker.events, worker.tasks):
        with suppress(OSError):
            stream.close()
