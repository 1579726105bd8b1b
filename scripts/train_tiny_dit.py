"""Trains the denoiser of the embedded model (stage `dit` of train_tiny.py): flow matching with VACE conditioning.

Times follow DiffSynth's schedule, sigma = 5 s / (1 + 4 s) with s uniform. The loss is the squared error of the
velocity, weight 1 where the mask touches the latent and `context_weight` elsewhere. Encoded clips are kept in a pool
and used about `reuse` times, with new noise, time and caption each time: encoding costs as much as training.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from tiny_data import ClipSampler
from tiny_forward import block_forward, forward, mimetic_init
from tiny_masks import caption, random_mask
from tiny_optim import Clock, CsvLog, Ema, average_gradients, init_processes, make_optimizers, schedule
from torch import Tensor, nn
from train_tiny_vae import to_unit

from diffsynth_patches.tiny import TinyConfig, build_tiny_pipeline
from diffsynth_patches.tiny.text import TinyTokenizer
from hetcache.media.fill import push_pull_fill

# (from this progress on, ((clips per process, frames, height, width), share) ...)
STAGES = (
    (0.0, (((36, 1, 128, 160), 0.45), ((12, 9, 128, 160), 0.35), ((9, 17, 128, 128), 0.2))),
    (0.3, (((18, 1, 192, 240), 0.2), ((10, 9, 128, 192), 0.2), ((6, 17, 128, 192), 0.4), ((6, 33, 96, 144), 0.2))),
    (0.7, (((10, 1, 240, 320), 0.1), ((4, 17, 160, 208), 0.4), ((3, 33, 128, 208), 0.3), ((2, 33, 160, 256), 0.2))),
    (0.9, (((4, 17, 160, 208), 0.3), ((2, 33, 160, 256), 0.4), ((2, 17, 240, 416), 0.3))),
)


@dataclass(frozen=True)
class DitTraining:
    data: Path
    out: Path
    minutes: float = 90.0
    lr: float = 2e-3
    context_weight: float = 0.2
    caption_dropout: float = 0.15
    reuse: int = 3
    keep: float = 1.0
    keep_detail: float = 1.0
    monitor: Path | None = None
    device: str = "cpu"
    compile: bool = False


class TinyDenoiser(nn.Module):
    """The trained parts in one module, so that one state dict and one optimiser cover them."""

    def __init__(self, config: TinyConfig, seed: int = 0):
        super().__init__()
        pipe = build_tiny_pipeline(config, seed)
        mimetic_init(pipe.dit, pipe.vace)
        self.dit, self.vace, self.text_encoder = pipe.dit, pipe.vace, pipe.text_encoder
        self.requires_grad_(True)

    def forward(
        self, x_BCTHW: Tensor, sigma_B: Tensor, ids_BL: Tensor, mask_BL: Tensor, vace_BCTHW: Tensor, block_fn=None
    ) -> Tensor:
        context = self.text_encoder(ids_BL, mask_BL)
        return forward(self.dit, self.vace, x_BCTHW, sigma_B * 1000, context, vace_BCTHW, block_fn)


def encode_sample(vae: nn.Module, clips_u8: np.ndarray, masks_u8: np.ndarray, device: str) -> dict[str, Tensor]:
    """Clips [B, T, H, W, 3] and masks [B, T, H, W] to latents, the VACE context and the latent mask."""
    video = to_unit(clips_u8, device)
    mask = torch.from_numpy(masks_u8).to(device).float().unsqueeze(1)
    filled = torch.stack(
        [push_pull_fill(v.transpose(0, 1), m.transpose(0, 1)).transpose(0, 1) for v, m in zip(video, mask, strict=True)]
    )
    with torch.no_grad(), torch.autocast(device.split(":")[0], torch.bfloat16):
        latents, inactive, reactive = vae.encode(torch.cat([video, filled * (1 - mask), filled * mask])).chunk(3)
    fine = rearrange(mask[:, 0], "b t (h p) (w q) -> b (p q) t h w", p=8, q=8)
    size = ((fine.shape[2] + 3) // 4, *fine.shape[3:])
    coarse = F.interpolate(fine, size=size, mode="nearest-exact")
    touched = fine.amax(1, keepdim=True)
    groups = touched[:, :, 1:].unflatten(2, (-1, 4)).amax(3)
    return {
        "x": latents.bfloat16(),
        "vace": torch.cat([inactive, reactive, coarse], dim=1).bfloat16(),
        "mask": torch.cat([touched[:, :, :1], groups], dim=2),
    }


class Pool:
    """Per shape, encoded samples in memory; `batch` mixes new ones with kept ones."""

    def __init__(
        self, sampler: ClipSampler, vae: nn.Module, options: DitTraining, rng: np.random.Generator, capacity: int = 1200
    ):
        self.sampler, self.vae, self.options, self.rng, self.capacity = sampler, vae, options, rng, capacity
        self.samples: dict[tuple, list[dict]] = {}

    def batch(self, shape: tuple[int, int, int, int], smooth=None) -> list[dict]:
        size = shape[0]
        kept = self.samples.setdefault(shape, [])
        count = size if len(kept) < 2 * size else max(1, round(size / self.options.reuse))
        clips = np.stack([self.sampler.sample(*shape[1:]) for _ in range(count)])
        masks = np.stack([random_mask(self.rng, *shape[1:]) for _ in range(count)])
        encoded = encode_sample(self.vae, clips, masks, self.options.device)
        fresh = [{"words": caption(clips[i], masks[i]), **{k: v[i] for k, v in encoded.items()}} for i in range(count)]
        if smooth is not None:
            smooth(fresh)
        old = [kept[i] for i in self.rng.integers(len(kept), size=size - count)] if size > count else []
        kept.extend(fresh)
        del kept[: max(0, len(kept) - self.capacity)]
        return fresh + old

    def clear(self) -> None:
        self.samples.clear()


def stack(samples: list[dict], rng: np.random.Generator, dropout: float, device: str) -> tuple[Tensor, ...]:
    """(latents, VACE context, latent mask, ids, id mask) of a batch; words are dropped at random."""
    prompts = []
    for sample in samples:
        words = [word for word in sample["words"] if rng.random() < 0.75]
        prompts.append("" if rng.random() < dropout else " ".join(words))
    ids, id_mask = TinyTokenizer()(prompts, return_mask=True)
    tensors = [torch.stack([sample[key] for sample in samples]).to(device).float() for key in ("x", "vace", "mask")]
    return *tensors, ids.to(device), id_mask.to(device)


def flow_loss(
    model: nn.Module, batch: tuple[Tensor, ...], sigma_B: Tensor, context_weight: float, block_fn=None
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
    read off the linear decoder, whose columns are patterns of 3 colours x 4 frames x 8x8 pixels.
    """
    pattern = vae.decoder.linear.weight.detach().float().cpu().view(3, 4, 8, 8, -1)
    energy = pattern.square().sum((0, 1, 2, 3))
    still = pattern.mean(1).square().sum((0, 1, 2)) * 4 / energy
    luma = pattern.mean(0).square().sum((0, 1, 2)) * 3 / energy
    coarse = pattern.unflatten(3, (2, 4)).unflatten(2, (2, 4)).mean((1, 3, 5)).square().sum((0, 1, 2)) * 64 / energy
    return keep + (keep_detail - keep) * still * luma * (1 - coarse)


@torch.no_grad()
def blend_towards_mean(model: nn.Module, samples: list[dict], keep_C: Tensor, device: str) -> None:
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
    return shift * s_B / (1 + (shift - 1) * s_B)


def train_dit(options: DitTraining, config: TinyConfig) -> None:
    rank, world = init_processes()
    model = TinyDenoiser(config).to(options.device)
    vae = build_tiny_pipeline(config).vae.model
    vae.load_state_dict(torch.load(options.out / "vae_frozen.pt", map_location="cpu"))
    vae = vae.to(options.device, memory_format=torch.channels_last)
    checkpoint, step, used_s = options.out / "dit.pt", 0, 0.0
    saved = torch.load(checkpoint, map_location="cpu") if checkpoint.exists() else None
    if saved is not None:
        model.load_state_dict(saved["model"])
        step, used_s = saved["step"], saved["used_s"]
    params = list(model.parameters())
    optimizers = make_optimizers(model, options.lr, adam_names=("embedding", "head.head", "time_projection"))
    ema = Ema(model, 0.998)
    if saved is not None:
        ema.module.load_state_dict(saved["ema"])
        ema.steps = step
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
    rng = np.random.default_rng([2, rank, step])
    torch.manual_seed(1000 * step + rank)
    pool = Pool(ClipSampler(options.data, rng), vae, options, rng)
    shape_rng = np.random.default_rng(step)
    block_fn = torch.compile(block_forward) if options.compile else None
    clock, log = Clock(options.minutes * 60, used_s), CsvLog(options.out / "dit_log.csv")
    watched = _watched(vae, options) if rank == 0 and options.monitor else []
    smooth = None
    if options.keep < 1:
        keep_C = keep_per_channel(vae, options.keep, options.keep_detail).to(options.device)

        def smooth(fresh):
            blend_towards_mean(ema.module, fresh, keep_C, options.device)

    progress, next_save = clock.tick(), clock.used_s + 180
    sums, count = torch.zeros(3), 0
    while progress < 1:
        factor = schedule(progress, cooldown_from=0.6)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = options.lr * factor
        shapes = [shapes for start, shapes in STAGES if progress >= start][-1]
        shape = shapes[shape_rng.choice(len(shapes), p=[share for _, share in shapes])][0]
        batch = stack(pool.batch(shape, smooth), rng, options.caption_dropout, options.device)
        # Stratified times: each batch covers the schedule evenly.
        s = (torch.randperm(shape[0]) + torch.rand(shape[0])) / shape[0]
        loss, inside, outside = flow_loss(model, batch, shifted(s.to(options.device)), options.context_weight, block_fn)
        loss.backward()
        norm = average_gradients(params, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        ema.update(model)
        step += 1
        progress = clock.tick()
        sums += torch.stack([inside.cpu(), outside.cpu(), torch.tensor(norm)])
        count += 1
        if rank == 0 and step % 20 == 0:
            means = (sums / count).tolist()
            log.row(
                step=step,
                used_s=clock.used_s,
                loss_mask=means[0],
                loss_context=means[1],
                norm=means[2],
                lr=factor,
                watched="",
            )
            sums, count = torch.zeros(3), 0
        if rank == 0 and (clock.used_s > next_save or progress >= 1):
            next_save = clock.used_s + 180
            state = {
                "model": model.state_dict(),
                "ema": ema.module.state_dict(),
                "step": step,
                "used_s": clock.used_s,
                "optimizers": [o.state_dict() for o in optimizers],
            }
            torch.save(state, checkpoint.with_suffix(".part"))
            checkpoint.with_suffix(".part").rename(checkpoint)
            if watched:
                value = _watch_loss(ema.module, watched, options.device)
                log.row(
                    step=step, used_s=clock.used_s, loss_mask="", loss_context="", norm="", lr=factor, watched=value
                )


def _watched(vae: nn.Module, options: DitTraining) -> list[dict]:
    """Half-size 17-frame samples of NAME.npy [T, 240, 416, 3] with NAME_mask.npy, never trained on."""
    samples = []
    for path in sorted(options.monitor.glob("*_mask.npy")):
        clip = np.load(str(path).replace("_mask", ""))[:17].astype(np.float32)
        clip = clip.reshape(17, 120, 2, 208, 2, 3).mean((2, 4))[:, 4:116].astype(np.uint8)
        mask = np.ascontiguousarray((np.load(path)[:17, ::2, ::2][:, 4:116] > 0).astype(np.uint8))
        encoded = encode_sample(vae, clip[None], mask[None], options.device)
        samples.append({"words": caption(clip, mask), **{k: v[0] for k, v in encoded.items()}})
    return samples


@torch.no_grad()
def _watch_loss(model: nn.Module, samples: list[dict], device: str) -> float:
    """Masked loss of the watched samples at four fixed times, the same noise every time."""
    state = torch.get_rng_state()
    torch.manual_seed(0)
    batch = stack(samples, np.random.default_rng(0), 0.0, device)
    times = shifted(torch.tensor([0.125, 0.375, 0.625, 0.875], device=device))
    values = [float(flow_loss(copy.copy(model), batch, t.expand(len(samples)), 0.2)[1]) for t in times]
    torch.set_rng_state(state)
    return float(np.mean(values))
