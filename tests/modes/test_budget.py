"""--cache-budget-gib: what is given up in which order, what is kept in fact, and modes that cannot do with less."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from hetcache_runs import hetcache_session, run
from replay import toy_calibration

from diffsynth_patches.apply import patched
from diffsynth_patches.denoiser import model_shape
from hetcache.core.mode import Mode, RunContext
from hetcache.core.session import CacheBudgetError, CacheSession
from hetcache.core.vocabulary import Branch
from hetcache.modes import MODES
from hetcache.modes.budget import GIB, fit_to_budget

HETCACHE = MODES["hetcache"]
TOKENS = 72


@pytest.fixture
def shape(pipe):
    """The fixture's, as wide as any real one relative to its output."""
    return replace(model_shape(pipe.dit, pipe.vace, 8), dim=192)


def fit(shape, budget_bytes, mode=HETCACHE, **settings):
    config = mode.config(**settings)
    return fit_to_budget(mode, config, budget_bytes / GIB, shape, TOKENS, 4, 2)


def test_a_budget_that_suffices_changes_nothing(shape):
    config = HETCACHE.config(context_kv="cached")
    needed = 2 * config.cache_bytes(shape, TOKENS, 4)
    assert fit(shape, needed, context_kv="cached") == (config, [])


def test_cached_keys_go_first_and_partial_steps_last(shape):
    asked = HETCACHE.config(context_kv="cached", partial_vace="hints", forecast=0)
    sampled = replace(asked, context_kv="sampled", partial_vace="rows")
    whole = replace(sampled, whole_steps_only=True)
    sizes = [2 * config.cache_bytes(shape, TOKENS, 4) for config in (asked, sampled, whole)]
    assert sizes[0] > sizes[1] > sizes[2] > 0
    config, reasons = fit(shape, sizes[0] - 1, context_kv="cached", partial_vace="hints", forecast=0)
    assert config == sampled
    assert "cached K" in reasons[0] and "--cache-budget-gib" in reasons[0]
    config, reasons = fit(shape, sizes[1] - 1, context_kv="cached", partial_vace="hints", forecast=0)
    assert (config, len(reasons)) == (whole, 2)
    with pytest.raises(ValueError, match="at the least; give it that much"):
        fit(shape, sizes[2] - 1, context_kv="cached", forecast=0)


def test_forecasting_partial_steps_go_first_then_the_tokens(shape):
    """Whole steps that are forecast are better than partial ones that see a part of the keys."""
    asked = HETCACHE.config()
    assert (asked.forecast, asked.context_kv) == (1, "forecast")
    whole = replace(asked, context_kv="sampled", max_partial_run=0)
    output = replace(asked, context_kv="sampled", whole_steps_only=True)
    sizes = [2 * config.cache_bytes(shape, TOKENS, 4) for config in (asked, whole, output)]
    assert sizes[0] > 5 * sizes[1] > 5 * sizes[2] > 0
    config, reasons = fit(shape, sizes[0] - 1)
    assert config == whole and "keys and values" in reasons[0]
    config, reasons = fit(shape, sizes[1] - 1)
    assert config == output and len(reasons) == 2


def test_what_was_not_asked_for_is_not_given_up(shape):
    asked = {"context_kv": "sampled", "forecast": 0}
    needed = 2 * HETCACHE.config(**asked).cache_bytes(shape, TOKENS, 4)
    config, reasons = fit(shape, needed - 1, **asked)
    assert config.whole_steps_only
    assert len(reasons) == 1 and "no partial steps" in reasons[0]


def test_the_composition_counts_its_own_residual(shape):
    composed = MODES["hetcache_teacache"]
    residual = TOKENS * shape.dim * 4
    own = HETCACHE.config().cache_bytes(shape, TOKENS, 4)
    assert composed.cache_bytes(composed.config(), shape, TOKENS, 4) == own + residual


def test_whole_steps_keep_the_predicted_bytes_and_repeat_the_output(pipe, call_kwargs, mask_THW):
    session = hetcache_session(mask_THW, "FRRFRF", whole_steps_only=True)
    with patched(pipe, session) as forward:
        outputs = []
        original = forward.__call__

        def spy(**kwargs):
            velocity = original(**kwargs)
            if kwargs["positive"]:
                outputs.append(velocity)
            return velocity

        pipe.model_fn = spy
        pipe(**{**call_kwargs, "progress_bar_cmd": session.steps})
    predicted = HETCACHE.config(whole_steps_only=True, forecast=0).cache_bytes(forward.shape, TOKENS, 4)
    assert session.cache_bytes == 2 * predicted
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], outputs[2])
    assert not torch.equal(outputs[0], outputs[3])


def test_whole_steps_are_never_partial():
    rule = HETCACHE.config(whole_steps_only=True).rule()
    assert rule.max_partial_run == 0


@pytest.mark.parametrize("mode", ["pab", "fastcache"])
def test_another_mode_stops_at_the_budget_and_the_pipeline_is_whole_again(pipe, call_kwargs, mask_THW, mode):
    context = RunContext.of(torch.from_numpy(mask_THW), toy_calibration)
    build = MODES[mode].build(MODES[mode].config(), context)
    model_fn, budget_gib = pipe.model_fn, 1e-5
    session = CacheSession(build, budget_gib=budget_gib)
    with pytest.raises(CacheBudgetError, match="over --cache-budget-gib 1e-05.*--mode hetcache"):
        run(pipe, call_kwargs, session)
    assert pipe.model_fn is model_fn
    assert session.manager(Branch.COND).cache_bytes < 4 * budget_gib * GIB


def test_a_mode_that_cannot_do_with_less_is_left_as_it_is(shape):
    pab = MODES["pab"]
    assert fit_to_budget(pab, pab.config(), 0.0, shape, TOKENS, 4, 2) == (pab.config(), [])


@dataclass(frozen=True)
class WideConfig:
    wide: bool = True


def test_what_is_given_up_is_the_modes_own():
    toy = Mode(
        "wide",
        "",
        "",
        WideConfig,
        cache_bytes=lambda config, *_: GIB if config.wide else GIB // 4,
        lighter=lambda config: [("narrow", replace(config, wide=False))],
    )
    assert fit_to_budget(toy, WideConfig(), 2.0, None, TOKENS, 4, 2) == (WideConfig(), [])
    config, reasons = fit_to_budget(toy, WideConfig(), 1.5, None, TOKENS, 4, 2)
    assert config == WideConfig(False) and reasons == ["narrow (2 GiB would be over --cache-budget-gib 1.5)"]
    with pytest.raises(ValueError, match="--mode wide keeps 0.5 GiB here at the least"):
        fit_to_budget(toy, WideConfig(), 0.1, None, TOKENS, 4, 2)
