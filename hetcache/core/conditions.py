"""Under what a calibration was measured, and in what a run differs from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hetcache.core.calibration import Calibration

SAME_STEP = 0.5
"""Timesteps (of 1000) that differ by less are the same step: libraries round them in several ways."""
SAME_CHANGE = 1e-3
"""Relative: signals of other machines differ in their last digits."""


@dataclass(frozen=True)
class Conditions:
    """Of a measurement or of a run; None and "" where nobody says. `note` says how far the authors state them.
    `timesteps` are the schedule's where they are known one by one, else they follow from `steps` and `sigma_shift`."""

    steps: int | None = None
    sigma_shift: float | None = None
    cfg_scale: float | None = None
    sampler: str = ""
    note: str = ""
    timesteps: tuple[float, ...] = ()

    @classmethod
    def read(cls, data: Mapping[str, Any], sampler: str = "", timesteps: Sequence[float] = ()) -> Conditions:
        """From the JSON of a calibration. Raises ValueError for what is no number."""
        shift, scale, steps = data.get("sigma_shift"), data.get("cfg_scale"), data.get("steps")
        return cls(
            None if steps is None else int(steps),
            None if shift is None else float(shift),
            None if scale is None else float(scale),
            str(data.get("sampler", sampler)),
            str(data.get("note", "")),
            tuple(float(t) for t in data.get("timesteps", timesteps)),
        )

    def schedule(self) -> tuple[float, ...]:
        """The timesteps, falling; empty where they are not known."""
        if self.timesteps or self.steps is None or self.sigma_shift is None:
            return self.timesteps
        return flow_timesteps(self.steps, self.sigma_shift)

    def describe(self) -> str:
        """In words, what is known."""
        known = [
            "" if self.steps is None else f"{self.steps} steps",
            "" if self.sigma_shift is None else f"shift {self.sigma_shift:g}",
            "" if self.cfg_scale is None else f"guidance {self.cfg_scale:g}",
            self.sampler,
        ]
        said = ", ".join(filter(None, known)) or "unknown conditions"
        return f"{said} ({self.note})" if self.note else said


def flow_timesteps(num_steps: int, shift: float) -> tuple[float, ...]:
    """Wan's schedule: 1000 shift x / (1 + (shift - 1) x) at x = 1, 1 - 1/N, ..., 1/N."""
    levels = (1 - i / num_steps for i in range(num_steps))
    return tuple(1000 * shift * x / (1 + (shift - 1) * x) for x in levels)


def same_schedule(one: Sequence[float], other: Sequence[float]) -> bool:
    return len(one) == len(other) and all(abs(a - b) < SAME_STEP for a, b in zip(one, other, strict=True))


PARTS = {"magcache": "MagCache's ratios", "drift": "the measured changes", "teacache": "TeaCache's coefficients"}


def differences(measured: Conditions, run: Conditions) -> list[str]:
    """In what the run differs from the measurement, as far as both are known: shift, guidance, sampler, and steps that
    lie beyond those measured. Another number of steps is no difference: timesteps are interpolated."""
    found = []
    for name, told in (("sigma_shift", "shift"), ("cfg_scale", "guidance")):
        theirs, mine = getattr(measured, name), getattr(run, name)
        if theirs is not None and mine is not None and theirs != mine:
            found.append(f"{told} {mine:g}, not {theirs:g}")
    if measured.sampler and run.sampler and measured.sampler != run.sampler:
        found.append(f"sampler {run.sampler}, not {measured.sampler}")
    listed, steps = measured.schedule(), run.schedule()
    if listed:
        beyond = sum(t > listed[0] + SAME_STEP or t < listed[-1] - SAME_STEP for t in steps)
        if beyond:
            found.append(f"{beyond} of {len(steps)} steps outside its timesteps {listed[0]:.0f} to {listed[-1]:.0f}")
    return found


def doubts(calibration: Calibration, part: str, run: Conditions, rel_l1: Mapping[str, Sequence[float]]) -> list[str]:
    """In what a run lies outside what `part` of the calibration (`magcache`, `drift`, or a signal of TeaCache) was
    measured on: no sentence or one, with the command that mends it. `rel_l1` are the run's static signals. The part
    `dpcache` serves its own schedule alone: its plan refuses another."""
    from hetcache.core.calibration import calibrate_command

    if part == "dpcache":
        return []
    if part == "drift" and calibration.drift is None:
        part = "e0"
    name = "teacache" if part in ("e", "e0") else part
    measured = calibration.measured_on.get(name, Conditions())
    found = differences(measured, run)
    domain = calibration.teacache[part].domain if part in calibration.teacache else None
    if domain is not None:
        low, high = domain[0] * (1 - SAME_CHANGE), domain[1] * (1 + SAME_CHANGE)
        outside = sum(not low <= change <= high for change in rel_l1.get(part, ())[1:])
        if outside:
            found.append(f"the change of signal {part} outside the fitted range at {outside} of its steps")
    if not found:
        return []
    asked = (("steps", run.steps), ("sigma-shift", run.sigma_shift), ("cfg-scale", run.cfg_scale))
    flags = "".join(f" --{flag} {value:g}" for flag, value in asked if value is not None)
    command = calibrate_command(calibration.asked or calibration.model)
    taken = "as they are" if name == "teacache" else "by timestep"
    return [
        f"{PARTS[name]} of {calibration.model} come from {measured.describe()}; this run has {', '.join(found)}. They "
        f"are taken {taken}; {command}{flags} measures this run's"
    ]
