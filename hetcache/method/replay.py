"""HetCache with a given decision string instead of a signal: for timing at true dimensions and for tests.

With random weights no signal means anything, but the cost of a decision sequence can still be measured.
"""

from __future__ import annotations

from hetcache.core.drift import IDENTITY
from hetcache.core.vocabulary import Compute, Decision, Schedule
from hetcache.method.hetcache import HetCacheConfig, HetCacheManager
from hetcache.method.selector import TokenSelector


def parse_decisions(letters: str) -> list[Decision]:
    """Decisions of a string such as `FPRRPF`. Raises ValueError for other letters and a reused or partial start."""
    by_letter = {compute.value: compute for compute in Compute}
    if not letters or letters[0] != "F" or set(letters) - set(by_letter):
        raise ValueError(f"decision string {letters!r}: letters F, P and R, starting with F")
    return [Decision(by_letter[letter], "replayed") for letter in letters]


class ReplayHetCache(HetCacheManager):
    """`HetCacheManager` whose decisions are those of `letters`, one per step."""

    def __init__(self, config: HetCacheConfig, selector: TokenSelector, letters: str) -> None:
        super().__init__(config, selector, IDENTITY)
        self._letters = letters

    def begin(self, schedule: Schedule) -> None:
        self.store.clear()
        self._decisions = parse_decisions(self._letters)
        if len(self._decisions) != schedule.num_steps:
            raise ValueError(f"{len(self._decisions)} decisions for a run of {schedule.num_steps} steps")
