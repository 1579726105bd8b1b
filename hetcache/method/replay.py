"""HetCache with a given decision string instead of a signal: for timing at true dimensions and for tests.

With random weights no signal means anything, but the cost of a decision sequence can still be measured.
"""

from __future__ import annotations

from dataclasses import replace

from hetcache.core.drift import LevelRule, decision_string, plan_levels
from hetcache.core.lead import Planned
from hetcache.core.mode import ManagerFactory
from hetcache.core.vocabulary import Branch, Compute, Decision, Schedule
from hetcache.method.config import HetCacheConfig
from hetcache.method.hetcache import CompactTokens
from hetcache.method.selector import TokenSelector

STEADY_CHANGE = 0.4


def parse_letters(letters: str) -> list[Decision]:
    """Decisions of a string such as `FPRRPF`. Raises ValueError for other letters and a reused or partial start."""
    by_letter = {compute.value: compute for compute in (Compute.FULL, Compute.PARTIAL, Compute.REUSE)}
    if not letters or letters[0] != "F" or set(letters) - set(by_letter):
        raise ValueError(f"decision string {letters!r}: letters F, P and R, starting with F")
    return [Decision(by_letter[letter], "replayed") for letter in letters]


def replayed(config: HetCacheConfig, selector: TokenSelector, letters: str) -> ManagerFactory:
    """The managers of one video whose decisions are those of `letters`, one per step."""

    def make(branch: Branch, schedule: Schedule) -> CompactTokens:
        decisions = parse_letters(letters)
        if len(decisions) != schedule.num_steps:
            raise ValueError(f"{len(decisions)} decisions for a run of {schedule.num_steps} steps")
        return CompactTokens(config, selector, Planned(decisions), branch)

    return make


def steady_decisions(rule: LevelRule, num_steps: int) -> str:
    """The decisions of a rule under a steady change of 0.4 delta a step, to be replayed where weights are random. Rule
    `forecast` counts as `dual` with a full last step: it looks at the noise, and steady changes have none."""
    if rule.rule == "forecast":
        rule = replace(rule, rule="dual", force_last=True)
    return decision_string(plan_levels([STEADY_CHANGE * rule.delta] * num_steps, rule))
