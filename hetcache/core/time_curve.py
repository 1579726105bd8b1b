"""Time as a curve: how what the denoiser adds to its tokens moves through a run, and how to carry it on from there.

The stack residual R of all tokens moves through few directions of time, the same for every token and clip: R(t) is
close to R_0 + sum_k c_k x_k(t), with tokens' own c and shared x. So x(t) is a point of few dimensions, and where R will
be follows from where it was as x does: the weights that carry the points of the anchors to the point of now (least
squares) carry the tokens. With x(t) = t it is Newton's extrapolation. Sources: TaylorSeer (arXiv 2503.06923) for
forecasts; the curve is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

Point = tuple[float, ...]


class TimeAxis(Protocol):
    """Gives every timestep its point."""

    @property
    def ridge(self) -> float:
        """The squared length of a difference of points that says nothing."""
        ...

    def at(self, timestep: float, order: int) -> Point:
        """The point of a timestep (0 to 1000) for a forecast of that order."""
        ...


@dataclass(frozen=True)
class Powers:
    """Without a calibration: sigma and its powers, so that a forecast of order m is the polynomial of degree m through
    m + 1 anchors."""

    ridge: float = 1e-18

    def at(self, timestep: float, order: int) -> Point:
        return tuple((timestep / 1000.0) ** power for power in range(1, order + 1))


@dataclass(frozen=True)
class TimeCurve:
    """A calibrated curve: `timesteps` fall, `points` has one row for each, in units of the residual's mean size; linear
    between them, the nearest one outside."""

    timesteps: tuple[float, ...]
    points: tuple[Point, ...]
    ridge: float = 1e-5

    def __post_init__(self) -> None:
        if len(self.timesteps) != len(self.points) or len(self.timesteps) < 2:
            raise ValueError("a time curve needs as many timesteps as points, and at least two")
        if any(b >= a for a, b in zip(self.timesteps, self.timesteps[1:], strict=False)):
            raise ValueError("the timesteps of a time curve must fall")
        if not self.points[0] or any(len(point) != len(self.points[0]) for point in self.points):
            raise ValueError("the points of a time curve must have the same dimensions, at least one")

    def at(self, timestep: float, order: int) -> Point:
        last = len(self.timesteps) - 2
        i = min(max(sum(t >= timestep for t in self.timesteps) - 1, 0), last)
        fraction = (self.timesteps[i] - timestep) / (self.timesteps[i] - self.timesteps[i + 1])
        fraction = min(max(fraction, 0.0), 1.0)
        return tuple(a + fraction * (b - a) for a, b in zip(self.points[i], self.points[i + 1], strict=True))


def forecast_weights(axis: TimeAxis, anchors: Sequence[float], timestep: float) -> tuple[float, ...]:
    """The weights of the differences of values, the newest first, in a forecast for `timestep` from values at
    `anchors` (timesteps, the newest first; one more than the order, at most three)."""
    order = len(anchors) - 1
    points = [axis.at(t, order) for t in anchors]
    differences = [_minus(a, b) for a, b in zip(points, points[1:], strict=False)]
    ahead = _minus(axis.at(timestep, order), points[0]) if order else ()
    if order == 0:
        return ()
    first, ridge = differences[0], axis.ridge
    if order == 1:
        return (_dot(ahead, first) / (_dot(first, first) + ridge),)
    second = differences[1]
    a, b, c = _dot(first, first) + ridge, _dot(first, second), _dot(second, second) + ridge
    y, z = _dot(ahead, first), _dot(ahead, second)
    return (y * c - z * b) / (a * c - b * b), (z * a - y * b) / (a * c - b * b)


def _minus(a: Point, b: Point) -> Point:
    return tuple(x - y for x, y in zip(a, b, strict=True))


def _dot(a: Point, b: Point) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))
