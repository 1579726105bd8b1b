"""DPCache (arXiv 2602.22654): the K steps to compute are the path through the schedule with the least calibrated cost.

A step that is left out is forecast from the two computed before it, linearly. C[i, j, k] is the sum of what that costs
at all steps between j and k, the next one computed, given that i was computed before j; k = T is the end of the run.
The steps 0, 1 and 2 are computed; a dynamic program over (last two computed, steps left to compute) finds the path,
exactly. Of several that cost the same the lexicographically smallest is taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from hetcache.core.mode import Dial, MakeManager, Mode, RunContext
from hetcache.core.settings import check_settings, setting
from hetcache.core.taylor import TaylorResidual
from hetcache.core.vocabulary import Branch, Compute, Decision, Schedule

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MANDATORY = 3
LARGEST_BUDGET = 128
ORDER = 1


@dataclass(frozen=True)
class DpCacheConfig:
    """Settings of `--mode dpcache`; each field is the CLI flag of the same name."""

    dpcache_budget: int = setting(10, "K: so many steps are computed, the first three among them; fewer is faster")

    def __post_init__(self) -> None:
        check_settings(self)
        if self.dpcache_budget < MANDATORY:
            raise ValueError(f"--dpcache-budget must be at least {MANDATORY}, not {self.dpcache_budget}")


def path_costs(error_TTT: NDArray[np.float64]) -> NDArray[np.float64]:
    """C [T, T, T + 1], C[i, j, k] for i < j < k: the summed errors of the steps between j and k."""
    import numpy as np

    num_steps = len(error_TTT)
    cost = np.zeros((num_steps, num_steps, num_steps + 1))
    cost[:, :, 1:] = np.cumsum(error_TTT, axis=2)
    return cost


def best_path(cost: NDArray[np.float64], budget: int) -> tuple[list[int], float]:
    """(the `budget` computed steps of the cheapest path, its cost), of the lexicographically smallest one. `cost` is as
    `path_costs` gives it; `budget` is at least 3 and at most T."""
    import numpy as np

    num_steps = len(cost)
    # rest[m][i, j]: the least cost from j on, with i and j the last two computed and m more to compute.
    rest = [cost[:, :, num_steps].copy()]
    for _ in range(budget - MANDATORY):
        following = np.full((num_steps, num_steps), np.inf)
        for j in range(1, num_steps - 1):
            following[:j, j] = (cost[:j, j, j + 1 : num_steps] + rest[-1][j, j + 1 :]).min(axis=1)
        rest.append(following)
    path = list(range(MANDATORY))
    i, j = path[-2:]
    total = float(cost[0, 1, 2] + rest[-1][i, j])
    for left in range(budget - MANDATORY - 1, -1, -1):
        choices = cost[i, j, j + 1 : num_steps] + rest[left][j, j + 1 :]
        i, j = j, j + 1 + int(choices.argmin())
        path.append(j)
    return path, total


def plan_dpcache(schedule: Schedule, config: DpCacheConfig, error_TTT: NDArray[np.float64]) -> list[Decision]:
    """The decision of every step, before the run. Every step is computed where the budget allows it."""
    num_steps = schedule.num_steps
    if config.dpcache_budget >= num_steps:
        return [Decision(Compute.FULL, "within the budget")] * num_steps
    path, total = best_path(path_costs(error_TTT), config.dpcache_budget)
    decisions: list[Decision] = []
    for index in range(num_steps):
        if index in path:
            reason = "first steps" if index < MANDATORY else f"on the cheapest path ({total:.4g})"
            decisions.append(Decision(Compute.FULL, reason))
            continue
        i, j = [step for step in path if step < index][-2:]
        reason = f"forecast from steps {i} and {j}"
        decisions.append(Decision(Compute.REUSE, reason, float(error_TTT[i, j, index])))
    return decisions


def plan(schedule: Schedule, config: DpCacheConfig, context: RunContext, branch: Branch) -> list[Decision]:
    """The same in both branches: the table is their mean."""
    calibration = context.calibration()
    if schedule.num_steps <= max(MANDATORY, config.dpcache_budget):
        return [Decision(Compute.FULL, "within the budget")] * schedule.num_steps
    return plan_dpcache(schedule, config, calibration.path_errors(schedule.timesteps).error_TTT)


def cache(config: DpCacheConfig, context: RunContext) -> MakeManager:
    return partial(TaylorResidual, ORDER)


MODE = Mode(
    "dpcache",
    "the cheapest path of computed steps by dynamic programming",
    "arXiv 2602.22654",
    DpCacheConfig,
    plan,
    cache=cache,
    dial=Dial("dpcache_budget", LARGEST_BUDGET, MANDATORY, whole=True, falling=True),
    calibrated=lambda config: ("dpcache",),
)
