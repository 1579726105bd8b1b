"""The embedded model `tiny`: a small trained Wan-VACE inside DiffSynth's own `WanVideoPipeline`.

`WanModel` and `VaceWanModel` are DiffSynth's classes at small width; the autoencoder, the tokenizer and the text
encoder keep the interfaces of the originals. See docs/embedded-model.md for how it was trained and what it can do.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from diffsynth.models.wan_video_dit import WanModel
from diffsynth.models.wan_video_vace import VaceWanModel
from diffsynth.pipelines.wan_video import WanVideoPipeline
from safetensors import safe_open
from safetensors.torch import save_file

from hetcache.files import EMBEDDED_WEIGHTS, UserError, write_json

from .autoencoder import TinyAutoencoder
from .text import TinyTextEncoder, TinyTokenizer
from .vae import TinyVideoVAE

PARTS = ("vae", "dit", "vace", "text_encoder")


@dataclass(frozen=True)
class TinyConfig:
    """Shape of the embedded model. The defaults are those of the committed weights."""

    dim: int = 192
    num_layers: int = 8
    num_heads: int = 4
    ffn_dim: int = 768
    vace_layers: tuple[int, ...] = (0, 2, 4, 6)
    text_dim: int = 64
    freq_dim: int = 128
    z_dim: int = 16
    vae_width: int = 192
    vae_encoder_depth: int = 3
    vae_decoder_depth: int = 6
    vae_refine_width: int = 64
    vae_refine_depth: int = 2
    vae_features: int = 16

    def __post_init__(self) -> None:
        head_dim, rest = divmod(self.dim, self.num_heads)
        if rest or head_dim % 2 or (head_dim // 3) % 2:
            raise ValueError(
                f"dim {self.dim} with {self.num_heads} heads gives head_dim {self.dim / self.num_heads:g}; the 3-D "
                "rotary embedding needs an even head_dim whose third (rounded down) is even: 24, 32, 48, 96, 128"
            )
        if any(not 0 <= layer < self.num_layers for layer in self.vace_layers) or 0 not in self.vace_layers:
            raise ValueError(f"vace_layers {self.vace_layers} must contain 0 and stay below {self.num_layers}")


def build_tiny_pipeline(
    config: TinyConfig | None = None, seed: int = 0, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> WanVideoPipeline:
    """A pipeline of the given shape with random weights, reproducible by `seed`; the global RNG is left alone."""
    config = config or TinyConfig()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        modules = _modules(config)
    pipe = WanVideoPipeline(device=device, torch_dtype=dtype)
    for name, module in modules.items():
        setattr(pipe, name, module.to(device=device, dtype=dtype).eval().requires_grad_(False))
    pipe.tokenizer = TinyTokenizer()
    return pipe


def load_tiny_pipeline(
    device: str = "cpu", dtype: torch.dtype = torch.float32, weights_dir: str | Path | None = None
) -> WanVideoPipeline:
    """The trained pipeline. FileNotFoundError when `weights_dir` (default data/tiny) holds no weights."""
    folder = Path(weights_dir) if weights_dir is not None else EMBEDDED_WEIGHTS
    missing = [
        name for name in ("config.json", *(f"{part}.safetensors" for part in PARTS)) if not (folder / name).is_file()
    ]
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks {', '.join(missing)}: restore data/tiny from the repository or train with "
            "`python -m scripts.train`"
        )
    pipe = build_tiny_pipeline(read_config(folder), device=device)
    for part in PARTS:
        with safe_open(folder / f"{part}.safetensors", framework="pt", device="cpu") as file:
            state = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
        getattr(pipe, part).load_state_dict(state)
        getattr(pipe, part).to(device=device, dtype=dtype)
    return pipe.to(dtype=dtype)


def read_config(folder: str | Path) -> TinyConfig:
    """The shape stored beside the weights. UserError for that of another version's model."""
    values = json.loads((Path(folder) / "config.json").read_text())["config"]
    differing = ", ".join(sorted({field.name for field in fields(TinyConfig)} ^ values.keys()))
    if differing:
        raise UserError(
            f"{folder}: weights of another version's embedded model (config.json differs by {differing}); train them "
            "anew with `python -m scripts.train`, or use the version they came with"
        )
    values["vace_layers"] = tuple(values["vace_layers"])
    return TinyConfig(**values)


def save_tiny_weights(pipe: WanVideoPipeline, config: TinyConfig, folder: str | Path, metadata: dict[str, str]) -> int:
    """Writes float16 weights and config.json; returns the bytes written to the weight files."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        state = {key: value.detach().half().contiguous() for key, value in getattr(pipe, part).state_dict().items()}
        save_file(state, folder / f"{part}.safetensors", metadata=metadata)
    write_json(folder / "config.json", {"config": asdict(config), "metadata": metadata})
    return sum((folder / f"{part}.safetensors").stat().st_size for part in PARTS)


def build_autoencoder(config: TinyConfig) -> TinyAutoencoder:
    """The autoencoder of the given shape with random weights."""
    return TinyAutoencoder(
        config.z_dim,
        config.vae_width,
        config.vae_encoder_depth,
        config.vae_decoder_depth,
        config.vae_refine_width,
        config.vae_refine_depth,
        config.vae_features,
    )


def _modules(config: TinyConfig) -> dict[str, torch.nn.Module]:
    common = dict(
        dim=config.dim,
        num_heads=config.num_heads,
        ffn_dim=config.ffn_dim,
        eps=1e-6,
        patch_size=(1, 2, 2),
        has_image_input=False,
    )
    return {
        "vae": TinyVideoVAE(build_autoencoder(config)),
        "dit": WanModel(
            in_dim=config.z_dim,
            out_dim=config.z_dim,
            text_dim=config.text_dim,
            freq_dim=config.freq_dim,
            num_layers=config.num_layers,
            **common,
        ),
        "vace": VaceWanModel(vace_layers=config.vace_layers, vace_in_dim=2 * config.z_dim + 64, **common),
        "text_encoder": TinyTextEncoder(config.text_dim),
    }
