"""Build a `WanVideoPipeline` from the embedded model, a published Wan2.1-VACE or a local folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffsynth.core import ModelConfig
from diffsynth.pipelines.wan_video import WanVideoPipeline, WanVideoUnit_PromptEmbedder

from diffsynth_patches.hub import HubModel
from diffsynth_patches.tiny import load_tiny_pipeline
from hetcache.core.options import VramOptions
from hetcache.models import ModelInfo, model_info
from hetcache.models.prompts import PromptBook, PromptStore

DIT_PATTERN = "diffusion_pytorch_model*.safetensors"
T5_FILES = ("models_t5_umt5-xxl-enc-bf16.safetensors", "models_t5_umt5-xxl-enc-bf16.pth")
VAE_FILES = ("Wan2.1_VAE.safetensors", "Wan2.1_VAE.pth")


def load_pipeline(
    model: str,
    device: str,
    dtype: torch.dtype,
    prompts: Sequence[str] = (),
    vram: VramOptions | None = None,
    revision: str | None = None,
) -> tuple[WanVideoPipeline, ModelInfo]:
    """The pipeline of a model name (`tiny`, `wan2.1-vace-1.3b`, `wan2.1-vace-14b`) or of a local folder.

    Published weights come from ModelScope, or from Hugging Face with `DIFFSYNTH_DOWNLOAD_SOURCE=HuggingFace`,
    exactly as DiffSynth resolves them, or at `revision` (a commit, tag or branch of the hub's repository). With
    `prompts`, a published model's text encoder is loaded only if one of them was never embedded before, and leaves
    memory afterwards; the pipeline then knows these prompts alone.
    Raises ValueError for an unknown name, FileNotFoundError for a folder that lacks files.
    """
    info = model_info(model)
    if info.family == "tiny":
        weights = Path(model) if Path(model).is_dir() else None
        return load_tiny_pipeline(device=device, dtype=dtype, weights_dir=weights), info
    store = PromptStore(_encoder_id(model, info, dtype))
    needs_text = not prompts or not store.has_all(prompts)
    configs, tokenizer = _configs(model, info, needs_text, revision)
    options = vram or VramOptions()
    for config in configs:
        _manage_vram(config, options, device, dtype)
    pipe = WanVideoPipeline.from_pretrained(
        torch_dtype=dtype,
        device=device,
        model_configs=configs,
        tokenizer_config=tokenizer,
        vram_limit=options.limit_gib,
    )
    if prompts:
        _use_prompt_book(pipe, store, prompts)
    return pipe, info


def _configs(
    model: str, info: ModelInfo, needs_text: bool, revision: str | None
) -> tuple[list[ModelConfig], ModelConfig | None]:
    if info.repository is None:
        dit, text, vae = folder_configs(Path(model))
        tokenizer = ModelConfig(path=str(Path(model, "google", "umt5-xxl")))
    else:
        dit, text, vae = (
            HubModel(model_id=info.repository, origin_file_pattern=pattern, revision=revision)
            for pattern in (DIT_PATTERN, T5_FILES[1], VAE_FILES[1])
        )
        tokenizer = HubModel(model_id=info.repository, origin_file_pattern="google/umt5-xxl/", revision=revision)
    return ([dit, text, vae], tokenizer) if needs_text else ([dit, vae], None)


def _encoder_id(model: str, info: ModelInfo, dtype: torch.dtype) -> str:
    """All published Wan2.1 models share one text encoder; a folder's is told by its file's name and size."""
    if info.repository is not None:
        return f"umt5-xxl {dtype}"
    files = [Path(model, name) for name in T5_FILES if Path(model, name).is_file()]
    return f"{files[0].name} {files[0].stat().st_size} {dtype}" if files else f"no encoder in {model}"


def _use_prompt_book(pipe: WanVideoPipeline, store: PromptStore, prompts: Sequence[str]) -> None:
    embeddings: dict[str, torch.Tensor] = {}
    for prompt in prompts:
        known = store.get(prompt)
        if known is None:
            with torch.no_grad():
                known = _embed(pipe, prompt)
            store.put(prompt, known)
        embeddings[prompt] = known.to(pipe.torch_dtype)
    book = PromptBook(embeddings)
    pipe.text_encoder = book
    pipe.tokenizer = book.tokenize


def _embed(pipe: WanVideoPipeline, prompt: str) -> torch.Tensor:
    """[tokens, D] of one prompt, through DiffSynth's own unit."""
    unit = WanVideoUnit_PromptEmbedder()
    pipe.load_models_to_device(unit.onload_model_names)
    _, mask = pipe.tokenizer(prompt, return_mask=True, add_special_tokens=True)
    embedding_LD: torch.Tensor = unit.encode_prompt(pipe, prompt)[0, : int(mask.gt(0).sum())]
    return embedding_LD


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
