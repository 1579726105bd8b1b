"""Measured error tables of a model: how they are kept, and the error model of a run that is made from them.

A table belongs to a model with its weights, sampler and guidance. It knows every step by its noise level (a flow's
timestep is 1000 sigma), so a run with other steps or another shift takes values between.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hetcache.core.conditions import same_schedule
from hetcache.core.tensor_file import read_tensor_file
from hetcache.core.time_curve import TimeCurve
from hetcache.files import UserError, atomic_output, digest, to_json
from hetcache.planner.model import ErrorModel, Floats

SCHEMA = 2
SIGMA = "sigma"
"""The time of forecasts without a calibrated curve."""
BY_GRID = "by the grid"
NUMBERS = ("timesteps", "budgets", "power", "psnr_offset", "psnr_slope", "margin_db")
ARRAYS = ("segments", "partial", "sensitivity")


class ErrorTablesError(UserError):
    """No error tables, or none for this run; the message names the command that measures them."""


@dataclass(frozen=True)
class Origin:
    """What the tables were measured with: in all of it but `note` a run must be the same. `forecast_in` is that of
    `forecast_time`, `margin_width` and `context_sample` those of `token_choice`."""

    model: str
    library: str
    sampler: str
    weights: str
    cfg_scale: float
    context_kv: str
    margin_ratio: float
    forecast_in: str = SIGMA
    margin_width: str = BY_GRID
    context_sample: str = ""
    note: str = ""


@dataclass(frozen=True, eq=False)
class ErrorTables:
    """`timesteps` are those of the schedule that was measured, `budgets` the context ratios of its partial steps;
    `segments` and `partial` as in `ErrorModel`, but for `sensitivity[t]`: how much an error of step t is multiplied
    until the end of the run. `psnr_offset` maps a predicted error e to the PSNR in the mask, offset - slope
    20 log10 e in dB, and `margin_db` is by how much nine in ten runs stay above that less the margin."""

    origin: Origin
    timesteps: tuple[float, ...]
    budgets: tuple[float, ...]
    segments: Floats
    partial: Floats
    sensitivity: Floats
    power: float = 2.0
    psnr_offset: float = 0.0
    psnr_slope: float = 1.0
    margin_db: float = 0.0
    measured_on: dict[str, Any] = field(default_factory=dict)

    def psnr(self, error: float) -> float:
        """What a run of this predicted error has in the mask, in dB, typically."""
        return math.inf if error == 0 else self.psnr_offset - self.psnr_slope * 20 * math.log10(error)

    def error_for(self, floor_db: float) -> float:
        """The greatest predicted error with which nine in ten runs keep the floor."""
        return float(10 ** ((self.psnr_offset - self.margin_db - floor_db) / (20 * self.psnr_slope)))

    def check(self, run: Origin, remedy: str) -> None:
        """Raises ErrorTablesError where a run is another than what was measured; `remedy` is the command."""
        for name, told in (
            ("model", "model"),
            ("library", "library"),
            ("sampler", "sampler"),
            ("weights", "weights"),
            ("cfg_scale", "guidance"),
            ("context_kv", "--context-kv"),
            ("margin_ratio", "--margin-ratio"),
            ("forecast_in", "forecasts in"),
            ("margin_width", "--margin-width"),
            ("context_sample", "a context sample"),
        ):
            theirs, mine = getattr(self.origin, name), getattr(run, name)
            if theirs != mine:
                raise ErrorTablesError(
                    f"the error tables were measured with {told} {theirs or 'unknown'}, and this run has "
                    f"{mine or 'unknown'}: {remedy}"
                )

    def model(self, timesteps: Sequence[float]) -> ErrorModel:
        """The error model of a run with these timesteps."""
        levels = _levels(timesteps)
        weights = -np.diff(levels)
        steps = len(weights)
        context = np.zeros((steps, steps + 1))
        sensitivity, segments, partial = self.sensitivity, self.segments, self.partial
        if not same_schedule(timesteps, self.timesteps):
            at = _positions(levels, _levels(self.timesteps))
            sensitivity = np.interp(at[:-1], np.arange(len(self.timesteps)), self.sensitivity)
            segments, partial = self._segments_at(at, weights), self._partial_at(at)
        segments = segments * _mean_behind(sensitivity, weights, segments.shape[2])[:, None]
        return ErrorModel(weights * sensitivity, segments, partial, context, self.power)

    def _segments_at(self, at: Floats, weights: Floats) -> Floats:
        """The segments' errors for steps at the positions `at` among those measured: a segment is known by its
        anchors and by how far its middle lies behind the last of them, its error by that of a unit of width."""
        measured, back, reach = self.segments.shape
        own = np.concatenate([[0.0], np.cumsum(-np.diff(_levels(self.timesteps)))])
        first, ends = np.arange(measured)[:, None] + 1, np.arange(1, reach + 1)[None]
        width = own[np.minimum(first + ends, measured)] - own[first]
        with np.errstate(invalid="ignore", divide="ignore"):
            per_width = self.segments / width[:, None, :]
        steps = len(weights)
        sums = np.concatenate([[0.0], np.cumsum(weights)])
        found = np.full((steps, back, reach), np.nan)
        for j in range(steps):
            anchor = min(at[j], measured - 1.0)
            for n in range(1, min(reach, steps - j - 1) + 1):
                # Reused steps j + 1 to j + n: their middle, in measured steps behind the anchor, and as many as those.
                lag = (at[j + 1] + at[j + n + 1]) / 2 - at[j]
                like, width_n = max(2 * lag - 2, 1.0) - 1, sums[j + n + 1] - sums[j + 1]
                found[j, 0, n - 1] = _between(per_width[:, 0], (anchor, like)) * width_n
                for b in range(1, min(back, j + 1)):
                    gap = max(at[j] - at[j - b], 1.0) - 1
                    found[j, b, n - 1] = _between(per_width[:, 1:], (anchor, gap, like)) * width_n
        return found

    def _partial_at(self, at: Floats) -> Floats:
        """The partial steps' errors for steps at the positions `at` among those measured."""
        budgets, ages, measured = self.partial.shape
        steps = len(at) - 1
        found = np.full((budgets, ages, steps), np.nan)
        for t in range(1, steps):
            for age in range(1, min(ages, t) + 1):
                gap = max(at[t] - at[t - age], 1.0) - 1
                for budget in range(budgets):
                    found[budget, age - 1, t] = _between(self.partial[budget], (gap, min(at[t], measured - 1.0)))
        return found

    def save(self, path: Path) -> None:
        """float32 safetensors, everything else as JSON in the metadata."""
        from safetensors.numpy import save_file

        facts = {
            "schema": SCHEMA,
            "origin": self.origin.__dict__,
            **{name: getattr(self, name) for name in NUMBERS},
            "measured_on": self.measured_on,
        }
        tensors = {name: np.ascontiguousarray(getattr(self, name), dtype=np.float32) for name in ARRAYS}
        with atomic_output(path) as temporary:
            save_file(tensors, temporary, metadata={"tables": to_json(facts, None)})


def forecast_time(curve: TimeCurve | None) -> str:
    """The time of the forecasts that a table was measured with: sigma, or which calibrated curve."""
    return SIGMA if curve is None else f"the calibrated time {digest(repr((curve.timesteps, curve.points)))[:8]}"


def tables_file(calibration: Path) -> Path:
    """Where the tables lie: beside the model's calibration file."""
    return calibration.with_name(f"{calibration.stem}.errors.safetensors")


def load_tables(path: Path, remedy: str) -> ErrorTables:
    """Raises ErrorTablesError, with `remedy`, for a missing or broken file."""
    try:
        metadata, tensors = read_tensor_file(path)
        facts, arrays = json.loads(metadata["tables"]), {name: tensors[name].astype(np.float64) for name in ARRAYS}
        if facts["schema"] != SCHEMA:
            raise ValueError(f"schema {facts['schema']}, and this version reads {SCHEMA}")
        return ErrorTables(
            Origin(**facts["origin"]),
            tuple(facts["timesteps"]),
            tuple(facts["budgets"]),
            arrays["segments"],
            arrays["partial"],
            arrays["sensitivity"],
            float(facts["power"]),
            float(facts["psnr_offset"]),
            float(facts["psnr_slope"]),
            float(facts["margin_db"]),
            facts["measured_on"],
        )
    except FileNotFoundError:
        raise ErrorTablesError(f"no error tables ({path.name} not found): {remedy}") from None
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ErrorTablesError(f"{path.name} holds no error tables ({error}): {remedy}") from error


def _levels(timesteps: Sequence[float]) -> Floats:
    """sigma at every step's start, and 0 at the end."""
    return np.array([*timesteps, 0.0], float) / 1000


def _positions(levels: Floats, measured: Floats) -> Floats:
    """Where noise levels lie among the measured ones, in steps."""
    return np.asarray(np.interp(-levels, -measured, np.arange(len(measured))), float)


def _mean_behind(values: Floats, weights: Floats, reach: int) -> Floats:
    """[j, n - 1]: the mean over the n steps behind j; 0 where the run ends before."""
    steps = len(values)
    sums, totals = (np.concatenate([[0.0], np.cumsum(each)]) for each in (weights * values, weights))
    first, ends = np.arange(steps)[:, None] + 1, np.arange(1, reach + 1)[None]
    last = np.minimum(first + ends, steps)
    width = totals[last] - totals[first]
    return np.asarray((sums[last] - sums[first]) / np.where(width > 0, width, np.inf), float)


def _between(table: Floats, point: Sequence[float]) -> float:
    """The table's value at a fractional index: linear between the neighbours that were measured, NaN beyond its ends or
    where hardly one was measured."""
    if any(value > size - 1 for size, value in zip(table.shape, point, strict=True)):
        return math.nan
    total = weight_sum = 0.0
    corners: list[tuple[tuple[int, ...], float]] = [((), 1.0)]
    for size, value in zip(table.shape, point, strict=True):
        low = int(value)
        high, part = min(low + 1, size - 1), value - low
        corners = [
            ((*index, each), weight * share)
            for index, weight in corners
            for each, share in ((low, 1 - part), (high, part))
            if share > 0
        ]
    for index, weight in corners:
        value = float(table[index])
        if math.isfinite(value):
            total += weight * value
            weight_sum += weight
    return total / weight_sum if weight_sum > 0.5 else math.nan
