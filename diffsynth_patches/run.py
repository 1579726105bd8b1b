"""Run one edit: the pipeline on a clip under a mode, with its stage times. Shared by the CLI and the benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from diffsynth_patches.apply import patched
from diffsynth_patches.denoiser import model_shape, static_schedule
from hetcache.core.flops import ModelShape
from hetcache.core.mode import ManagerFactory
from hetcache.core.options import EditSettings
from hetcache.core.session import CacheSession, Observer, now_ms
from hetcache.core.vocabulary import Schedule
from hetcache.media.clip import Clip
from hetcache.media.fill import push_pull_fill
from hetcache.media.propagate import propagate_fill
from hetcache.models import ModelInfo

GREY = 128
# Estimate for Wan's VAE: four frames of the decoder's widest full-resolution layer, in bf16, with its copies.
VAE_BYTES_PER_PIXEL = 12 * 1024


@dataclass(frozen=True)
class EditResult:
    """`frames_THWC`: raw output at the model's size. `session` keeps the trace and the stage times."""

    frames_THWC: NDArray[np.uint8]
    session: CacheSession
    shape: ModelShape
    peak_memory_gib: float
    device: str
    dtype: str


def vace_input(clip: Clip, fill: str, apply_mask: bool) -> list[Image.Image]:
    """The video that conditions the model: what lies under the mask is replaced by what the model expects there
    (`grey`, a classical `push_pull` fill, or `propagate`, what the clip's other frames show), unless `apply_mask` is
    False."""
    frames = clip.frames_THWC
    if apply_mask and fill == "propagate":
        frames = propagate_fill(frames, clip.mask_THW).frames_THWC
    elif apply_mask and fill == "push_pull":
        # Centred at 0, so that a mask over everything is filled with grey.
        video_TCHW = torch.from_numpy(frames).permute(0, 3, 1, 2).float() - GREY
        filled = push_pull_fill(video_TCHW, torch.from_numpy(clip.mask_THW)[:, None]) + GREY
        frames = filled.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    elif apply_mask:
        frames = np.where(clip.mask_THW[..., None], np.uint8(GREY), frames)
    return [Image.fromarray(frame) for frame in frames]


def mask_images(clip: Clip) -> list[Image.Image]:
    return [Image.fromarray(mask.astype(np.uint8) * 255).convert("RGB") for mask in clip.mask_THW]


def run_edit(
    pipe: Any,
    info: ModelInfo,
    clip: Clip,
    make_manager: ManagerFactory,
    settings: EditSettings,
    observer: Observer | None = None,
) -> EditResult:
    """Edit `clip` under the managers of one mode. The stage times are in `result.session.stage_ms`."""
    session = CacheSession(make_manager, observer, settings.cache_budget_gib)
    height, width = clip.size
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with patched(pipe, session, settings.fast_rope, settings.cfg_batch, settings.compile) as forward:
        images = pipe(
            prompt=settings.prompt,
            negative_prompt=settings.negative_prompt,
            vace_video=vace_input(
                clip, info.fill if settings.fill == "auto" else settings.fill, settings.apply_mask_to_input
            ),
            vace_video_mask=mask_images(clip),
            num_frames=clip.num_frames,
            height=height,
            width=width,
            num_inference_steps=settings.num_steps,
            cfg_scale=settings.cfg_scale,
            sigma_shift=settings.sigma_shift,
            seed=settings.seed,
            tiled=tile_vae(settings.vae_tiling, str(pipe.device), height, width),
            progress_bar_cmd=session.steps,
        )
    frames = np.stack([np.asarray(image) for image in images])
    session.stage_ms["vae_decode"] = now_ms() - session.loop_end_ms
    assert forward.shape is not None
    dtype = str(pipe.torch_dtype).removeprefix("torch.")
    return EditResult(frames, session, forward.shape, peak_memory_gib(), str(pipe.device), dtype)


def tile_vae(choice: str, device: str, height: int, width: int) -> bool:
    """Whether the VAE must work in tiles: as asked, or for `auto` on CUDA when the whole frame would not fit."""
    if choice != "auto":
        return choice == "on"
    if not device.startswith("cuda"):
        return False
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return height * width * VAE_BYTES_PER_PIXEL > free_bytes


def schedule_of(pipe: Any, settings: EditSettings) -> tuple[Schedule, ModelShape]:
    """The timesteps with their static signals, and the dimensions that FLOPs depend on, without running a step."""
    scheduler = type(pipe.scheduler)("Wan")
    scheduler.set_timesteps(settings.num_steps, shift=settings.sigma_shift)
    pipe.load_models_to_device(pipe.in_iteration_models)
    ids, mask = pipe.tokenizer(settings.prompt, return_mask=True, add_special_tokens=True)
    return static_schedule(pipe, scheduler.timesteps), model_shape(pipe.dit, pipe.vace, ids.shape[-1])


def peak_memory_gib() -> float:
    """Peak allocated memory of the GPU, or peak resident memory of the process on a CPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)
