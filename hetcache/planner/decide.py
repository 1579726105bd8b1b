"""From kinds of steps to the decisions of a run."""

from __future__ import annotations

from collections.abc import Sequence

from hetcache.core.vocabulary import Compute, Decision
from hetcache.planner.model import Kind

REASON = "exact plan"


def plan_decisions(kinds: Sequence[Kind], budgets: Sequence[float]) -> list[Decision]:
    """`budgets` are the context ratios that the kinds' budgets stand for."""
    return [
        Decision(
            kind.compute,
            REASON,
            order=kind.order if kind.compute is Compute.REUSE else None,
            context_ratio=budgets[kind.budget] if kind.compute is Compute.PARTIAL else None,
        )
        for kind in kinds
    ]
