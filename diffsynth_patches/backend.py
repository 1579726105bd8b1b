"""DiffSynth as a `hetcache.models.backend.Backend`: loads a `WanVideoPipeline` and runs edits on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from copy import copy
from typing import Any

import numpy as np
import torch
from PIL import Image

from diffsynth_patches import apply, compiled, loader, random_weights
from diffsynth_patches.denoiser import model_shape, static_schedule
from hetcache.core.calibration import CalibrationNeed
from hetcache.core.facts import peak_memory_gib
from hetcache.core.flops import ModelShape
from hetcache.core.mode import ManagerFactory
from hetcache.core.options import EditSettings
from hetcache.core.ranks import ranks_of
from hetcache.core.session import CacheSession, Observer, now_ms
from hetcache.core.vocabulary import Schedule
from hetcache.files import UserError
from hetcache.media.clip import Clip
from hetcache.models import ModelInfo, model_info
from hetcache.models.backend import EditResult, LoadOptions, model_input, must_tile


class WanPipeline:
    """`hetcache.models.backend.Pipeline` of a `WanVideoPipeline`."""

    def __init__(self, pipe: Any, info: ModelInfo, device: str, wait: Callable[[], None] | None = None) -> None:
        self.pipe = pipe
        self.device = device
        self.wait = wait
        self._info = info

    def shape(self, settings: EditSettings) -> ModelShape:
        ids, _ = self.pipe.tokenizer(settings.prompt, return_mask=True, add_special_tokens=True)
        return model_shape(self.pipe.dit, self.pipe.vace, ids.shape[-1])

    def schedule(self, settings: EditSettings) -> Schedule:
        scheduler = type(self.pipe.scheduler)("Wan")
        scheduler.set_timesteps(settings.num_steps, shift=settings.sigma_shift)
        self.pipe.load_models_to_device(self.pipe.in_iteration_models)
        return static_schedule(self.pipe, scheduler.timesteps)

    def edit(
        self, clip: Clip, make_manager: ManagerFactory, settings: EditSettings, observer: Observer | None = None
    ) -> EditResult:
        return run_edit(self, self._info, clip, make_manager, settings, observer)

    def taking_turns(self, wait: Callable[[], None]) -> WanPipeline:
        """The same modules under another pipeline object: what a run sets on the pipeline and on its scheduler is its
        own."""
        pipe = copy(self.pipe)
        pipe.scheduler = copy(self.pipe.scheduler)
        return WanPipeline(pipe, self._info, self.device, wait)


class DiffSynth:
    """The library; stateless."""

    @property
    def random_models(self) -> Sequence[str]:
        return tuple(random_weights.SHAPES)

    def load(self, model: str, options: LoadOptions) -> WanPipeline:
        device, dtype = options.device, options.dtype
        if options.random_weights:
            if model not in random_weights.SHAPES:
                raise UserError(f"no random weights for {model}: choose {' or '.join(random_weights.SHAPES)}")
            shape = random_weights.SHAPES[model]
            pipe: Any = random_weights.random_pipeline(shape, device, dtype, options.prompts)
            return WanPipeline(pipe, model_info(model), device)
        if options.huggingface:
            loader.use_hugging_face()
        pipe, info = loader.load_pipeline(model, device, dtype, options.prompts, options.vram, options.revision)
        return WanPipeline(pipe, info, device)

    def check_compile(self, device: str) -> None:
        compiled.check_compiler(device)

    def patched(self, pipe: Any, session: CacheSession) -> AbstractContextManager[Any]:
        return apply.patched(pipe, session)

    def num_experts(self, pipe: Any) -> int:
        return 1

    def calibration(self, pipe: Any, model_id: str | None = None) -> CalibrationNeed:
        return CalibrationNeed(model_id or "wan2.1-vace-1.3b", asked=model_id or "wan2.1-vace-1.3b")


BACKEND = DiffSynth()


def run_edit(
    pipeline: WanPipeline,
    info: ModelInfo,
    clip: Clip,
    make_manager: ManagerFactory,
    settings: EditSettings,
    observer: Observer | None = None,
) -> EditResult:
    """See `hetcache.models.backend.Pipeline.edit`."""
    ranks = ranks_of(settings.parallel, settings.parallel_timeout)
    pipe, session = (
        pipeline.pipe,
        CacheSession(make_manager, observer, settings.cache_budget_gib, ranks=ranks, wait=pipeline.wait),
    )
    height, width = clip.size
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with apply.patched(pipe, session, settings.fast_rope, settings.cfg_batch, settings.compile) as model:
        images = pipe(
            prompt=settings.prompt,
            negative_prompt=settings.negative_prompt,
            vace_video=[Image.fromarray(frame) for frame in model_input(clip, info, settings)],
            vace_video_mask=[Image.fromarray(mask.astype(np.uint8) * 255).convert("RGB") for mask in clip.mask_THW],
            num_frames=clip.num_frames,
            height=height,
            width=width,
            num_inference_steps=settings.num_steps,
            cfg_scale=settings.cfg_scale,
            sigma_shift=settings.sigma_shift,
            seed=settings.seed,
            tiled=must_tile(settings.vae_tiling, height, width, pipeline.device),
            progress_bar_cmd=session.steps,
        )
    frames = np.stack([np.asarray(image) for image in images])
    session.stage_ms["vae_decode"] = now_ms() - session.loop_end_ms
    assert model.shape is not None
    dtype = str(pipe.torch_dtype).removeprefix("torch.")
    return EditResult(frames, session, model.shape, peak_memory_gib(), str(pipe.device), dtype)
