"""Stage `dit`: trains the denoiser on a frozen autoencoder, by flow matching with VACE conditioning.

Times follow DiffSynth's schedule, sigma = 5 s / (1 + 4 s) with s uniform. The loss is the squared error of the
velocity, weight 1 where the mask touches the latent and `context_weight` elsewhere.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from diffsynth_patches.tiny import TinyConfig, build_autoencoder, build_tiny_pipeline
from scripts.train.ahead import Ahead
from scripts.train.autoencoder import watched_clips
from scripts.train.captions import caption
from scripts.train.clips import Shape
from scripts.train.forward import block_forward, forward
from scripts.train.loop import Values
from scripts.train.mimetic import mimetic_init
from scripts.train.pool import Pool, PoolOptions, Sample, encode_sample, stack

# (from this progress on, ((clips per process, frames, height, width), share) ...)
STAGES: tuple[tuple[float, tuple[tuple[Shape, float], ...]], ...] = (
    (0.0, (((36, 1, 128, 160), 0.45), ((12, 9, 128, 160), 0.35), ((9, 17, 128, 128), 0.2))),
    (0.3, (((18, 1, 192, 240), 0.2), ((10, 9, 128, 192), 0.2), ((6, 17, 128, 192), 0.4), ((6, 33, 96, 144), 0.2))),
    (0.7, (((10, 1, 240, 320), 0.1), ((4, 17, 160, 208), 0.4), ((3, 33, 128, 208), 0.3), ((2, 33, 160, 256), 0.2))),
    (0.9, (((4, 17, 160, 208), 0.3), ((2, 33, 160, 256), 0.4), ((2, 17, 240, 416), 0.3))),
)


@dataclass(frozen=True)
class DenoiserOptions:
    """`batch` multiplies the clips of a step: 1 on a CPU core, 8 to 16 on a large GPU, which also wants
    `workers` that draw them. `keep` and `keep_detail` below 1 soften the targets, see `blend_towards_mean`. A
    denoiser that starts from older weights skips the first `skip` share of the curriculum (`STAGES`)."""

    data: Path
    context_weight: float = 0.2
    caption_dropout: float = 0.15
    keep: float = 1.0
    keep_detail: float = 1.0
    skip: float = 0.0
    batch: int = 1
    workers: int = 0
    pool: PoolOptions = field(default_factory=PoolOptions)
    watch: Path | None = None
    device: str = "cpu"
    compile: bool = False


class TinyDenoiser(nn.Module):
    """The trained parts in one module, so that one state dict and one optimiser cover them."""

    def __init__(self, config: TinyConfig, seed: int = 0) -> None:
        super().__init__()
        pipe = build_tiny_pipeline(config, seed)
        mimetic_init(pipe.dit, pipe.vace)
        self.dit, self.vace, self.text_encoder = pipe.dit, pipe.vace, pipe.text_encoder
        self.requires_grad_(True)

    def forward(
        self,
        x_BCTHW: Tensor,
        sigma_B: Tensor,
        ids_BL: Tensor,
        mask_BL: Tensor,
        vace_BCTHW: Tensor,
        block_fn: Callable[..., Tensor] | None = None,
    ) -> Tensor:
        context = self.text_encoder(ids_BL, mask_BL)
        return forward(self.dit, self.vace, x_BCTHW, sigma_B * 1000, context, vace_BCTHW, block_fn)


class DenoiserStage:
    """See the module's docstring; `Stage` in `loop` says what each part is for."""

    name = "dit"
    adam_names: tuple[str, ...] = ("embedding", "head.head", "time_projection")

    def __init__(self, config: TinyConfig, options: DenoiserOptions, autoencoder: Path) -> None:
        self.options = options
        self.model: nn.Module = TinyDenoiser(config).to(options.device)
        vae = build_autoencoder(config)
        vae.load_state_dict(torch.load(autoencoder, map_location="cpu", weights_only=True))
        self.vae: nn.Module = vae.requires_grad_(False).to(options.device, memory_format=torch.channels_last)
        self.block_fn = torch.compile(block_forward) if options.compile else None
        self.keep_C = keep_per_channel(vae, options.keep, options.keep_detail).to(options.device)
        self.averaged: nn.Module = self.model
        self.watched: list[Sample] = []
        self.ahead = Ahead(options.workers)
        self._use((2,))

    def begin(self, seed: tuple[int, int], averaged: nn.Module) -> None:
        self.averaged = averaged
        self._use((2, *seed))
        torch.manual_seed(seed[0] + 1000 * seed[1])
        self.watched = self._watched()

    def loss(self, progress: float) -> tuple[Tensor, Values]:
        options = self.options
        place = options.skip + (1 - options.skip) * progress
        shapes = [shapes for start, shapes in STAGES if place >= start][-1]
        samples = self.pool.batch(lambda: self._shape(shapes), self._soften if options.keep < 1 else None)
        clips = len(samples)
        batch = stack(samples, self.rng, options.caption_dropout, options.device)
        # Stratified times: each batch covers the schedule evenly.
        s = (torch.randperm(clips) + torch.rand(clips)) / clips
        sigma = shifted(s.to(options.device))
        loss, inside, outside = flow_loss(self.model, batch, sigma, options.context_weight, self.block_fn)
        return loss, {"loss_mask": float(inside), "loss_context": float(outside)}

    @torch.no_grad()
    def watch(self, model: nn.Module) -> Values:
        """Masked loss of the watched samples at four fixed times, the same noise every time."""
        if not self.watched:
            return {}
        state = torch.get_rng_state()
        torch.manual_seed(0)
        device = self.options.device
        batch = stack(self.watched, np.random.default_rng(0), 0.0, device)
        times = shifted(torch.tensor([0.125, 0.375, 0.625, 0.875], device=device))
        frozen, count = copy.copy(model), len(self.watched)
        values = [float(flow_loss(frozen, batch, t.expand(count), self.options.context_weight)[1]) for t in times]
        torch.set_rng_state(state)
        return {"loss_mask": float(np.mean(values))}

    def close(self) -> None:
        self.ahead.close()

    def _use(self, seed: tuple[int, ...]) -> None:
        options = self.options
        self.rng = np.random.default_rng(seed)
        self.pool = Pool(options.data, seed, self.vae, options.pool, options.device, self.ahead)

    def _shape(self, shapes: tuple[tuple[Shape, float], ...]) -> Shape:
        clips, frames, height, width = shapes[self.rng.choice(len(shapes), p=[share for _, share in shapes])][0]
        return clips * self.options.batch, frames, height, width

    def _soften(self, samples: list[Sample]) -> None:
        blend_towards_mean(self.averaged, samples, self.keep_C, self.options.device)

    def _watched(self) -> list[Sample]:
        """Half-size 17-frame samples of NAME.npy [T, 240, 416, 3] with NAME_mask.npy, never trained on."""
        samples: list[Sample] = []
        for path in watched_clips(self.options.watch) if self.options.watch else []:
            clip = np.load(path)[:17].astype(np.float32)
            clip = clip.reshape(17, 120, 2, 208, 2, 3).mean((2, 4))[:, 4:116].astype(np.uint8)
            mask = np.load(path.with_name(f"{path.stem}_mask.npy"))[:17, ::2, ::2][:, 4:116] > 0
            mask_u8 = np.ascontiguousarray(mask.astype(np.uint8))
            encoded = encode_sample(self.vae, clip[None], mask_u8[None], self.options.device)
            samples.append({"words": caption(clip, mask_u8), **{key: value[0] for key, value in encoded.items()}})
        return samples


def flow_loss(
    model: nn.Module,
    batch: tuple[Tensor, ...],
    sigma_B: Tensor,
    context_weight: float,
    block_fn: Callable[..., Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """(weighted loss, loss in mask, loss outside)."""
    x, vace, mask, ids, id_mask = batch
    noise = torch.randn_like(x)
    sigma = sigma_B.view(-1, 1, 1, 1, 1)
    with torch.autocast(x.device.type, torch.bfloat16):
        velocity = model((1 - sigma) * x + sigma * noise, sigma_B, ids, id_mask, vace, block_fn)
    error = (velocity.float() - (noise - x)).square().mean(1, keepdim=True)
    inside = (error * mask).sum() / mask.sum().clamp_min(1)
    outside = (error * (1 - mask)).sum() / (1 - mask).sum().clamp_min(1)
    weight = mask + context_weight * (1 - mask)
    return (error * weight).sum() / weight.sum(), inside.detach(), outside.detach()


def keep_per_channel(vae: nn.Module, keep: float, keep_detail: float) -> Tensor:
    """`keep_detail` for channels that carry fine, still luminance detail, `keep` for colour, shading and motion.

    Errors of the first kind look like texture, those of the second like patches and flicker. What a channel carries is
    read off the linear decoder, whose columns are patterns of 3 colours x 4 frames x 8x8 pixels, and, in the
    motion-compensated autoencoder, of motion.
    """
    columns = vae.decoder.linear.weight.detach().float().cpu().flatten(1)
    pattern = columns[:768].view(3, 4, 8, 8, -1)
    energy = pattern.square().sum((0, 1, 2, 3))
    still = pattern.mean(1).square().sum((0, 1, 2)) * 4 / (energy + columns[768:].square().sum(0))
    luma = pattern.mean(0).square().sum((0, 1, 2)) * 3 / energy
    coarse = pattern.unflatten(3, (2, 4)).unflatten(2, (2, 4)).mean((1, 3, 5)).square().sum((0, 1, 2)) * 64 / energy
    return keep + (keep_detail - keep) * still * luma * (1 - coarse)


@torch.no_grad()
def blend_towards_mean(model: nn.Module, samples: list[Sample], keep_C: Tensor, device: str) -> None:
    """Moves each target inside the mask towards the model's own mean prediction: x <- E + keep (x - E) per channel.

    At sigma 1 the input is noise alone, so the flow's answer there is the expected clip. Blending keeps that mean and
    shrinks the spread around it: a lower-entropy target that a small network can meet.
    """
    keep = keep_C.view(1, -1, 1, 1, 1)
    x, vace, mask, ids, id_mask = stack(samples, np.random.default_rng(0), 0.0, device)
    noise = torch.randn_like(x)
    sigma = torch.ones(len(samples), device=device)
    with torch.autocast(x.device.type, torch.bfloat16):
        mean = noise - model(noise, sigma, ids, id_mask, vace).float()
    target = torch.where(mask > 0, mean + keep * (x - mean), x)
    for sample, value in zip(samples, target, strict=True):
        sample["x"] = value.bfloat16()


def shifted(s_B: Tensor, shift: float = 5.0) -> Tensor:
    """DiffSynth's shift of uniform times."""
    return shift * s_B / (1 + (shift - 1) * s_B)
