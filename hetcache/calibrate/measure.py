"""What calibration measures on uncached runs, and the fits made from it.

A `MeasuringManager` runs every step in full and records how the stack residual changes; `fit_polynomial` and
`change_curve` turn the records of several runs into what TeaCache (arXiv 2411.19108), MagCache (arXiv 2506.09045)
and FastCache (arXiv 2505.20353) need, `path_errors` into what DPCache (arXiv 2602.22654) does, `time_curve` into what
HetCache's forecasts go along.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from hetcache.core.drift import ChangeCurve, Rescale, relative_l1
from hetcache.core.linear_maps import Layer, LinearFit
from hetcache.core.time_curve import TimeCurve
from hetcache.core.vocabulary import BlockOps, CacheManager, Compute, Decision, Hidden, Schedule, Step

ROWS_PER_STEP = 256
FEATURE_ROWS = 1024
POLYNOMIAL_DEGREE = 4
CURVE_DIMENSIONS = 8


@dataclass
class BranchMeasurements:
    """One branch of one run. `change[i]`: relative L1 change of the stack residual from step i - 1 to i, 0.0
    first; `magnitude[i]`: mean over tokens of the ratio of its norms, 1.0 first. `features`: some rows of it at every
    step, float32 on the host, until `gram_SS`, their inner products (`gram`), and `path_errors` are made of them."""

    change: list[float] = field(default_factory=list)
    magnitude: list[float] = field(default_factory=list)
    schedule: Schedule | None = None
    features: list[torch.Tensor] = field(default_factory=list)
    gram_SS: NDArray[np.float64] | None = None
    path_errors: NDArray[np.float64] | None = None


class MeasuringManager(CacheManager):
    """Computes everything and records. `fits`, when given, collects rows of every block for FastCache's maps;
    `keeps_features` the residual's rows at every step, for DPCache's errors of paths and the curve of time."""

    def __init__(
        self,
        measured: BranchMeasurements,
        schedule: Schedule,
        fits: dict[Layer, LinearFit] | None = None,
        keeps_features: bool = False,
    ) -> None:
        measured.schedule = schedule
        self._measured = measured
        self._fits = fits
        self._keeps_features = keeps_features
        self._residual: torch.Tensor | None = None
        self._step_index = 0

    def decide(self, step: Step, hidden: Hidden) -> Decision:
        self._step_index = step.index
        return Decision(Compute.FULL, "calibration")

    def run_block(self, ops: BlockOps, x_BND: torch.Tensor, decision: Decision) -> torch.Tensor:
        y_BND = ops.full(x_BND)
        if self._fits is not None:
            fit = self._fits.setdefault((ops.stack, ops.layer), LinearFit(x_BND.shape[2]))
            stride = max(x_BND.shape[1] // ROWS_PER_STEP, 1)
            rows = slice(self._step_index % stride, None, stride)
            fit.add(x_BND[0, rows], y_BND[0, rows])
        return y_BND

    def commit(
        self, step: Step, decision: Decision, hidden: Hidden, x_out_BND: torch.Tensor, velocity: torch.Tensor
    ) -> None:
        residual = (x_out_BND - hidden.x_BND).float()
        if self._residual is None:
            change, magnitude = 0.0, 1.0
        else:
            change = float(relative_l1(residual, self._residual))
            magnitude = float((residual.norm(dim=-1) / self._residual.norm(dim=-1).clamp_min(1e-12)).mean())
        self._measured.change.append(change)
        self._measured.magnitude.append(magnitude)
        self._residual = residual
        if self._keeps_features:
            num_tokens = residual.shape[1]
            rows = torch.linspace(0, num_tokens - 1, min(FEATURE_ROWS, num_tokens), device=residual.device).round()
            self._measured.features.append(residual[0, rows.long()].cpu())

    def release(self) -> None:
        self._residual = None


def gram(features: Sequence[torch.Tensor]) -> NDArray[np.float64]:
    """[S, S]: inner products of the steps' features, their mean square 1."""
    flat_SX = torch.stack([each.flatten() for each in features]).double()
    gram_SS: NDArray[np.float64] = (flat_SX @ flat_SX.T).numpy()
    gram_SS /= np.diagonal(gram_SS).mean()
    return gram_SS


def time_curve(timesteps: Sequence[float], grams: Sequence[NDArray[np.float64]]) -> TimeCurve:
    """The curve on which time moves the features: the principal components of the steps, mean over runs, in as many
    dimensions as matter. Its distances are those of the features at the two steps."""
    num_steps = len(timesteps)
    centring_SS = np.eye(num_steps) - 1.0 / num_steps
    values_S, vectors_SS = np.linalg.eigh(centring_SS @ np.mean(grams, axis=0) @ centring_SS)
    largest = np.argsort(values_S)[::-1][:CURVE_DIMENSIONS]
    points_SX = vectors_SS[:, largest] * np.sqrt(np.maximum(values_S[largest], 0.0))
    return TimeCurve(tuple(timesteps), tuple(tuple(float(x) for x in point) for point in points_SX))


def path_errors(features: Sequence[torch.Tensor]) -> NDArray[np.float64]:
    """[T, T, T]: mean|p - h_t| for i < j < t, p the line through h_i and h_j at t; elsewhere 0."""
    num_steps = len(features)
    error_TTT = np.zeros((num_steps,) * 3)
    for i, j in itertools.combinations(range(num_steps), 2):
        slope = (features[j] - features[i]) / (j - i)
        for t in range(j + 1, num_steps):
            error_TTT[i, j, t] = float((features[j] + slope * (t - j)).sub_(features[t]).abs_().mean())
    return error_TTT


def change_curve(timesteps: Sequence[float], changes: Sequence[float]) -> ChangeCurve:
    """The table of a run's mean change per step (entry 0 is ignored)."""
    return ChangeCurve(tuple(timesteps), tuple(np.cumsum([0.0, *changes[1:]]).tolist()))


def fit_polynomial(signal: Sequence[float], changes: Sequence[float]) -> tuple[Rescale, float]:
    """(TeaCache's rescaling, its R squared): degree 4 from the signal's relative L1 to the output's change, in
    linear or in log space, whichever explains more of the change; clamped to the range it was fitted on."""
    x, y = np.asarray(signal[1:], float), np.asarray(changes[1:], float)
    degree = min(POLYNOMIAL_DEGREE, len(x) - 1)
    domain = (float(x.min()), float(x.max()))
    candidates = [Rescale(tuple(np.polyfit(x, y, degree).tolist()), "linear", domain)]
    if (y > 0).all():
        log_fit = np.polyfit(np.log(np.maximum(x, 1e-12)), np.log(y), degree)
        candidates.append(Rescale(tuple(log_fit.tolist()), "log", domain))
    scored = [(rescale, _r_squared(y, np.asarray([rescale(float(v)) for v in x]))) for rescale in candidates]
    return max(scored, key=lambda pair: pair[1])


def _r_squared(y: np.ndarray, predicted: np.ndarray) -> float:
    spread = float(((y - y.mean()) ** 2).sum())
    return 1.0 - float(((y - predicted) ** 2).sum()) / max(spread, 1e-30)
