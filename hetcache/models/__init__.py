"""The models that can be named on the command line, and what the rest needs to know about each."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hetcache.core.options import EditSettings

PIXEL_STEP = 16


@dataclass(frozen=True)
class ModelInfo:
    """`fill` is what the model expects under the mask: `grey`, or `push_pull` (a classical fill, see
    `hetcache.media.fill`). `default_area` is height * width of its native size in pixels, `window` the frames of its
    native length, `backend` the library that runs it (`hetcache.models.backend`)."""

    model_id: str
    family: str
    repository: str | None
    default_area: int
    fill: str
    cfg_scale: float
    prompt: str
    negative_prompt: str
    window: int = 81
    backend: str = "diffsynth"

    def default_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) in multiples of 16 with the source's aspect ratio and about the native area."""
        scale = math.sqrt(self.default_area / (height * width))
        return _nearest(height * scale), _nearest(width * scale)

    def complete(self, edit: EditSettings) -> EditSettings:
        """The settings with this model's own prompts and guidance where none were asked for."""
        own: dict[str, Any] = {
            "prompt": self.prompt,
            "negative_prompt": self.negative_prompt,
            "cfg_scale": self.cfg_scale,
        }
        return replace(edit, **{name: value for name, value in own.items() if getattr(edit, name) is None})


WAN_NEGATIVE_PROMPT = (
    "overexposed, static, blurred details, subtitles, worst quality, low quality, JPEG artifacts, deformed, "
    "disfigured, messy background"
)
WAN_PROMPT = "a natural background that continues its surroundings, photorealistic"

MODELS = {
    info.model_id: info
    for info in (
        ModelInfo("tiny", "tiny", None, 240 * 416, "push_pull", 2.0, "textured still", "", 33),
        ModelInfo(
            "wan2.1-vace-1.3b",
            "wan",
            "Wan-AI/Wan2.1-VACE-1.3B",
            480 * 832,
            "grey",
            5.0,
            WAN_PROMPT,
            WAN_NEGATIVE_PROMPT,
        ),
        ModelInfo(
            "wan2.1-vace-14b", "wan", "Wan-AI/Wan2.1-VACE-14B", 480 * 832, "grey", 5.0, WAN_PROMPT, WAN_NEGATIVE_PROMPT
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
        raise ValueError(f"unknown model {model!r}: use auto, {', '.join(MODELS)} or a folder with its weights")
    values = _read_config(folder / "config.json")
    shape = values.get("config")
    name = "tiny" if isinstance(shape, dict) and "vae_width" in shape else _wan_name(values)
    return replace(MODELS[name], repository=None)


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
    return "wan2.1-vace-14b" if config.get("dim") == 5120 else "wan2.1-vace-1.3b"


def _nearest(value: float) -> int:
    return max(PIXEL_STEP, round(value / PIXEL_STEP) * PIXEL_STEP)
