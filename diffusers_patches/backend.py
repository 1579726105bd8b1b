"""diffusers as a `hetcache.models.backend.Backend`: loads a `WanVACEPipeline` and runs edits on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from PIL import Image

from diffusers_patches import apply, loader
from diffusers_patches.denoiser import WanDenoiser, model_shape
from diffusers_patches.hooks import through
from hetcache.core.calibration import CalibrationNeed
from hetcache.core.facts import peak_memory_gib
from hetcache.core.flops import ModelShape
from hetcache.core.mode import ManagerFactory
from hetcache.core.options import EditSettings
from hetcache.core.ranks import ranks_of
from hetcache.core.session import CacheSession, Observer, now_ms
from hetcache.core.step import static_schedule
from hetcache.core.vocabulary import Schedule
from hetcache.files import UserError
from hetcache.media.clip import Clip
from hetcache.models import DIFFUSERS, ModelInfo, model_info
from hetcache.models.backend import EditResult, LoadOptions, model_input, must_tile

PROMPT_LEN = 512
"""Tokens that the pipelines pad every prompt to."""


class WanPipeline:
    """`hetcache.models.backend.Pipeline` of a `WanVACEPipeline`."""

    def __init__(self, pipe: Any, info: ModelInfo, device: str) -> None:
        self.pipe = pipe
        self.device = device
        self._info = info

    def shape(self, settings: EditSettings) -> ModelShape:
        return model_shape(self.pipe.transformer, PROMPT_LEN, None, vace=True)

    def schedule(self, settings: EditSettings) -> Schedule:
        scheduler = loader.shifted(self.pipe.scheduler, settings.sigma_shift)
        scheduler.set_timesteps(settings.num_steps, device=self.device)
        schedule: Schedule = through(
            self.pipe.transformer,
            lambda: static_schedule(WanDenoiser(self.pipe.transformer), scheduler.timesteps),
        )
        return schedule

    def edit(
        self, clip: Clip, make_manager: ManagerFactory, settings: EditSettings, observer: Observer | None = None
    ) -> EditResult:
        """See `hetcache.models.backend.Pipeline.edit`. Raises UserError for DiffSynth's ways to compute faster."""
        check_speed(settings)
        ranks = ranks_of(settings.parallel, settings.parallel_timeout)
        pipe, session = self.pipe, CacheSession(make_manager, observer, settings.cache_budget_gib, ranks=ranks)
        height, width = clip.size
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        pipe.scheduler = loader.shifted(pipe.scheduler, settings.sigma_shift)
        tiled = must_tile(settings.vae_tiling, height, width, self.device)
        (pipe.vae.enable_tiling if tiled else pipe.vae.disable_tiling)()
        with apply.patched(pipe, session) as (expert, *_):
            (frames,) = pipe(
                prompt=settings.prompt,
                negative_prompt=settings.negative_prompt,
                video=[Image.fromarray(frame) for frame in model_input(clip, self._info, settings)],
                mask=[Image.fromarray(mask.astype(np.uint8) * 255).convert("RGB") for mask in clip.mask_THW],
                num_frames=clip.num_frames,
                height=height,
                width=width,
                num_inference_steps=settings.num_steps,
                guidance_scale=settings.cfg_scale,
                generator=torch.Generator("cpu").manual_seed(settings.seed),
                output_type="np",
            ).frames
        session.stage_ms["vae_decode"] = now_ms() - session.loop_end_ms
        assert expert.shape is not None
        frames_THWC = (np.asarray(frames) * 255).round().astype(np.uint8)
        dtype = str(pipe.transformer.dtype).removeprefix("torch.")
        return EditResult(frames_THWC, session, expert.shape, peak_memory_gib(), self.device, dtype)

    def taking_turns(self, wait: Callable[[], None]) -> None:
        """Nothing: a run replaces the transformer's own forward, and offloading hangs on it."""


class Diffusers:
    """The library; stateless."""

    @property
    def random_models(self) -> Sequence[str]:
        return ()

    def load(self, model: str, options: LoadOptions) -> WanPipeline:
        if options.random_weights:
            raise UserError(f"no random weights for {model}: diffusers models are loaded from their files")
        info = model_info(model)
        return WanPipeline(loader.load_pipeline(model, info, options), info, options.device)

    def check_compile(self, device: str) -> None:
        raise UserError("--compile: with a diffusers model use compile_repeated_blocks in a program of your own")

    def patched(self, pipe: Any, session: CacheSession) -> AbstractContextManager[Any]:
        return apply.patched(pipe, session)

    def num_experts(self, pipe: Any) -> int:
        return 2 if loader.has_two_experts(pipe) else 1

    def calibration(self, pipe: Any, model_id: str | None = None) -> CalibrationNeed:
        sampler = type(pipe.scheduler).__name__
        is_vace = any(kind.__name__ == "WanVACEPipeline" for kind in type(pipe).__mro__)
        # Only an edit measures, and only models with VACE edit; two experts would need one calibration each.
        asked = pipe.config.get("_name_or_path") or "FOLDER" if is_vace and not loader.has_two_experts(pipe) else None
        return CalibrationNeed(model_id or loader.model_id(pipe), DIFFUSERS, sampler, asked)


BACKEND = Diffusers()


def check_speed(settings: EditSettings) -> None:
    """Raise UserError for ways to compute faster that are DiffSynth's alone."""
    for name in ("fast_rope", "cfg_batch", "compile"):
        if getattr(settings, name):
            raise UserError(f"--{name.replace('_', '-')}: not with a diffusers model; leave the flag out")
