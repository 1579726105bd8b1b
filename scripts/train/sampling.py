"""Edits by the embedded model for its evaluation: holes, fills, and samples composited into the source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from hetcache.media.fill import fill_under_mask
from hetcache.media.propagate import propagate_fill
from scripts.train.forward import forward
from scripts.train.held_out import Clip, Pixels

FILLS = ("push_pull", "propagate", "grey")
BOX_SIDE = 0.5  # of each side: the paper's box, a quarter of the picture


@dataclass(frozen=True)
class Sampler:
    """`pipe` is a `WanVideoPipeline`; with `fast` its network runs in bfloat16 autocast through the training's own
    forward pass."""

    pipe: Any
    steps: int = 50
    seed: int = 0
    fast: bool = False

    def __post_init__(self) -> None:
        if self.fast:
            self.pipe.model_fn = fast_model_fn

    def edit(self, clip: Clip, fill: Pixels, prompt: str, cfg_scale: float) -> Pixels:
        """The model's answer composited into the source."""
        mask = (clip.mask_THW[..., None] * np.ones(3)).astype(np.uint8) * 255
        t, height, width = clip.mask_THW.shape
        video = self.pipe(
            prompt=prompt,
            vace_video=[Image.fromarray(f) for f in fill],
            vace_video_mask=[Image.fromarray(m) for m in mask],
            num_frames=t,
            height=height,
            width=width,
            tiled=False,
            seed=self.seed,
            num_inference_steps=self.steps,
            cfg_scale=cfg_scale,
            progress_bar_cmd=lambda x: x,
        )
        output = np.stack([np.asarray(f) for f in video])
        return np.where(clip.mask_THW[..., None], output, clip.frames_THWC)

    def with_words(self, clip: Clip, fill: Pixels) -> Callable[[str, float], Pixels]:
        """Samples of one clip by prompt and guidance."""
        return lambda prompt, cfg_scale: self.edit(clip, fill, prompt, cfg_scale)


def fast_model_fn(**inputs: Any) -> torch.Tensor:
    """The same network in bfloat16 autocast through the training forward pass."""
    latents = inputs["latents"]
    with torch.autocast(latents.device.type, torch.bfloat16):
        velocity = forward(
            inputs["dit"], inputs["vace"], latents, inputs["timestep"], inputs["context"], inputs["vace_context"]
        )
    return velocity.to(latents.dtype)


def filled(clip: Clip, fill: str) -> Pixels:
    """The clip with its hole filled as a run with `--fill` does it."""
    if fill == "propagate":
        return propagate_fill(clip.frames_THWC, clip.mask_THW).frames_THWC
    return fill_under_mask(clip.frames_THWC, clip.mask_THW, fill)


def telea(clip: Clip) -> Pixels:
    """Frame by frame, what OpenCV's inpainting makes of the hole."""
    masks = clip.mask_THW.astype(np.uint8) * 255
    return np.stack([cv2.inpaint(f, m, 3, cv2.INPAINT_TELEA) for f, m in zip(clip.frames_THWC, masks, strict=True)])


def boxed(clip: Clip) -> Clip:
    """The clip with a large still hole in the middle of the picture, on whole tokens: what is behind it is known."""
    mask_THW: NDArray[np.bool_] = np.zeros_like(clip.mask_THW)
    top, left = (round(side * (1 - BOX_SIDE) / 2 / 16) * 16 for side in mask_THW.shape[1:])
    mask_THW[:, top : mask_THW.shape[1] - top, left : mask_THW.shape[2] - left] = True
    return replace(clip, mask_THW=mask_THW)
