"""Decisions in words, for a command line and a record: `F,R0x2,P0.05,R1x3`.

F is a full step; P a partial one, with the share of context tokens that it computes where that is not the config's; R
a reused one, with the order of its forecast where that is not the config's. `xN` repeats.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

from hetcache.core.vocabulary import Compute, Decision
from hetcache.files import UserError

WORD = re.compile(r"(?:(F)|(P)(\d*\.?\d+)?|(R)([012])?)(?:x([1-9]\d*))?")
REASON = "given"


def parse_decisions(words: str) -> list[Decision]:
    """Raises UserError for what cannot be read, and for a run that does not start in full."""
    decisions: list[Decision] = []
    for word in re.split(r"[,\s]+", words.strip()):
        match = WORD.fullmatch(word)
        if match is None:
            raise UserError(
                f"{word!r} is no decision: F, P or P0.05 (share of the context), R or R1 (order of the forecast), each "
                "with xN for N of them, separated by commas"
            )
        full, _, ratio, _, order, times = match.groups()
        if ratio is not None and float(ratio) > 1:
            raise UserError(f"{word!r}: the share of context tokens is between 0 and 1")
        compute = Compute.FULL if full else Compute.REUSE if word[0] == "R" else Compute.PARTIAL
        decision = Decision(
            compute,
            REASON,
            order=None if order is None else int(order),
            context_ratio=None if ratio is None else float(ratio),
        )
        decisions += [decision] * int(times or 1)
    if decisions[0].compute is not Compute.FULL:
        raise UserError(f"{words.split(',')[0]!r}: the first step is computed in full, F")
    return decisions


def decision_words(decisions: Sequence[Decision]) -> str:
    """What `parse_decisions` reads as these."""
    parts = []
    for word, several in groupby(map(_word, decisions)):
        count = len(list(several))
        parts.append(word if count == 1 else f"{word}x{count}")
    return ",".join(parts)


def _word(decision: Decision) -> str:
    detail: float | int | None = None
    if decision.compute is Compute.PARTIAL:
        detail = decision.context_ratio
    elif decision.compute is Compute.REUSE:
        detail = decision.order
    return decision.compute.value + ("" if detail is None else f"{detail:g}")
