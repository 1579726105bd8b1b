"""Build a `WanVideoPipeline` from the embedded model, a published Wan2.1-VACE or a local folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffsynth.core import ModelConfig
from diffsynth.pipelines.wan_video import WanVideoPipeline

from diffsynth_patches.tiny import load_tiny_pipeline
from hetcache.models import ModelInfo, model_info

DIT_PATTERN = "diffusion_pytorch_model*.safetensors"
T5_FILES = ("models_t5_umt5-xxl-enc-bf16.safetensors", "models_t5_umt5-xxl-enc-bf16.pth")
VAE_FILES = ("Wan2.1_VAE.safetensors", "Wan2.1_VAE.pth")


@dataclass(frozen=True)
class VramOptions:
    """`limit_gib` switches DiffSynth's VRAM management on: weights rest on the CPU, in fp8 if asked, and visit the
    GPU as long as used memory stays below the limit."""

    limit_gib: float | None = None
    fp8_storage: bool = False


def load_pipeline(
    model: str, device: str, dtype: torch.dtype, vram: VramOptions | None = None
) -> tuple[WanVideoPipeline, ModelInfo]:
    """The pipeline of a model name (`tiny`, `wan2.1-vace-1.3b`, `wan2.1-vace-14b`) or of a local folder.

    Published weights come from ModelScope, or from Hugging Face with `DIFFSYNTH_DOWNLOAD_SOURCE=HuggingFace`,
    exactly as DiffSynth resolves them. Raises ValueError for an unknown name, FileNotFoundError for a folder that
    lacks files.
    """
    info = model_info(model)
    if info.family == "tiny":
        weights = Path(model) if Path(model).is_dir() else None
        return load_tiny_pipeline(device=device, dtype=dtype, weights_dir=weights), info
    if info.repository is None:
        configs, tokenizer = folder_configs(Path(model)), ModelConfig(path=str(Path(model, "google", "umt5-xxl")))
    else:
        configs = [
            ModelConfig(model_id=info.repository, origin_file_pattern=pattern)
            for pattern in (DIT_PATTERN, T5_FILES[1], VAE_FILES[1])
        ]
        tokenizer = ModelConfig(model_id=info.repository, origin_file_pattern="google/umt5-xxl/")
    options = vram or VramOptions()
    for config in configs:
        _manage_vram(config, options, device, dtype)
    pipe = WanVideoPipeline.from_pretrained(
        torch_dtype=dtype, device=device, model_configs=configs, tokenizer_config=tokenizer,
        vram_limit=options.limit_gib,
    )
    return pipe, info


def folder_configs(folder: Path) -> list[ModelConfig]:
    """DiffSynth's configs for a folder with the published file names. Raises FileNotFoundError naming what lacks."""
    dit = sorted(str(path) for path in folder.glob(DIT_PATTERN))
    if not dit:
        raise FileNotFoundError(f"{folder} holds no {DIT_PATTERN}: is it a Wan2.1-VACE folder?")
    paths: list[str | list[str]] = [dit if len(dit) > 1 else dit[0]]
    for names in (T5_FILES, VAE_FILES):
        found = [str(folder / name) for name in names if (folder / name).is_file()]
        if not found:
            raise FileNotFoundError(f"{folder} lacks {' or '.join(names)}")
        paths.append(found[0])
    if not (folder / "google" / "umt5-xxl").is_dir():
        raise FileNotFoundError(f"{folder} lacks google/umt5-xxl, the tokenizer's folder")
    return [ModelConfig(path=path) for path in paths]


def _manage_vram(config: ModelConfig, options: VramOptions, device: str, dtype: torch.dtype) -> None:
    if options.limit_gib is None:
        return
    storage: Any = torch.float8_e4m3fn if options.fp8_storage else dtype
    config.offload_device = config.onload_device = "cpu"
    config.offload_dtype = config.onload_dtype = config.preparing_dtype = storage
    config.preparing_device = config.computation_device = device
    config.computation_dtype = dtype


def use_hugging_face() -> None:
    """Make DiffSynth resolve hub models on Hugging Face for this process."""
    os.environ["DIFFSYNTH_DOWNLOAD_SOURCE"] = "HuggingFace"
