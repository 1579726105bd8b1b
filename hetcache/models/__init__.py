"""The models that can be named on the command line, and what the rest needs to know about each."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hetcache.core.calibration import CalibrationNeed
from hetcache.core.options import EditSettings
from hetcache.files import UserError

PIXEL_STEP = 16
DIFFUSERS = "diffusers"
PUBLISHED_SAMPLER = "UniPCMultistepScheduler"
"""Of all Wan repositories in diffusers' layout so far."""


@dataclass(frozen=True)
class ModelInfo:
    """`fill` is what the model was trained to see under the mask: `grey`, or `push_pull` (a classical fill, see
    `hetcache.media.fill`); `auto_fill` is what `--fill auto` gives it in a run. `default_area` is height * width of its
    native size in pixels, `window` the frames of its native length, `removal` the prompt and the negative prompt
    of `--task remove` where they are others, `backend` the library that runs it (`hetcache.models.backend`), `sampler`
    the one of its several that the model's files name."""

    model_id: str
    family: str
    repository: str | None
    default_area: int
    fill: str
    cfg_scale: float
    prompt: str
    negative_prompt: str
    auto_fill: str
    window: int = 81
    removal: tuple[str, str] | None = None
    backend: str = "diffsynth"
    sampler: str = ""

    def calibration(self, asked: str | None) -> CalibrationNeed:
        """What runs of this model need, which `--model asked` names; None for random weights."""
        return CalibrationNeed(self.model_id, self.backend, self.sampler, asked)

    def default_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) in multiples of 16 with the source's aspect ratio and about the native area."""
        scale = math.sqrt(self.default_area / (height * width))
        return _nearest(height * scale), _nearest(width * scale)

    def complete(self, edit: EditSettings, removing: bool = False) -> EditSettings:
        """The settings with this model's own prompts (when `removing`, those for it) and guidance where none were asked
        for."""
        prompt, negative_prompt = (removing and self.removal) or (self.prompt, self.negative_prompt)
        own: dict[str, Any] = {
            "prompt": prompt,
            "negative_prompt": negative_prompt,
            "cfg_scale": self.cfg_scale,
        }
        return replace(edit, **{name: value for name, value in own.items() if getattr(edit, name) is None})


DIM_14B = 5120
WAN_NEGATIVE_PROMPT = (
    "overexposed, static, blurred details, subtitles, worst quality, low quality, JPEG artifacts, deformed, "
    "disfigured, messy background"
)
WAN_PROMPT = "a natural background that continues its surroundings, photorealistic"
WAN_REMOVAL = (
    "an empty scene, the background continues naturally, photorealistic",
    f"person, people, animal, vehicle, object, shadow, text, logo, {WAN_NEGATIVE_PROMPT}",
)

MODELS = {
    info.model_id: info
    for info in (
        ModelInfo("tiny", "tiny", None, 240 * 416, "push_pull", 2.0, "textured still", "", "propagate", 33),
        ModelInfo(
            "wan2.1-vace-1.3b",
            "wan",
            "Wan-AI/Wan2.1-VACE-1.3B",
            480 * 832,
            "grey",
            5.0,
            WAN_PROMPT,
            WAN_NEGATIVE_PROMPT,
            "grey",
            removal=WAN_REMOVAL,
        ),
        ModelInfo(
            "wan2.1-vace-14b",
            "wan",
            "Wan-AI/Wan2.1-VACE-14B",
            480 * 832,
            "grey",
            5.0,
            WAN_PROMPT,
            WAN_NEGATIVE_PROMPT,
            "grey",
            removal=WAN_REMOVAL,
        ),
    )
}


def choose_model(asked: str, cuda_available: bool) -> tuple[str, str]:
    """(model, why): resolves `auto` to the 1.3B model on CUDA and to the embedded one elsewhere."""
    if asked != "auto":
        return asked, "as asked"
    if cuda_available:
        return "wan2.1-vace-1.3b", "a CUDA device is available"
    return "tiny", "no CUDA device; --model wan2.1-vace-1.3b runs the real model anyway"


def model_info(model: str) -> ModelInfo:
    """What is known about a model name or a local folder. Raises ValueError with the valid names."""
    if model in MODELS:
        return MODELS[model]
    folder = Path(model)
    if not folder.is_dir():
        if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", model) and model.lower().endswith("-diffusers"):
            return _of_diffusers("14b" in model.lower(), PUBLISHED_SAMPLER, model)
        raise ValueError(
            f"unknown model {model!r}: use auto, {', '.join(MODELS)}, a folder with its weights or a hub's repository "
            "in diffusers' layout, whose name ends in -diffusers"
        )
    if (folder / "model_index.json").is_file():
        return _in_folder_of_diffusers(folder)
    values = _read_config(folder / "config.json")
    shape = values.get("config")
    name = "tiny" if isinstance(shape, dict) and "vae_width" in shape else _wan_name(values)
    return replace(MODELS[name], repository=None)


def _in_folder_of_diffusers(folder: Path) -> ModelInfo:
    index = _read_config(folder / "model_index.json")
    kind = index.get("_class_name")
    if kind != "WanVACEPipeline":
        raise UserError(f"--model {folder} is a {kind} of diffusers: an edit with a mask needs a WanVACEPipeline")
    transformer = _read_config(folder / "transformer" / "config.json")
    sampler = _read_config(folder / "scheduler" / "scheduler_config.json").get("_class_name")
    heads, width = transformer.get("num_attention_heads"), transformer.get("attention_head_dim")
    if not isinstance(sampler, str) or not isinstance(heads, int) or not isinstance(width, int):
        raise UserError(f"--model {folder}: transformer or scheduler lack their config; fetch the folder again")
    return _of_diffusers(heads * width == DIM_14B, sampler, None)


def _of_diffusers(is_14b: bool, sampler: str, repository: str | None) -> ModelInfo:
    info = MODELS["wan2.1-vace-14b" if is_14b else "wan2.1-vace-1.3b"]
    model_id = f"{info.model_id}-{DIFFUSERS}"
    return replace(info, model_id=model_id, repository=repository, backend=DIFFUSERS, sampler=sampler)


def _read_config(path: Path) -> dict[str, object]:
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"model {path}: not JSON ({error}); fetch the model's folder again") from error
    if not isinstance(values, dict):
        raise ValueError(f"model {path}: not a JSON object; fetch the model's folder again")
    return values


def _wan_name(config: dict[str, object]) -> str:
    return "wan2.1-vace-14b" if config.get("dim") == DIM_14B else "wan2.1-vace-1.3b"


def _nearest(value: float) -> int:
    return max(PIXEL_STEP, round(value / PIXEL_STEP) * PIXEL_STEP)
