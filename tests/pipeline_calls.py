"""The size of the fixture's runs and the arguments of a pipeline call."""

from __future__ import annotations

import numpy as np
from PIL import Image

SHAPE = {"num_frames": 9, "height": 64, "width": 96}


def pipe_kwargs(frames_THWC, mask_THW, **overrides):
    kwargs = {
        "prompt": "bright blue",
        "negative_prompt": "dark",
        "vace_video": [Image.fromarray(frame) for frame in frames_THWC],
        "vace_video_mask": [Image.fromarray(np.repeat(m[..., None], 3, 2).astype(np.uint8) * 255) for m in mask_THW],
        "num_frames": len(mask_THW),
        "height": mask_THW.shape[1],
        "width": mask_THW.shape[2],
        "num_inference_steps": 6,
        "cfg_scale": 3.0,
        "seed": 0,
        "tiled": False,
        "output_type": "floatpoint",
        "progress_bar_cmd": lambda steps: steps,
    }
    return kwargs | overrides
