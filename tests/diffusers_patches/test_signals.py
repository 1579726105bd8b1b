"""The static signals of diffusers' transformers are float32, whatever dtype the model has."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers_runs import build, transformer

from diffusers_patches.denoiser import WanDenoiser
from hetcache.core.step import static_schedule

TIMESTEPS = torch.tensor([1000.0, 996.0, 992.0, 988.0, 984.0, 980.0, 976.0, 500.0, 93.0])


@pytest.mark.parametrize("whole", [True, False], ids=["all in bfloat16", "time embedder in float32"])
def test_bfloat16_has_the_signals_of_float32(whole):
    model = transformer()
    exact = copy.deepcopy(model).to(torch.bfloat16).float()
    if not whole:
        exact.condition_embedder.time_embedder.load_state_dict(model.condition_embedder.time_embedder.state_dict())
    half = copy.deepcopy(exact).to(torch.bfloat16)
    if not whole:
        half.condition_embedder.time_embedder = copy.deepcopy(model.condition_embedder.time_embedder)
    assert static_schedule(WanDenoiser(half), TIMESTEPS) == static_schedule(WanDenoiser(exact), TIMESTEPS)
    signals = WanDenoiser(half).signals(TIMESTEPS)
    assert {value.dtype for value in signals.values()} == {torch.float32}


def test_float32_has_the_signals_of_the_library():
    """The naive oracle: the library's own embedder."""
    model = build().transformer
    embedder = model.condition_embedder
    e_TD = embedder.time_embedder(embedder.timesteps_proj(TIMESTEPS))
    signals = WanDenoiser(model).signals(TIMESTEPS)
    assert torch.equal(signals["e"], e_TD)
    assert torch.equal(signals["e0"], embedder.time_proj(embedder.act_fn(e_TD)))


def test_adjacent_steps_differ():
    changes = static_schedule(WanDenoiser(transformer().to(torch.bfloat16)), TIMESTEPS).rel_l1
    assert min(changes["e0"][1:]) > 0
