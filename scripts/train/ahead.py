"""Drawing training clips in worker processes, some batches ahead: a GPU waits for nobody."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, TypeVar

import torch

T = TypeVar("T")


class Ahead:
    """Calls `job(*arguments())`, in `workers` processes and as many calls ahead, or here and now when there are none.

    Results come in the order of the calls, so a run draws the same clips with any number of workers.
    """

    def __init__(self, workers: int) -> None:
        self.depth = 2 * workers
        # Spawned, not forked: a forked process would inherit CUDA and PyTorch's threads in an unknown state.
        start = {"mp_context": get_context("spawn"), "initializer": torch.set_num_threads, "initargs": (1,)}
        self.pool = ProcessPoolExecutor(workers, **start) if workers else None
        self.queue: deque[Future[Any]] = deque()

    def take(self, job: Callable[..., T], arguments: Callable[[], tuple[Any, ...]]) -> T:
        """The next result; `job` is a function of a module, its arguments and result can be pickled."""
        if self.pool is None:
            return job(*arguments())
        while len(self.queue) <= self.depth:
            self.queue.append(self.pool.submit(job, *arguments()))
        result: T = self.queue.popleft().result()
        return result

    def close(self) -> None:
        """Ends the workers; what was drawn ahead is dropped."""
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)
            self.queue.clear()
