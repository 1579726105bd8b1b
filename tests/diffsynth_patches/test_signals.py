"""The static signals are float32 in every pipeline, so that a plan does not depend on the dtype of its run."""

from __future__ import annotations

import copy

import pytest
import torch
from diffsynth.core.vram.layers import AutoWrappedLinear, enable_vram_management
from diffsynth.diffusion import FlowMatchScheduler

from baselines.teacache import TeaCacheConfig, plan_teacache
from diffsynth_patches.denoiser import WanDenoiser, static_schedule
from hetcache.core.calibration import load_calibration
from hetcache.core.drift import decision_string
from hetcache.method.config import HetCacheConfig
from hetcache.method.plan import plan_hetcache

SHIFTS = (5.0, 8.0, 16.0)


def timesteps(shift, steps=50):
    scheduler = FlowMatchScheduler("Wan")
    scheduler.set_timesteps(steps, shift=shift)
    return scheduler.timesteps


def in_bfloat16(pipe):
    """The pipeline at half its precision, on copies of what the signals come from."""
    half = copy.copy(pipe)
    half._modules = {**pipe._modules, "dit": copy.deepcopy(pipe.dit).to(torch.bfloat16)}
    half.torch_dtype = torch.bfloat16
    return half


def rounded(pipe):
    """The pipeline in float32 with weights that bfloat16 holds exactly."""
    same = copy.copy(pipe)
    same._modules = {**pipe._modules, "dit": copy.deepcopy(pipe.dit).to(torch.bfloat16).float()}
    return same


@pytest.mark.parametrize("shift", SHIFTS)
def test_bfloat16_has_the_signals_of_float32(pipe, shift):
    steps = timesteps(shift)
    half = WanDenoiser(in_bfloat16(pipe)).signals(steps)
    exact = WanDenoiser(rounded(pipe)).signals(steps)
    for name in ("e", "e0"):
        assert half[name].dtype is torch.float32
        assert torch.equal(half[name], exact[name])


def test_float32_has_the_signals_of_the_library(pipe):
    """The naive oracle: the model's own layers, one after the other, as they stand."""
    from diffsynth.models.wan_video_dit import sinusoidal_embedding_1d

    steps, dit = timesteps(5.0), pipe.dit
    signals = WanDenoiser(pipe).signals(steps)
    e_TD = dit.time_embedding(sinusoidal_embedding_1d(dit.freq_dim, steps.float()))
    assert torch.equal(signals["e"], e_TD)
    assert torch.equal(signals["e0"], dit.time_projection(e_TD))


@pytest.mark.parametrize("shift", SHIFTS)
def test_decisions_in_bfloat16_are_those_of_float32(pipe, shift):
    published = load_calibration("wan2.1-t2v-1.3b")
    plans = []
    for each in (rounded(pipe), in_bfloat16(pipe)):
        schedule = static_schedule(each, timesteps(shift))
        plans.append(
            [
                decision_string(plan_teacache(schedule, TeaCacheConfig(delta, signal), published.rescale(signal)))
                for signal in ("e", "e0")
                for delta in (0.05, 0.2, 1.0)
            ]
            + [decision_string(plan_hetcache(schedule, HetCacheConfig(cache_thresh=0.3), published.estimator()))]
        )
    assert plans[0] == plans[1]
    assert len(set(plans[0])) > 2


def test_two_steps_that_bfloat16_cannot_tell_apart_differ(pipe):
    """At shift 16 ten of 50 steps of a bfloat16 run had a change of exactly zero."""
    schedule = static_schedule(in_bfloat16(pipe), timesteps(16.0))
    assert min(schedule.rel_l1["e0"][1:]) > 0


def test_layers_that_rest_elsewhere_are_not_moved(pipe):
    """Under VRAM management the weights are what a call would compute with, in float32, and rest as they did."""
    managed = in_bfloat16(pipe)
    stages = ("offload", "onload", "preparing", "computation")
    places = {f"{stage}_dtype": torch.bfloat16 for stage in stages} | {f"{stage}_device": "cpu" for stage in stages}
    managed.dit = enable_vram_management(managed.dit, {torch.nn.Linear: AutoWrappedLinear}, places)
    assert isinstance(managed.dit.time_projection[1], AutoWrappedLinear)
    signals = WanDenoiser(managed).signals(timesteps(5.0))
    assert torch.equal(signals["e0"], WanDenoiser(rounded(pipe)).signals(timesteps(5.0))["e0"])
    assert managed.dit.time_projection[1].weight.dtype is torch.bfloat16
