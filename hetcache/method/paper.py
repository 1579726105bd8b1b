"""HetCache as its paper describes it (arXiv 2603.24260), beside `hetcache`, which departs from it: docs/method.md.

reuse iff d < delta, partial iff delta <= d < band * delta, else full, with d the change that TeaCache's polynomial of
e0 gives since the last computed step; the first two computed steps and the last step are full, and nothing bounds a run
of partial steps. A partial step attends to all keys, cached and fresh; its context is the top of every k-means cluster
by attention to the edit, with equal quotas, chosen in each branch by itself.

It is `hetcache`'s manager with another rule and another selector: what the release gets wrong (docs/method.md) is not
repeated.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hetcache.core.lead import Decider
from hetcache.core.mode import MakeManager, NotPlannable, RunContext
from hetcache.core.settings import setting
from hetcache.core.vocabulary import Branch, Decision, Schedule
from hetcache.method import hetcache
from hetcache.method.config import HetCacheConfig
from hetcache.method.hetcache import CompactTokens
from hetcache.method.plan import given_decisions, plan_hetcache

if TYPE_CHECKING:
    from hetcache.core.tokens import Margin

NO_BOUND = 10**9


@dataclass(frozen=True)
class PaperConfig(HetCacheConfig):
    """Settings of `--mode hetcache_paper`: HetCache's with the paper's defaults, and its warm-up."""

    decision_rule: str = setting(
        "paper",
        "full against partial: 'paper' by the change since the last computed step, 'dual' by the change since the last "
        "full one",
        choices=("dual", "paper"),
    )
    max_partial_run: int = setting(NO_BOUND, "a full step is forced after this many partial ones", shown="no bound")
    context_kv: str = setting(
        "cached",
        "keys and values of tokens that a partial step does not compute: 'cached' from the last full step, or none "
        "('sampled')",
        choices=("cached", "sampled"),
    )
    forecast: int = setting(0, "order of the forecast of what a step does not compute", choices=(0, 1, 2))
    warm_up: int = setting(2, "computed steps, from the first, that are full")

    last_full: bool = setting(True, "compute the last step in full")
    sigma_weight: float = setting(0.0, "a step's change counts times its share of the noise to this power")


def plan(schedule: Schedule, config: PaperConfig, context: RunContext, branch: Branch) -> list[Decision]:
    """By TeaCache's polynomial of e0, also where the model's changes were measured: the paper's thresholds are on its
    scale. Raises NotPlannable for `signal` output."""
    if config.signal == "output":
        raise NotPlannable("--signal output decides from the run itself, so there is no plan before it")
    if config.decisions is not None:
        return given_decisions(config.decisions, schedule)
    return plan_hetcache(schedule, config, context.calibration().rescale("e0"))


def cache(config: PaperConfig, context: RunContext) -> MakeManager:
    """Each branch chooses its own tokens, as in the release."""
    axis = hetcache.time_axis(config, context)

    def make(decider: Decider, branch: Branch) -> CompactTokens:
        if config.whole_steps_only:
            return CompactTokens(config, None, decider, branch, axis=axis)
        from hetcache.method.paper_selector import PaperSelector

        selector = PaperSelector(context.classes, config.selection())
        manager = CompactTokens(config, selector, decider, branch, axis=axis)
        manager.shares_decisions = False
        return manager

    return make


def margin(config: PaperConfig) -> Margin:
    """Euclidean, and within a frame."""
    from hetcache.core.tokens import Margin

    return Margin(config.margin_width, frames=0, is_round=True)


MODE = replace(
    hetcache.MODE,
    name="hetcache_paper",
    title="HetCache as its paper describes it",
    config=PaperConfig,
    plan=plan,
    cache=cache,
    margin_width=margin,
    batches=False,
    calibrated=lambda config: ("e0",) if config.signal == "timestep" and config.decisions is None else (),
)
