"""How long a study will take, before and while it runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from hetcache.benchmark.cells import Cell

USUAL_SHARE = 0.25
"""Of an uncached run's time: the mean over a curve from 2x to 12x, before the method has been seen."""


class Pace:
    """Seconds of cells, from those that have run: of the uncached run at each length, and the share of it that a method
    takes."""

    def __init__(self, num_steps: int) -> None:
        self._num_steps = num_steps
        self._uncached: dict[int, list[float]] = defaultdict(list)
        self._shares: dict[str, list[float]] = defaultdict(list)

    def saw(self, cell: Cell, frames: int, seconds: float) -> None:
        """A run's seconds, without those of its figures. The uncached run of a length comes before the others."""
        if cell.method.name == "baseline":
            self._uncached[frames].append(seconds)
        elif self._uncached[frames]:
            self._shares[cell.method.name].append(seconds / self._mean(self._uncached[frames]))

    def expected(self, cells: Iterable[tuple[Cell, int]]) -> float:
        """Seconds of (cell, frames) that have not run; a length that has not been seen takes its frames' share of one
        that has."""
        return sum(self._share(cell) * self._whole(frames) for cell, frames in cells)

    def _share(self, cell: Cell) -> float:
        name = cell.method.name
        if name == "baseline":
            return 1.0
        if self._shares[name]:
            return self._mean(self._shares[name])
        return USUAL_SHARE if cell.method.num_steps is None else cell.method.num_steps / self._num_steps

    def _whole(self, frames: int) -> float:
        known = {length: self._mean(seen) for length, seen in self._uncached.items() if seen}
        if frames in known or not known:
            return known.get(frames, 0.0)
        nearest = min(known, key=lambda length: abs(length - frames))
        return known[nearest] * frames / nearest

    @staticmethod
    def _mean(values: list[float]) -> float:
        return sum(values) / len(values)
