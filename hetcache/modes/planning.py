"""Plans of a run before it starts: every step's decision, what it will cost, and the threshold for a wanted speed-up.

Only modes whose signal is static can be planned; the others raise `NotPlannable` with the reason. All functions are
pure: a schedule and the model's shape in, decisions and FLOPs out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hetcache.core.drift import decision_string
from hetcache.core.flops import (
    ModelShape,
    block_flops,
    full_step_flops,
    outside_flops,
    repeated_step_flops,
    text_flops,
    vace_embedding_flops,
    vace_projection_flops,
)
from hetcache.core.mode import Dial, Mode, NotPlannable, RunContext
from hetcache.core.vocabulary import Branch, Compute, Decision, Schedule

GUIDED = (Branch.COND, Branch.UNCOND)
FIRST_GUESS = 1e-3
BISECTIONS = 24


def branches_of(cfg_scale: float | None) -> tuple[Branch, ...]:
    """The branches that a run at this guidance scale computes: at 1 the conditional one alone."""
    return GUIDED if cfg_scale != 1 else GUIDED[:1]


@dataclass(frozen=True)
class RunPlan:
    """Decisions per branch, and the FLOPs of the denoising loop with and without them."""

    decisions: dict[Branch, list[Decision]]
    flops_run: int
    flops_uncached: int

    @property
    def speedup(self) -> float:
        """Expected speed-up of the denoising loop, as a ratio of FLOPs."""
        return self.flops_uncached / self.flops_run

    def string(self, branch: Branch) -> str:
        return decision_string(self.decisions[branch])


def plan_run(
    mode: Mode,
    config: Any,
    context: RunContext,
    schedule: Schedule,
    shape: ModelShape,
    branches: Sequence[Branch] = GUIDED,
) -> RunPlan:
    """The plan of one video. `branches` is the conditional one alone when the guidance scale is 1.

    Raises NotPlannable for a mode that decides from the run's content, CalibrationError for an uncalibrated model.
    """
    if mode.plan is None:
        raise _content_aware(mode)
    decisions = {branch: mode.plan(schedule, config, context, branch) for branch in branches}
    num_tokens = context.num_tokens
    calls = [decision for branch in branches for decision in decisions[branch]]
    # The VACE condition is embedded once per video, the prompt once per branch.
    embedded = vace_embedding_flops(shape, num_tokens) if shape.num_vace_layers else 0
    embedded += text_flops(shape) * len(branches)
    run = embedded + sum(call_flops(decision, mode, config, context, shape) for decision in calls)
    return RunPlan(decisions, run, full_step_flops(shape, num_tokens) * len(calls))


def find_setting(
    mode: Mode,
    config: Any,
    target: float,
    context: RunContext,
    schedule: Schedule,
    shape: ModelShape,
    branches: Sequence[Branch] = GUIDED,
) -> tuple[Any, RunPlan]:
    """(config, plan) with the smallest setting of the mode's dial whose plan reaches the speed-up `target`.

    Raises NotPlannable as `plan_run`, and for a mode without a dial; ValueError when no setting reaches it.
    """
    check_plannable(mode, target)
    dial = mode.dial_of(config)
    assert dial is not None
    if not target >= 1.0:
        raise ValueError(f"--target-speedup must be at least 1, not {target}")

    def at(value: float) -> tuple[Any, RunPlan]:
        changed = replace(config, **{dial.field: value})
        return changed, plan_run(mode, changed, context, schedule, shape, branches)

    best, low = 0.0, dial.low
    for value in _guesses(dial):
        found, plan = at(value)
        best = max(best, plan.speedup)
        if plan.speedup < target:
            low = value
            continue
        if dial.whole or value <= dial.low:
            return found, plan
        return at(_bisect(lambda v: at(v)[1].speedup >= target, low, value))
    flag = "--" + dial.field.replace("_", "-")
    raise ValueError(
        f"--target-speedup {target:g} is out of reach of {flag} in --mode {mode.name}: at most {best:.2f}x here; "
        "use fewer --steps as well, or another mode"
    )


def check_cfg_batch(mode: Mode, config: Any, context: RunContext, schedule: Schedule) -> None:
    """Raises ValueError unless the mode decides before the run and alike in both branches: `--cfg-batch` decides
    once for both."""
    if not mode.batches:
        raise ValueError(
            f"--cfg-batch: in --mode {mode.name} each branch chooses tokens of its own, which one batch cannot "
            "compute; leave the flag out"
        )
    if mode.plan is None:
        raise ValueError(
            f"--cfg-batch: --mode {mode.name} decides from the content of each branch; leave the flag out or choose "
            "a mode with a plan (--plan shows it)"
        )
    try:
        cond, uncond = ([d.compute for d in mode.plan(schedule, config, context, branch)] for branch in GUIDED)
    except NotPlannable as error:
        raise ValueError(f"--cfg-batch: {error}; leave the flag out") from error
    if cond != uncond:
        raise ValueError(
            f"--cfg-batch: --mode {mode.name} decides otherwise in the two branches of this run (--plan shows it); "
            "leave the flag out"
        )


def describe_plan(plan: RunPlan, schedule: Schedule) -> str:
    """The plan as text: one line per step, the decision strings and the expected speed-up."""
    first = next(iter(plan.decisions))
    lines = ["step  timestep  decision  signal / threshold  reason"]
    for index, (timestep, decision) in enumerate(zip(schedule.timesteps, plan.decisions[first], strict=True)):
        signal = "" if decision.signal is None else f"{decision.signal:.4f}"
        if decision.threshold is not None:
            signal += f" / {decision.threshold:.4f}"
        lines.append(
            f"{index:4d}  {timestep:8.2f}  {decision.compute.name.lower():8s}  {signal:18s}  {decision.reason}"
        )
    lines += [f"{branch.value:6s} {plan.string(branch)}" for branch in plan.decisions]
    lines.append(f"expected speed-up of the denoising loop (FLOPs): {plan.speedup:.2f}x")
    return "\n".join(lines)


def check_plannable(mode: Mode, target: float | None = None) -> None:
    """Raises NotPlannable as `plan_run` or, with a `target`, as `find_setting`, as far as the mode alone tells."""
    if mode.plan is None:
        raise _content_aware(mode)
    if target is not None and mode.dial is None:
        raise NotPlannable(f"--mode {mode.name} has no threshold to choose; use fewer --steps")


def _content_aware(mode: Mode) -> NotPlannable:
    return NotPlannable(
        f"--mode {mode.name} decides from the content of the run, so it has no plan before it; "
        "run it and read the decisions in its record"
    )


def call_flops(decision: Decision, mode: Mode, config: Any, context: RunContext, shape: ModelShape) -> int:
    """FLOPs of one denoiser call, without the embeddings of the VACE condition and of the prompt."""
    num_tokens = context.num_tokens
    if decision.compute is Compute.FULL:
        return repeated_step_flops(shape, num_tokens)
    if decision.compute is Compute.REUSE:
        total = outside_flops(shape, num_tokens)
        if mode.vace_on_reuse(config) and shape.num_vace_layers:
            total += shape.num_vace_layers * block_flops(shape, num_tokens, num_tokens)
            total += vace_projection_flops(shape, num_tokens)
        return total
    assert mode.partial_flops is not None, f"{mode.name} plans partial steps and must say what they cost"
    return mode.partial_flops(decision, config, context, shape, num_tokens)


def _guesses(dial: Dial) -> list[float]:
    """Values to bracket the search with, slowest first: all integers of a whole dial, else low and then doublings."""
    if dial.whole:
        numbers: list[float] = list(range(int(dial.low), int(dial.high) + 1))
        return numbers[::-1] if dial.falling else numbers
    values, value = [dial.low], dial.low + FIRST_GUESS
    while value < dial.high:
        values.append(value)
        value = dial.low + 2 * (value - dial.low)
    return [*values, dial.high]


def _bisect(reached: Callable[[float], bool], low: float, high: float) -> float:
    """The smallest value found in (low, high] for which `reached`; it holds at `high`."""
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high
