"""SeaCache: the gain and the filter against sums written out, the rule against an oracle."""

from __future__ import annotations

import cmath
import math

import numpy as np
import pytest
import torch
from replay import build, record, replay

from baselines.seacache import SeaCacheConfig, SeaRule, axis_gain, modulated, wiener_gain
from hetcache.core.vocabulary import Branch, Compute, Grid, Hidden, Step

GRID = Grid(3, 2, 4)


def gain_oracle(sigma: float, beta: float) -> np.ndarray:
    a, b = 1 - sigma, sigma
    gain = np.ones((3, 2, 4))
    for index in np.ndindex(3, 2, 4):
        for size, k in zip((3, 2, 4), index, strict=True):
            s = max(abs(np.fft.fftfreq(size)[k]), 1 / size) ** -beta
            gain[index] *= a * s / (a * a * s + b * b)
    return gain / gain.mean()


@pytest.mark.parametrize("sigma", [0.99, 0.5, 0.1])
@pytest.mark.parametrize("beta", [0.0, 2.0, 3.0])
def test_the_gain_is_the_wiener_filters(sigma, beta):
    actual = wiener_gain(GRID, sigma, beta, torch.zeros(1))
    np.testing.assert_allclose(actual.numpy(), gain_oracle(sigma, beta), rtol=1e-5)
    assert actual.mean().item() == pytest.approx(1.0)


def test_at_pure_noise_the_low_frequencies_count_and_without_noise_all_alike():
    noisy, clean = axis_gain(8, 1.0, 3.0), axis_gain(8, 0.0, 3.0)
    assert noisy[1] / noisy[4] == pytest.approx(4.0**3)
    assert clean == pytest.approx([1.0] * 8)
    assert axis_gain(1, 0.7, 3.0) == pytest.approx([1 / (0.3**2 + 0.7**2)])


def hidden(x_ND: np.ndarray, shift: float = 0.5, scale: float = 0.25) -> Hidden:
    t_mod = torch.zeros(1, 6, x_ND.shape[1], dtype=torch.float64)
    t_mod[0, 0], t_mod[0, 1] = shift, scale
    empty = torch.zeros(1)
    return Hidden(torch.from_numpy(x_ND)[None], empty, t_mod, empty, empty, GRID)


def test_the_input_is_normalised_and_modulated():
    x = np.array([[1.0, 2.0, 3.0, 6.0]] * 24)
    normal = (x - 3.0) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(modulated(hidden(x)).numpy(), normal * 1.25 + 0.5, rtol=1e-5)


def filtered(h: Hidden, sigma: float) -> np.ndarray:
    """The filter by two sums over all positions."""
    m, gain = modulated(h).double().numpy().reshape(3, 2, 4, -1), gain_oracle(sigma, 3.0)
    places = list(np.ndindex(3, 2, 4))

    def turn(k, n):
        return 2j * math.pi * sum(a * b / size for a, b, size in zip(k, n, (3, 2, 4), strict=True))

    spectrum = {k: sum(m[n] * cmath.exp(-turn(k, n)) for n in places) * gain[k] for k in places}
    return np.array([sum(spectrum[k] * cmath.exp(turn(k, n)) for k in places).real / 24 for n in places])


@pytest.mark.parametrize("thresh", [0.0, 0.3, 1.0, 99.0])
def test_it_decides_as_the_oracle_and_the_other_branch_follows(thresh):
    rng, count = np.random.default_rng(0), 10
    inputs = [hidden(x) for x in rng.normal(size=(24, 4)) + 0.3 * rng.normal(size=(count, 24, 4)).cumsum(axis=0)]
    rule, letters, expected, accumulated, previous = SeaRule(SeaCacheConfig(thresh)), "", "", 0.0, None
    for index, h in enumerate(inputs):
        step = Step(index, count, 990.0 - 90 * index)
        decision = rule.decide(Branch.COND, step, h)
        assert rule.decide(Branch.UNCOND, step, inputs[0]) is decision
        letters += decision.compute.value
        now = filtered(h, step.timestep / 1000)
        if previous is None or index == count - 1:
            expected, accumulated = expected + "F", 0.0
        else:
            accumulated += np.abs(now - previous).mean() / np.abs(previous).mean()
            assert decision.signal == pytest.approx(accumulated, rel=1e-4)
            if accumulated < thresh:
                expected += "R"
            else:
                expected, accumulated = expected + "F", 0.0
        previous = now
    assert letters == expected
    assert rule.notes(Branch.COND) == {"host_syncs": count - 2}
    rule.release()


def test_on_a_pipeline_a_higher_threshold_never_computes_more(pipe, call_kwargs, mask_THW):
    recording = record(pipe, call_kwargs, mask_THW, 8)
    counts = []
    for thresh in (0.0, 0.5, 1.0, 99.0):
        _, session = replay(recording, build("seacache", recording, seacache_thresh=thresh))
        counts.append(session.trace.counts(Branch.COND)["full"])
        assert session.trace.of(Branch.COND)[-1].compute is Compute.FULL
    assert counts == sorted(counts, reverse=True) and counts[0] == 8 and counts[-1] == 2


@pytest.mark.parametrize("bad", [{"seacache_thresh": -0.1}, {"seacache_beta": -1.0}])
def test_bad_settings_name_their_flag(bad):
    with pytest.raises(ValueError, match=next(iter(bad)).replace("_", "-") + " must not be negative"):
        SeaCacheConfig(**bad)
