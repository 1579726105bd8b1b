"""Two runs in one process that take turns: one computes a step, then the other, so that whatever else the machine does
slows both alike.

Each run has a thread, and only the one whose turn it is computes: what both share, weights above all, is never used by
two at a time. A run gives its turn away by `wait`; one that ends leaves the turn to the other for good; one that raises
makes the other's next `wait` raise `StoppedError`.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Condition, Thread
from typing import Generic, TypeVar

T = TypeVar("T")
Wait = Callable[[], None]


class StoppedError(Exception):
    """Raised in a run whose counterpart has failed, so that it ends; nobody outside sees it."""


class Turns(Generic[T]):
    """`run(first, second)`: `first` in the calling thread, which Ctrl-C interrupts, `second` in another. Both are
    called with their `wait`; the first begins. A pair runs once."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._turn = 0
        self._has_ended = [False, False]
        self._is_stopped = False

    def run(self, first: Callable[[Wait], T], second: Callable[[Wait], T]) -> tuple[T, T]:
        """Both results. Raises what a run raises, the first one's if both do, after the other has ended too."""
        results: dict[int, T] = {}
        errors: dict[int, BaseException] = {}

        def play(number: int, run: Callable[[Wait], T]) -> None:
            try:
                self._take(number)
                results[number] = run(lambda: self._pass_on(number))
            except StoppedError:
                pass
            except BaseException as error:  # an interrupt of the first must end the second, too
                errors[number] = error
                self._stop()
            finally:
                self._end(number)

        thread = Thread(target=play, args=(1, second), name="hetcache-second-run")
        thread.start()
        try:
            play(0, first)
        finally:
            self._wait_for(thread)
        for number in sorted(errors):
            raise errors[number]
        return results[0], results[1]

    def _wait_for(self, thread: Thread) -> None:
        """An interrupt while the second is still at work ends that, too: at its next `wait`."""
        try:
            thread.join()
        except BaseException:
            self._stop()
            thread.join()
            raise

    def _pass_on(self, number: int) -> None:
        with self._changed:
            if not self._has_ended[1 - number]:
                self._turn = 1 - number
                self._changed.notify_all()
        self._take(number)

    def _take(self, number: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._turn == number or self._is_stopped)
            if self._is_stopped:
                raise StoppedError

    def _stop(self) -> None:
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()

    def _end(self, number: int) -> None:
        with self._changed:
            self._has_ended[number] = True
            self._turn = 1 - number
            self._changed.notify_all()
