"""Workers as actors of a Ray cluster, whose machines have this package and see the same files (or URLs)."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from hetcache.batch.pool import Ended, Event, Lost
from hetcache.batch.task import Task
from hetcache.files import ROOT, UserError
from hetcache.run.attempt import Outcome

WAIT_S = 0.5
START_S = 600.0
"""How long the cluster may have no worker at all before the batch gives up."""
BAD_STARTS = 3
CONNECT_S = 10.0


class RayWorker:
    """What an actor is made of. Exceptions of ours do not survive the way back, so that outcomes are plain values."""

    def __init__(self, prompts: Sequence[str]) -> None:
        from hetcache.batch.runner import Runner

        self._runner = Runner(prompts)

    def ready(self) -> str:
        return socket.gethostname()

    def run(self, task: dict[str, Any]) -> tuple[str | None, bool]:
        outcome = self._runner(Task.of(task))
        return outcome.error, outcome.is_final


def check_reachable(address: str) -> None:
    """Raises UserError for a HOST:PORT that does not answer: Ray itself would go on trying for minutes."""
    host, _, port = address.rpartition(":")
    if "/" in address or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"--ray {address}: no cluster there ({error}); start one with ray start --head") from error


@dataclass
class _Actor:
    handle: Any
    starting: Any
    running: Any = None


class RayPool:
    """See `hetcache.batch.pool.Pool`. `address` is `auto` or a cluster's; workers on a CPU each, or on a GPU each, all
    of the cluster where no number is given. A worker that the cluster has no room for yet gets no task. Steps are not
    told. Raises UserError without Ray and for a cluster that cannot be reached."""

    def __init__(self, address: str, workers: int | None, gpus: int | None, prompts: Sequence[str] = ()) -> None:
        # Ray reports its use to its makers unless it is told not to, before it is imported.
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        try:
            import ray
        except ImportError as error:
            raise UserError("--ray: Ray is not installed: pip install 'hetcache[ray]'") from error
        self._ray: Any = ray
        check_reachable(address)
        paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        variables = {"PYTHONPATH": paths}
        variables |= {name: os.environ[name] for name in ("OMP_NUM_THREADS", "HETCACHE_CACHE") if name in os.environ}
        try:
            ray.init(address=address, log_to_driver=False, runtime_env={"env_vars": variables})
        except (ConnectionError, ValueError, RuntimeError) as error:
            cause = str(error).strip().splitlines()[0]
            raise UserError(f"--ray {address}: no cluster there ({cause}); start one with ray start --head") from error
        there = int(ray.cluster_resources().get("GPU", 0))
        on_cpu = workers is not None or (gpus is None and not there)
        self._needs = {"num_cpus": 1, "num_gpus": 0 if on_cpu else 1}
        self._prompts = list(prompts)
        self._bad_starts = 0
        self._empty_since = time.monotonic()
        self._actors: dict[int, _Actor] = {}
        for slot in range((workers or 1) if on_cpu else gpus or there):
            self._start(slot)

    def __enter__(self) -> RayPool:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def slots(self) -> Sequence[int]:
        return [slot for slot, actor in self._actors.items() if actor.starting is None]

    def submit(self, slot: int, task: Task) -> None:
        actor = self._actors[slot]
        actor.running = actor.handle.run.remote(task.to_json())

    def wait(self) -> list[Event]:
        of_slot = {actor.starting or actor.running: slot for slot, actor in self._actors.items()}
        of_slot.pop(None, None)
        if not of_slot:
            time.sleep(WAIT_S)
            return []
        done, _ = self._ray.wait(list(of_slot), num_returns=1, timeout=WAIT_S)
        events = [event for each in done if (event := self._told(of_slot[each], each)) is not None]
        if self.slots:
            self._empty_since = time.monotonic()
        elif time.monotonic() - self._empty_since > START_S:
            raise UserError(f"--ray: the cluster has had no room for a worker for {START_S:g} s ({self._needs})")
        return events

    def drop(self, slot: int) -> None:
        self._kill(self._actors.pop(slot))
        self._start(slot)

    def close(self) -> None:
        for actor in self._actors.values():
            self._kill(actor)
        self._actors = {}
        self._ray.shutdown()

    def _start(self, slot: int) -> None:
        options = {**self._needs, "max_restarts": 0, "max_task_retries": 0}
        handle = self._ray.remote(RayWorker).options(**options).remote(self._prompts)
        self._actors[slot] = _Actor(handle, handle.ready.remote())

    def _told(self, slot: int, reference: Any) -> Event | None:
        actor = self._actors[slot]
        try:
            value = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            cause = str(error).strip().splitlines()[0]
            if actor.starting is None:
                return Lost(slot, f"its worker was lost ({cause})")
            self._bad_starts += 1
            if self._bad_starts > BAD_STARTS and not self.slots:
                raise UserError(f"--ray: workers cannot start on this cluster ({cause})") from error
            self.drop(slot)
            return None
        if actor.starting is not None:
            actor.starting, self._bad_starts = None, 0
            return None
        actor.running = None
        return Ended(slot, Outcome(*value))

    def _kill(self, actor: _Actor) -> None:
        with suppress(Exception):
            self._ray.kill(actor.handle, no_restart=True)
