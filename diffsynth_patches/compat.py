"""What of DiffSynth is supported; everything else is refused by name instead of being silently wrong."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

TESTED_VERSIONS = ((2, 1, 8), (2, 2, 0))
HANDLED = {
    "dit",
    "vace",
    "latents",
    "timestep",
    "context",
    "vace_context",
    "vace_scale",
    "use_gradient_checkpointing",
    "use_gradient_checkpointing_offload",
}


def check_version(installed: str | None = None) -> None:
    """Raise RuntimeError unless diffsynth's version is in the tested range (first included, last excluded)."""
    installed = installed or version("diffsynth")
    parts = tuple(int(part) for part in installed.split(".")[:3] if part.isdigit())
    low, high = (".".join(map(str, bound)) for bound in TESTED_VERSIONS)
    if not TESTED_VERSIONS[0] <= parts < TESTED_VERSIONS[1]:
        raise RuntimeError(
            f"diffsynth {installed} is not supported (tested: >= {low}, < {high}): "
            f"pip install 'diffsynth>={low},<{high}'"
        )


def check_pipeline(pipe: Any) -> None:
    """Raise ValueError for pipelines whose denoiser is not one Wan DiT with an optional VACE branch."""
    from diffsynth.models.wan_video_dit import WanModel

    if type(pipe.model_fn).__module__.startswith("diffsynth_patches."):
        raise ValueError("the pipeline is under a session already: disable that first")
    if not isinstance(pipe.dit, WanModel):
        raise ValueError(f"the pipeline's dit is a {type(pipe.dit).__name__}; only WanModel is supported")
    for name in ("dit2", "vace2", "vap", "animate_adapter", "motion_controller"):
        if getattr(pipe, name, None) is not None:
            raise ValueError(f"the pipeline has a {name!r}, which the caching forward does not support")
    if getattr(pipe, "use_unified_sequence_parallel", False):
        raise ValueError("unified sequence parallelism (use_usp) is not supported with caching")
    if pipe.dit.has_image_input:
        raise ValueError("image-to-video DiTs (has_image_input) are not supported with caching")
    if pipe.dit.seperated_timestep:
        raise ValueError("per-token timesteps (Wan2.2 TI2V) are not supported with caching")


class ModelArguments:
    """Checks the keyword arguments of `model_fn` against what the caching forward implements.

    Known and handled ones are returned; any other parameter of the upstream function must have its default value.
    """

    def __init__(self, model_fn: Callable[..., Any]) -> None:
        parameters = inspect.signature(model_fn).parameters.values()
        self._refused = {
            p.name: p.default
            for p in parameters
            if p.kind is not inspect.Parameter.VAR_KEYWORD and p.name not in HANDLED
        }

    def check(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        if "positive" not in kwargs:
            raise ValueError("the CFG branch is not named in this call (cfg_merge=True?): run with cfg_merge=False")
        for name, default in self._refused.items():
            value = kwargs.get(name, default)
            if value is not default and value != default:
                raise ValueError(f"the pipeline argument {name!r} is not supported with caching")
        return {
            "vace": None,
            "vace_context": None,
            "vace_scale": 1.0,
            **{name: kwargs[name] for name in HANDLED if name in kwargs},
            "positive": kwargs["positive"],
        }
