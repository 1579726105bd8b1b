"""Trains the autoencoder of the embedded model (stage `vae` of train_tiny.py).

The linear path starts as a PCA of 4x8x8 patches, half whitened, so that even the untrained network reconstructs. The
loss is the mean over clips of log(MSE): it weighs every clip by its own error, which is what an average PSNR does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tiny_data import ClipSampler
from tiny_optim import Clock, CsvLog, Ema, average_gradients, init_processes, make_optimizers, schedule
from torch import Tensor

from diffsynth_patches.tiny import TinyConfig
from diffsynth_patches.tiny.vae import TinyAutoencoder, to_patches

# (clips per process, frames, height, width), share of steps
SHAPES = (((6, 17, 128, 128), 0.55), ((3, 33, 128, 128), 0.25), ((12, 5, 144, 160), 0.1), ((12, 1, 240, 256), 0.1))


@dataclass(frozen=True)
class VaeTraining:
    data: Path
    out: Path
    minutes: float = 25.0
    lr: float = 1.5e-3
    latent_noise: float = 0.05
    train_encoder: bool = True
    monitor: Path | None = None
    device: str = "cpu"


def to_unit(clips_u8: np.ndarray, device: str) -> Tensor:
    """uint8 [B, T, H, W, 3] to float [B, 3, T, H, W] in -1..1."""
    return torch.from_numpy(clips_u8).to(device).permute(0, 4, 1, 2, 3).float().div_(127.5).sub_(1)


def pca_start(model: TinyAutoencoder, sampler: ClipSampler, clips: int = 160) -> None:
    """Sets the linear paths to a PCA of patches; channel variances become the square roots of the PCA's."""
    patches = []
    for _ in range(clips):
        video = to_unit(sampler.sample(9, 96, 96)[None], "cpu")
        patches.append(to_patches(video)[:, 1:].reshape(-1, 768))
    x = torch.cat(patches).double()
    mean = x.mean(0)
    variance, basis = torch.linalg.eigh((x - mean).T @ (x - mean) / len(x))
    variance, basis = variance.flip(0)[: model.z_dim], basis.flip(1)[:, : model.z_dim]
    gain = variance.pow(-0.25) / variance.sqrt().mean().sqrt()
    with torch.no_grad():
        model.encoder.linear.weight.copy_((basis * gain).T)
        model.encoder.linear.bias.copy_(-(mean @ basis) * gain)
        model.decoder.linear.weight.copy_(basis / gain)
        model.decoder.linear.bias.copy_(mean)
        for net in (model.encoder, model.decoder):
            net.head.weight.mul_(0.02)
            net.head.bias.zero_()
            for block in net.blocks:
                block.time.weight.mul_(0.2)
        model.refiner.out.weight.mul_(0.01)
        model.refiner.out.bias.zero_()


def train_vae(options: VaeTraining, config: TinyConfig) -> None:
    """Trains everything (vae.pt), or only the decoder behind a frozen encoder (vae_tune.pt, vae_tuned.pt)."""
    rank, _ = init_processes()
    rng = np.random.default_rng([1, rank, int(torch.randint(1 << 30, ()))])
    sampler = ClipSampler(options.data, rng)
    torch.manual_seed(0)
    model = TinyAutoencoder(
        config.z_dim, config.vae_width, config.vae_encoder_depth, config.vae_decoder_depth, config.vae_refine_width
    )
    pca_start(model, ClipSampler(options.data, np.random.default_rng(7)))
    checkpoint = options.out / ("vae.pt" if options.train_encoder else "vae_tune.pt")
    step, used_s, saved = 0, 0.0, None
    if not options.train_encoder:
        model.load_state_dict(torch.load(options.out / "vae_frozen.pt", map_location="cpu"))
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location="cpu")
        model.load_state_dict(saved["model"])
        step, used_s = saved["step"], saved["used_s"]
    model = model.to(options.device, memory_format=torch.channels_last)
    if not options.train_encoder:
        model.encoder.requires_grad_(False)
    params = [p for p in model.parameters() if p.requires_grad]
    optimizers = make_optimizers(model, options.lr, adam_names=("linear", "head", "stem", "refiner.inp", "refiner.out"))
    ema = Ema(model, 0.998)
    if saved is not None:
        ema.module.load_state_dict(saved["ema"])
        ema.steps = 1000
    clock, log = Clock(options.minutes * 60, used_s), CsvLog(options.out / f"{checkpoint.stem}_log.csv")
    shape_rng = np.random.default_rng(step)
    progress, next_save = clock.tick(), clock.used_s + 240
    while progress < 1:
        factor = schedule(progress)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = options.lr * factor
        b, t, h, w = SHAPES[shape_rng.choice(len(SHAPES), p=[share for _, share in SHAPES])][0]
        video = to_unit(np.stack([sampler.sample(t, h, w) for _ in range(b)]), options.device)
        with torch.autocast(options.device.split(":")[0], torch.bfloat16):
            latents = model.encode(video)
            latents = perturb(latents, options)
            error = model.decode(latents).float() - video
        mse_B = error.square().mean((1, 2, 3, 4))
        (mse_B + 1e-4).log().mean().backward()
        norm = average_gradients(params, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        ema.update(model)
        step += 1
        progress = clock.tick()
        if rank == 0 and step % 20 == 0:
            psnr = float((4 / mse_B.detach()).log10().mean() * 10)
            log.row(
                step=step,
                used_s=clock.used_s,
                shape=f"{b}x{t}x{h}x{w}",
                psnr_db=psnr,
                norm=norm,
                lr=factor,
                latent_std=float(latents.detach().float().std()),
            )
        if rank == 0 and (clock.used_s > next_save or progress >= 1):
            next_save = clock.used_s + 240
            torch.save(
                {"model": model.state_dict(), "ema": ema.module.state_dict(), "step": step, "used_s": clock.used_s},
                checkpoint,
            )
            if not options.train_encoder:
                torch.save(ema.module.state_dict(), options.out / "vae_tuned.pt")
            if options.monitor:
                log.row(
                    step=step,
                    used_s=clock.used_s,
                    shape="monitor",
                    psnr_db=_monitor(ema.module, options),
                    norm=0.0,
                    lr=factor,
                    latent_std=0.0,
                )


def perturb(latents_BCTHW: Tensor, options: VaeTraining) -> Tensor:
    """Latent noise. For the decoder alone also what a denoiser's errors look like: noise per latent and per 2x2 token,
    of a strength that varies from clip to clip and is zero for some, so that it learns to smooth only what needs it.
    """
    noise = options.latent_noise * torch.randn_like(latents_BCTHW)
    if options.train_encoder:
        return latents_BCTHW + noise
    b, c, t, h, w = latents_BCTHW.shape
    strength = (torch.rand(b, 1, 1, 1, 1, device=noise.device) * 0.9 - 0.4).clamp_min(0)
    token = torch.randn(b, c, t, (h + 1) // 2, (w + 1) // 2, device=noise.device)
    token = token.repeat_interleave(2, 3).repeat_interleave(2, 4)[..., :h, :w]
    return latents_BCTHW + noise + strength * (0.6 * token + 0.8 * torch.randn_like(latents_BCTHW))


@torch.no_grad()
def freeze_vae(data: Path, out: Path, config: TinyConfig, clips: int = 64) -> str:
    """Measures the latents of the averaged model and stores them with mean 0 and overall variance 1.

    One scale for all channels: it keeps the spectrum that training found.
    """
    model = TinyAutoencoder(
        config.z_dim, config.vae_width, config.vae_encoder_depth, config.vae_decoder_depth, config.vae_refine_width
    )
    model.load_state_dict(torch.load(out / "vae.pt", map_location="cpu")["ema"])
    model.mean.zero_()
    model.std.fill_(1)
    sampler = ClipSampler(data, np.random.default_rng(3))
    latents = (
        torch.cat([model.encode(to_unit(sampler.sample(9, 128, 128)[None], "cpu"))[:, :, 1:] for _ in range(clips)])
        .movedim(1, 0)
        .flatten(1)
    )
    model.mean.copy_(latents.mean(1))
    model.std.fill_(float((latents - latents.mean(1, keepdim=True)).square().mean().sqrt()))
    torch.save(model.state_dict(), out / "vae_frozen.pt")
    return f"std per channel after scaling: {[round(float(v), 2) for v in latents.std(1) / model.std]}"


@torch.no_grad()
def _monitor(model: TinyAutoencoder, options: VaeTraining) -> float:
    """Average PSNR in dB of the clips *.npy [33, 240, 416, 3] under the monitor folder."""
    values = []
    for path in sorted(p for p in options.monitor.glob("*.npy") if not p.stem.endswith("_mask")):
        video = to_unit(np.load(path)[None], options.device)
        with torch.autocast(options.device.split(":")[0], torch.bfloat16):
            error = model.decode(model.encode(video)).float().clamp(-1, 1) - video
        values.append(float(10 * torch.log10(4 / error.square().mean())))
    return float(np.mean(values))
