"""Drive the caching forward on recorded denoiser calls, without the autoencoder: milliseconds per run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from diffsynth_patches.apply import patched
from hetcache.core.calibration import Calibration
from hetcache.core.drift import Rescale
from hetcache.core.mode import Mode, RunContext
from hetcache.core.paths import PathErrors
from hetcache.core.session import CacheSession
from hetcache.core.tokens import TokenClasses, classify
from hetcache.core.vocabulary import Branch, CacheManager, Decision
from hetcache.modes import MODES

# Settings under which each mode skips something on a random network and a dozen steps.
SKIPPING = {
    "teacache": {"cache_thresh": 0.9},
    "teacache_slow": {"cache_thresh": 0.9},
    "teacache_fast": {"cache_thresh": 1.2},
    "adacache_slow": {"adacache_codebook": "fast"},
    "dpcache": {"dpcache_budget": 5},
    "seacache": {"seacache_thresh": 0.6},
    "dbcache": {"dbcache_thresh": 0.9, "dbcache_warmup": 3},
    "easycache": {"easycache_thresh": 1.0, "easycache_first": 3},
    "hetcache": {"cache_thresh": 0.6},
    "hetcache_paper": {"cache_thresh": 0.6, "band": 2.0},
    "hetcache_slow": {"cache_thresh": 0.5},
    "hetcache_fast": {"cache_thresh": 0.6},
    "hetcache_teacache": {"cache_thresh": 0.6},
    "pab_teacache": {"cache_thresh": 0.9},
    "adacache_teacache": {"cache_thresh": 0.9},
    "fastcache_teacache": {"cache_thresh": 0.9},
}


@dataclass
class Recording:
    """The denoiser calls of one uncached run: the loop's timesteps and each call's keyword arguments."""

    pipe: Any
    classes: TokenClasses
    timesteps: torch.Tensor
    calls: dict[tuple[Branch, int], dict[str, Any]] = field(default_factory=dict)


def record(pipe: Any, kwargs: dict[str, Any], mask_THW: Any, num_steps: int) -> Recording:
    """Run the unpatched pipeline once and keep what its denoiser was called with."""
    recording = Recording(pipe, classify(torch.as_tensor(mask_THW)), torch.empty(0))
    model_fn = pipe.model_fn

    def steps(timesteps):
        recording.timesteps = timesteps.clone()
        return timesteps

    def recorder(**call):
        branch = Branch.COND if call["positive"] else Branch.UNCOND
        index = sum(key[0] is branch for key in recording.calls)
        recording.calls[branch, index] = dict(call)
        return model_fn(**call)

    pipe.model_fn = recorder
    try:
        pipe(**{**kwargs, "num_inference_steps": num_steps, "progress_bar_cmd": steps})
    finally:
        pipe.model_fn = model_fn
    return recording


def replay(
    recording: Recording, make_manager: Any, branches: tuple[Branch, ...] = tuple(Branch)
) -> tuple[dict[tuple[Branch, int], torch.Tensor], CacheSession]:
    """Velocities by (branch, step) of the caching forward on the recorded inputs, and the session."""
    session = CacheSession(make_manager)
    outputs = {}
    with torch.no_grad(), patched(recording.pipe, session) as forward:
        for index, _ in enumerate(session.steps(recording.timesteps)):
            for branch in branches:
                outputs[branch, index] = forward(**recording.calls[branch, index]).clone()
    return outputs, session


class ToyCalibration(Calibration):
    """One that has errors of paths for every schedule: growing with the distance, and with the step."""

    def path_errors(self, timesteps: Any) -> PathErrors:
        i, j, t = np.ogrid[: len(timesteps), : len(timesteps), : len(timesteps)]
        error_TTT = np.where((i < j) & (j < t), (t - j) * (1 + t) / np.maximum(j - i, 1), 0.0)
        return PathErrors(tuple(map(float, timesteps)), error_TTT, {})


def toy_calibration(num_steps: int = 50) -> Calibration:
    """The signal's own change, and magnitudes that fall by 0.4 % a step."""
    ratios = (1.0, *[0.996] * (num_steps - 1))
    identity = Rescale((1.0, 0.0))
    return ToyCalibration("test", "tests", {"e0": identity, "e": identity}, None, {"cond": ratios})


def context(recording: Recording) -> RunContext:
    return RunContext.of(recording.classes, toy_calibration)


def build(mode: Mode | str, recording: Recording, **settings: Any) -> Any:
    """The manager factory of one video under a mode."""
    mode = MODES[mode] if isinstance(mode, str) else mode
    return mode.build(mode.config(**{**mode.defaults, **settings}), context(recording))


class ToyOps:
    """A block that doubles: self-attention adds `sa`, cross-attention `ca` and the MLP `mlp` times the input, all
    gates 1, so that one number tells what was computed and what was reused."""

    def __init__(self, stack: str = "dit", layer: int = 0, num_layers: int = 1) -> None:
        self.stack, self.layer, self.num_layers, self.num_heads = stack, layer, num_layers, 1
        self.calls: list[str] = []

    def at(self, rows_A: torch.Tensor) -> ToyOps:
        self.calls.append(f"at {rows_A.tolist()}")
        return self

    def all_rows(self, x_BND: torch.Tensor) -> torch.Tensor:
        return x_BND

    def all_heads(self, x_BND: torch.Tensor) -> torch.Tensor:
        return x_BND

    def full(self, x_BND: torch.Tensor) -> torch.Tensor:
        self.calls.append("full")
        return 2 * x_BND

    def self_attn(self, x_BND: torch.Tensor, kv: Any = None) -> Any:
        from hetcache.core.vocabulary import Attention

        self.calls.append("self_attn")
        return Attention(x_BND.clone(), x_BND, x_BND, x_BND)

    def cross_attn(self, x_BND: torch.Tensor) -> torch.Tensor:
        self.calls.append("cross_attn")
        return 10 * x_BND

    def mlp(self, x_BND: torch.Tensor) -> torch.Tensor:
        self.calls.append("mlp")
        return 100 * x_BND

    def add_self_attn(self, x_BND: torch.Tensor, out_BND: torch.Tensor) -> torch.Tensor:
        return x_BND + out_BND

    add_cross_attn = add_mlp = add_self_attn


class FailsAt(CacheManager):
    """Another manager that raises at one step."""

    def __init__(self, base: CacheManager, step_index: int) -> None:
        self.base, self.step_index = base, step_index

    def __getattribute__(self, name: str) -> Any:
        if name in ("base", "step_index", "decide", "__class__"):
            return object.__getattribute__(self, name)
        return getattr(object.__getattribute__(self, "base"), name)

    def decide(self, step: Any, hidden: Any) -> Decision:
        if step.index == self.step_index:
            raise ArithmeticError("in mid-loop")
        return self.base.decide(step, hidden)
