"""Spectrum (arXiv 2603.01623): the last block's output is forecast by a ridge regression on Chebyshev polynomials.

Over the last K computed steps (t, h_t), with tau = 2 t / T - 1 and X the design of T_0 .. T_M: C = (X'X + lambda I)^-1
X'H, and at a skipped step the output is [T_0 .. T_M](tau) C. That is a weighted sum of the K outputs, whose weights the
schedule alone tells. The interval between computed steps grows by alpha at each, so that the plan is static too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from hetcache.core.flops import ModelShape
from hetcache.core.lead import Decider
from hetcache.core.mode import Dial, MakeManager, Mode, RunContext
from hetcache.core.residual import StackResidual
from hetcache.core.settings import check_settings, setting
from hetcache.core.vocabulary import Branch, Compute, Decision, Hidden, Schedule, Step

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

FIRST_INTERVAL = 2.0


@dataclass(frozen=True)
class SpectrumConfig:
    """Settings of `--mode spectrum`; each field is the CLI flag of the same name."""

    spectrum_alpha: float = setting(
        0.75, "by how many steps the interval between computed steps grows at each; higher skips more"
    )
    spectrum_first: int = setting(5, "steps from the first that are always computed")
    spectrum_last: bool = setting(False, "compute the last step too")
    spectrum_degree: int = setting(4, "M: degree of the Chebyshev polynomials")
    spectrum_ridge: float = setting(0.1, "lambda of the ridge regression")
    spectrum_window: int = setting(10, "K: the regression is over so many of the last computed steps, which are kept")
    spectrum_blend: float = setting(
        1.0, "w: share of the spectral forecast, the rest is Newton's line through the last two computed steps"
    )
    spectrum_feature: str = setting(
        "output",
        "what is forecast: the last block's 'output', or the 'residual' that the stack adds to its input",
        choices=("output", "residual"),
    )

    def __post_init__(self) -> None:
        check_settings(self)
        for name, least in (("spectrum_first", 1), ("spectrum_degree", 0), ("spectrum_window", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name.replace('_', '-')} must be at least {least}, not {getattr(self, name)}")
        if self.spectrum_alpha < 0:
            raise ValueError(f"--spectrum-alpha must not be negative, not {self.spectrum_alpha}")
        if self.spectrum_ridge <= 0:
            raise ValueError(f"--spectrum-ridge must be above 0, not {self.spectrum_ridge}")
        if not 0.0 <= self.spectrum_blend <= 1.0:
            raise ValueError(f"--spectrum-blend must be from 0 to 1, not {self.spectrum_blend}")


def plan_spectrum(num_steps: int, config: SpectrumConfig) -> list[Decision]:
    """The decision of every step, before the run."""
    decisions: list[Decision] = []
    interval, skipped = FIRST_INTERVAL, 0
    for index in range(num_steps):
        if index < config.spectrum_first:
            decisions.append(Decision(Compute.FULL, "first steps"))
        elif config.spectrum_last and index == num_steps - 1:
            decisions.append(Decision(Compute.FULL, "last step"))
        elif (skipped + 1) % math.floor(interval) == 0:
            decisions.append(Decision(Compute.FULL, f"after an interval of {math.floor(interval)}"))
            interval, skipped = interval + config.spectrum_alpha, 0
        else:
            skipped += 1
            decisions.append(Decision(Compute.REUSE, f"forecast {skipped} on"))
    return decisions


def forecast_weights(steps: Sequence[int], step: int, num_steps: int, config: SpectrumConfig) -> NDArray[np.float64]:
    """How much the output of each of the computed `steps` counts in the forecast at `step`."""
    import numpy as np
    from numpy.polynomial.chebyshev import chebvander

    degree = config.spectrum_degree
    design = chebvander(2 * np.asarray(steps, float) / num_steps - 1, degree)
    at = chebvander(np.asarray([2 * step / num_steps - 1]), degree)[0]
    ridge = config.spectrum_ridge * np.eye(degree + 1)
    spectral = np.asarray(at @ np.linalg.solve(design.T @ design + ridge, design.T), np.float64)
    if config.spectrum_blend == 1.0:
        return spectral
    newton = np.zeros(len(steps))
    newton[-1] = 1.0
    if len(steps) > 1:
        ahead = (step - steps[-1]) / (steps[-1] - steps[-2])
        newton[-2:] = -ahead, 1 + ahead
    return config.spectrum_blend * spectral + (1 - config.spectrum_blend) * newton


class SpectralForecast(StackResidual):
    """One CFG branch: the outputs, or residuals, of the last K computed steps, in a ring."""

    def __init__(self, config: SpectrumConfig, decider: Decider, branch: Branch) -> None:
        super().__init__(decider, branch)
        self._config = config
        self._steps: list[int] = []
        self._num_kept = 0

    def reuse(self, step: Step, hidden: Hidden) -> torch.Tensor:
        weights = forecast_weights(self._steps, step.index, step.count, self._config)
        first = self._num_kept - len(self._steps)
        value = sum(
            self.store.get(*self._key(first + index)).float() * float(weight) for index, weight in enumerate(weights)
        )
        value = value.to(hidden.x_BND.dtype)  # type: ignore[union-attr]
        return value if self._config.spectrum_feature == "output" else hidden.x_BND + value

    def commit(
        self, step: Step, decision: Decision, hidden: Hidden, x_out_BND: torch.Tensor, velocity: torch.Tensor
    ) -> None:
        feature = x_out_BND if self._config.spectrum_feature == "output" else x_out_BND - hidden.x_BND
        self.store.put(*self._key(self._num_kept), feature)
        self._num_kept += 1
        self._steps = [*self._steps, step.index][-self._config.spectrum_window :]

    def _key(self, number: int) -> tuple[str, int, str]:
        return "stack", number % self._config.spectrum_window, self._config.spectrum_feature


def plan(schedule: Schedule, config: SpectrumConfig, context: RunContext, branch: Branch) -> list[Decision]:
    return plan_spectrum(schedule.num_steps, config)


def cache(config: SpectrumConfig, context: RunContext) -> MakeManager:
    return partial(SpectralForecast, config)


def cache_bytes(config: SpectrumConfig, shape: ModelShape, num_tokens: int, bytes_per_value: int) -> int:
    return config.spectrum_window * num_tokens * shape.dim * bytes_per_value


def lighter(config: SpectrumConfig) -> tuple[tuple[str, Any], ...]:
    fewer = min(config.spectrum_window, config.spectrum_degree + 1)
    said = f"forecasts over the last {fewer} computed steps, not {config.spectrum_window}"
    return ((said, replace(config, spectrum_window=max(fewer, 2))),)


MODE = Mode(
    "spectrum",
    "forecast of skipped steps by Chebyshev polynomials",
    "arXiv 2603.01623",
    SpectrumConfig,
    plan,
    cache=cache,
    dial=Dial("spectrum_alpha", 64.0),
    cache_bytes=cache_bytes,
    lighter=lighter,
)
