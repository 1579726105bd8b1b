"""Spectrum: the growing interval against the published counts, the weights against a fit by least squares."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from replay import build, record, replay

from baselines import spectrum
from baselines.spectrum import SpectralForecast, SpectrumConfig, forecast_weights, plan_spectrum
from hetcache.core.drift import decision_string
from hetcache.core.flops import ModelShape
from hetcache.core.lead import Planned
from hetcache.core.vocabulary import Branch, Compute, Grid, Hidden, Step


@pytest.mark.parametrize(
    "alpha, computed",
    [
        (0.75, [0, 1, 2, 3, 4, 6, 8, 11, 15, 20, 25, 31, 38, 46]),
        (3.0, [0, 1, 2, 3, 4, 6, 11, 19, 30, 44]),
    ],
)
def test_the_interval_grows_as_published(alpha, computed):
    """14 and 10 of 50 steps, the paper's two points."""
    letters = decision_string(plan_spectrum(50, SpectrumConfig(spectrum_alpha=alpha)))
    assert [i for i, letter in enumerate(letters) if letter == "F"] == computed
    assert len(computed) == {0.75: 14, 3.0: 10}[alpha]


def interval_oracle(num_steps: int, alpha: float, first: int, with_last: bool) -> str:
    """By the next computed step instead of a count."""
    computed, n, step = set(range(first)), 2.0, first - 1
    while True:
        step += int(n)
        if step >= num_steps:
            break
        computed.add(step)
        n += alpha
    if with_last:
        computed.add(num_steps - 1)
    return "".join("F" if i in computed else "R" for i in range(num_steps))


@pytest.mark.parametrize("num_steps", [1, 4, 12, 50])
@pytest.mark.parametrize("alpha", [0.0, 0.4, 2.5, 60.0])
@pytest.mark.parametrize("first, with_last", [(1, False), (5, True)])
def test_the_plan_is_the_oracles(num_steps, alpha, first, with_last):
    config = SpectrumConfig(spectrum_alpha=alpha, spectrum_first=first, spectrum_last=with_last)
    assert decision_string(plan_spectrum(num_steps, config)) == interval_oracle(num_steps, alpha, first, with_last)


def chebyshev(tau: float, degree: int) -> list[float]:
    return [np.cos(n * np.arccos(np.clip(tau, -1, 1))) for n in range(degree + 1)]


@pytest.mark.parametrize("degree, ridge", [(4, 0.1), (2, 1.0), (0, 0.5)])
@pytest.mark.parametrize("steps", [[0], [0, 1, 2], [0, 1, 2, 3, 4, 6, 8, 11, 15, 20]])
def test_the_weights_are_those_of_a_ridge_regression(degree, ridge, steps):
    """Of least squares on the design with sqrt(lambda) I below it."""
    rng = np.random.default_rng(len(steps))
    h = rng.normal(size=(len(steps), 3))
    design = np.array([chebyshev(2 * t / 50 - 1, degree) for t in steps])
    below = np.concatenate([design, np.sqrt(ridge) * np.eye(degree + 1)])
    coefficients, *_ = np.linalg.lstsq(below, np.concatenate([h, np.zeros((degree + 1, 3))]), rcond=None)
    config = SpectrumConfig(spectrum_degree=degree, spectrum_ridge=ridge)
    for step in (steps[-1] + 1, steps[-1] + 7):
        expected = np.array(chebyshev(2 * step / 50 - 1, degree)) @ coefficients
        np.testing.assert_allclose(forecast_weights(steps, step, 50, config) @ h, expected, atol=1e-9)


def test_the_blend_mixes_with_the_line_through_the_last_two():
    steps, h = [0, 1, 2, 6], np.array([0.0, 5.0, 10.0, 30.0])
    line = SpectrumConfig(spectrum_blend=0.0)
    assert forecast_weights(steps, 9, 50, line) @ h == pytest.approx(45.0)
    spectral, half = SpectrumConfig(), SpectrumConfig(spectrum_blend=0.5)
    mixed = (forecast_weights(steps, 9, 50, spectral) @ h + 45.0) / 2
    assert forecast_weights(steps, 9, 50, half) @ h == pytest.approx(mixed)
    assert forecast_weights([3], 9, 50, line) == pytest.approx([1.0])


@pytest.mark.parametrize("feature", ["output", "residual"])
def test_a_skipped_step_is_the_weighted_sum_of_the_last_computed(feature):
    config = SpectrumConfig(spectrum_first=4, spectrum_window=3, spectrum_feature=feature)
    plan = plan_spectrum(14, config)
    manager, kept, empty = SpectralForecast(config, Planned(plan), Branch.COND), [], torch.zeros(1)
    rng = np.random.default_rng(0)
    for index in range(14):
        x, out = rng.normal(size=2)
        h = Hidden(torch.full((1, 1, 1), x, dtype=torch.float64), empty, empty, empty, empty, Grid(1, 1, 1))
        step = Step(index, 14, 0.0)
        decision = manager.decide(step, h)
        if decision.compute is Compute.FULL:
            manager.commit(step, decision, h, torch.full_like(h.x_BND, out), h.x_BND)
            kept = [*kept, (index, out if feature == "output" else out - x)][-3:]
        else:
            weights = forecast_weights([i for i, _ in kept], index, 14, config)
            expected = sum(w * value for w, (_, value) in zip(weights, kept, strict=True))
            expected += 0.0 if feature == "output" else x
            assert manager.reuse(step, h).item() == pytest.approx(expected, abs=1e-5)
    assert manager.cache_bytes == 3 * 8
    manager.release()
    assert manager.store.nbytes == 0


def test_what_is_kept_is_bounded_by_the_window(pipe, call_kwargs, mask_THW):
    recording = record(pipe, call_kwargs, mask_THW, 12)
    tokens = recording.classes.num_tokens * 48 * recording.calls[Branch.COND, 0]["latents"].element_size()
    for window in (3, 6, 20):
        outputs, session = replay(recording, build("spectrum", recording, spectrum_window=window))
        computed = session.trace.counts(Branch.COND)["full"]
        assert session.cache_bytes == 2 * min(window, computed) * tokens
        assert all(torch.isfinite(output).all() for output in outputs.values())


def test_what_is_given_up_for_a_budget_is_the_older_steps():
    mode, shape = spectrum.MODE, ModelShape(8, 16, 4, 2, 5)
    config = SpectrumConfig(spectrum_window=20)
    ((said, smaller),) = mode.lighter(config)
    assert said == "forecasts over the last 5 computed steps, not 20" and smaller.spectrum_window == 5
    assert mode.cache_bytes(config, shape, 10, 2) == 4 * mode.cache_bytes(smaller, shape, 10, 2) == 20 * 10 * 8 * 2
    small = SpectrumConfig(spectrum_window=3)
    assert mode.lighter(small)[0][1] == small


@pytest.mark.parametrize(
    "bad, message",
    [
        ({"spectrum_alpha": -0.1}, "--spectrum-alpha must not be negative"),
        ({"spectrum_first": 0}, "--spectrum-first must be at least 1"),
        ({"spectrum_degree": -1}, "--spectrum-degree must be at least 0"),
        ({"spectrum_ridge": 0.0}, "--spectrum-ridge must be above 0"),
        ({"spectrum_window": 1}, "--spectrum-window must be at least 2"),
        ({"spectrum_blend": 1.1}, "--spectrum-blend must be from 0 to 1"),
        ({"spectrum_feature": "x"}, "--spectrum-feature must be output or residual"),
    ],
)
def test_bad_settings_name_their_flag(bad, message):
    with pytest.raises(ValueError, match=message):
        SpectrumConfig(**bad)
