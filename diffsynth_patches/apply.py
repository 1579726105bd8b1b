"""patched(pipe, session): the only place that sets attributes on foreign objects, and it puts all of them back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from diffsynth_patches.compat import ModelArguments, check_pipeline, check_version
from diffsynth_patches.compiled import EAGER, Regions, compiled_regions
from diffsynth_patches.denoiser import WanDenoiser
from hetcache.core.denoiser import Call
from hetcache.core.flops import ModelShape
from hetcache.core.guidance import GuidancePair, RankedGuidance
from hetcache.core.session import CacheSession, now_ms
from hetcache.core.step import CachedForward, static_schedule
from hetcache.core.vocabulary import Branch

STAGE_OF_UNIT = {
    "WanVideoUnit_PromptEmbedder": "text",
    "WanVideoUnit_VACE": "vae_encode",
    "WanVideoUnit_InputVideoEmbedder": "vae_encode",
}


class CachedModel:
    """Stands in for `pipe.model_fn`: the same call, under the session's managers."""

    def __init__(
        self,
        pipe: Any,
        session: CacheSession,
        fast_rope: bool = False,
        pair: GuidancePair | RankedGuidance | None = None,
        regions: Regions = EAGER,
    ) -> None:
        self._session = session
        self._arguments = ModelArguments(pipe.model_fn)
        self.denoiser = WanDenoiser(pipe, fast_rope, regions)
        self._forward = CachedForward(self.denoiser, session, pair)

    @property
    def shape(self) -> ModelShape | None:
        """The dimensions that the run's FLOPs depend on; None before its first step."""
        return self._forward.shape

    def __call__(self, **kwargs: Any) -> torch.Tensor:
        """Velocity [B, C, F, H, W] of this step and branch. Raises ValueError for arguments that only the
        upstream function supports, naming them."""
        args = self._arguments.check(kwargs)
        if self._session.step is None:
            raise RuntimeError("pass progress_bar_cmd=session.steps to the pipeline")
        return self._forward(
            Call(
                Branch.COND if args["positive"] else Branch.UNCOND,
                args["latents"],
                args["timestep"],
                args["context"],
                args["vace_context"],
                (args["vace_scale"],) * self.denoiser.num_hints,
                reference_frames=count_images(kwargs.get("vace_reference_image")),
            )
        )


def count_images(images: Any) -> int:
    """Of `vace_reference_image`, which is one, a list, or None."""
    return 0 if images is None else len(images) if isinstance(images, list) else 1


class TimedUnits:
    """Stands in for `pipe.unit_runner`: same calls, with the time of text and VAE encoding added up. `pair` is told
    what the unconditional branch will be called with."""

    def __init__(
        self,
        run: Callable[..., Any],
        stage_ms: dict[str, float],
        pair: GuidancePair | RankedGuidance | None = None,
    ) -> None:
        self._run = run
        self._stage_ms = stage_ms
        self._pair = pair

    def __call__(self, unit: Any, *args: Any, **kwargs: Any) -> Any:
        stage = STAGE_OF_UNIT.get(type(unit).__name__)
        start = now_ms() if stage is not None else 0.0
        inputs = self._run(unit, *args, **kwargs)
        if stage is not None:
            self._stage_ms[stage] = self._stage_ms.get(stage, 0.0) + now_ms() - start
        if self._pair is not None:
            self._pair.negative = inputs[2].get("context")
        return inputs


@contextmanager
def patched(
    pipe: Any,
    session: CacheSession,
    fast_rope: bool = False,
    cfg_batch: bool = False,
    compile_blocks: bool = False,
) -> Iterator[CachedModel]:
    """Run `pipe(...)` under `session`: replaces `pipe.model_fn` and `pipe.unit_runner`, restores both on exit,
    also after an exception, and drops the session's cached tensors. `fast_rope` rotates in float32 and
    `compile_blocks` compiles the parts between the attentions: faster, and no longer bit for bit upstream's.
    `cfg_batch` runs both branches of guidance as one batch, for modes that
    `hetcache.modes.planning.check_cfg_batch` lets through. The session's ranks all make the same call and share its
    work.

    Raises RuntimeError for an untested diffsynth, ValueError for a pipeline that caching does not support and for
    a machine that cannot compile.
    """
    check_version()
    check_pipeline(pipe)
    model_fn, unit_runner = pipe.model_fn, pipe.unit_runner
    ranked = RankedGuidance(session.ranks) if session.ranks.size > 1 else None
    pair = GuidancePair() if cfg_batch else ranked
    with compiled_regions(str(pipe.device)) if compile_blocks else nullcontext(EAGER) as regions:
        model = CachedModel(pipe, session, fast_rope, pair, regions)
        session.measure_schedule = lambda timesteps: static_schedule(model.denoiser, timesteps)
        pipe.model_fn = model
        pipe.unit_runner = TimedUnits(unit_runner, session.stage_ms, pair)
        try:
            yield model
            if ranked is not None:
                ranked.finish(session)
        finally:
            pipe.model_fn = model_fn
            pipe.unit_runner = unit_runner
            session.release()
