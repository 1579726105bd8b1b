"""Stage `ae`: trains the embedded model's autoencoder, or its decoder alone behind a frozen encoder.

The linear path starts as a PCA of aligned 4x8x8 patches and their motion, half whitened, so that even the untrained
network reconstructs. The loss is the mean over clips of log(MSE + floor): it weighs a clip by its own error, which is
what an average PSNR does, but no longer where a clip is nearly perfect; LPIPS of a few frames is added to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from diffsynth_patches.tiny import TinyConfig, build_autoencoder
from diffsynth_patches.tiny.autoencoder import FINE, FLOW_VALUES, PATCH_VALUES, TinyAutoencoder
from scripts.train.ahead import Ahead
from scripts.train.basis import change_basis, explained, matching_map
from scripts.train.clips import ClipSampler, Shape, draw
from scripts.train.loop import Values
from scripts.train.perceptual import PerceptualLoss

# (clips per process, frames, height, width), share of steps
SHAPES: tuple[tuple[Shape, float], ...] = (
    ((6, 17, 128, 128), 0.5),
    ((3, 33, 128, 128), 0.25),
    ((10, 5, 144, 160), 0.13),
    ((8, 1, 240, 256), 0.03),
    ((2, 17, 208, 240), 0.09),
)
WATCHED_FRAMES = 33
LPIPS_FRAMES = 6


@dataclass(frozen=True)
class AutoencoderOptions:
    """`batch` multiplies the clips of a step: 1 on a CPU core, 8 to 16 on a large GPU, which also wants `workers`
    that draw them."""

    data: Path
    perceptual: float = 0.3
    latent_noise: float = 0.05
    floor: float = 2e-3
    batch: int = 1
    workers: int = 0
    decoder_only: bool = False
    watch: Path | None = None
    device: str = "cpu"
    compile: bool = False
    lpips_file: Path | None = None


class AutoencoderStage:
    """See the module's docstring; `Stage` in `loop` says what each part is for."""

    adam_names: tuple[str, ...] = ("linear", "head", "stem", "features", "refiner.inp", "refiner.out")

    def __init__(
        self, config: TinyConfig, options: AutoencoderOptions, frozen: Path | None = None, begun: bool = False
    ) -> None:
        """`frozen` holds weights to start from; a stage that is `begun` gets them from its checkpoint."""
        self.name = "ae-decoder" if options.decoder_only else "ae"
        self.options = options
        torch.manual_seed(0)
        model = build_autoencoder(config)
        if frozen is not None:
            model.load_state_dict(torch.load(frozen, map_location="cpu", weights_only=True))
            if options.decoder_only:
                model.encoder.requires_grad_(False)
        elif not begun:
            pca_start(model, ClipSampler(options.data, np.random.default_rng(7)))
        self.model: nn.Module = model.to(options.device, memory_format=torch.channels_last)
        self.encode = torch.compile(model.encode) if options.compile else model.encode
        self.decode = torch.compile(model.decode) if options.compile else model.decode
        self.lpips = PerceptualLoss(options.lpips_file).to_device(options.device) if options.perceptual else None
        self.ahead = Ahead(options.workers)
        self.seed: tuple[int, ...] = (1,)
        self.drawn = 0
        self.rng = np.random.default_rng(self.seed)

    def begin(self, seed: tuple[int, int], averaged: nn.Module) -> None:
        self.seed = (1, *seed)
        self.rng = np.random.default_rng(self.seed)
        torch.manual_seed(seed[0] + 1000 * seed[1])

    def loss(self, progress: float) -> tuple[Tensor, Values]:
        video = to_unit(self.ahead.take(draw, self._next_batch), self.options.device)
        with torch.autocast(self.options.device.split(":")[0], torch.bfloat16):
            latents = self.encode(video)
            made = self.decode(perturb(latents, self.options)).float()
            squared_B = (made - video).square().mean((1, 2, 3, 4))
            loss = (squared_B + self.options.floor).log().mean()
            distance = self._distance(made, video)
        figures = {
            "psnr_db": float((4 / squared_B.detach()).log10().mean() * 10),
            "lpips": float(distance.detach()),
            "latent_std": float(latents.detach().float().std()),
        }
        return loss + self.options.perceptual * distance, figures

    def close(self) -> None:
        self.ahead.close()

    def _next_batch(self) -> tuple[Path, tuple[int, ...], Shape]:
        """Where the next batch comes from, its seed and its shape."""
        self.drawn += 1
        seed = (*self.seed, self.drawn)
        choice = np.random.default_rng(seed).choice(len(SHAPES), p=[share for _, share in SHAPES])
        clips, frames, height, width = SHAPES[choice][0]
        return self.options.data, seed, (clips * self.options.batch, frames, height, width)

    def _distance(self, made: Tensor, video: Tensor, frames: int = 3) -> Tensor:
        """LPIPS of a few frames of each clip, drawn anew."""
        if self.lpips is None:
            return torch.zeros((), device=made.device)
        count, length = len(made), made.shape[2]
        picks = [self.rng.choice(length, min(length, frames), replace=False) for _ in range(count)]
        times = torch.from_numpy(np.stack(picks)).to(made.device)
        clips = torch.arange(count, device=made.device)[:, None]
        a, b = (x.transpose(1, 2)[clips, times].flatten(0, 1) for x in (made, video))
        return self.lpips(a, b).mean()

    @torch.no_grad()
    def watch(self, model: nn.Module) -> Values:
        """PSNR per clip and on average, and LPIPS of six frames, of the clips NAME.npy under the watched folder."""
        if self.options.watch is None:
            return {}
        psnr: Values = {}
        distances = []
        for path in watched_clips(self.options.watch):
            video = to_unit(np.load(path)[None, :WATCHED_FRAMES], self.options.device)
            with torch.autocast(self.options.device.split(":")[0], torch.bfloat16):
                made = model.decode(model.encode(video)).float().clamp(-1, 1)
                picks = np.linspace(0, video.shape[2] - 1, LPIPS_FRAMES).round().astype(int).tolist()
                if self.lpips is not None:
                    pair = (x[0, :, picks].transpose(0, 1) for x in (made, video))
                    distances.append(float(self.lpips(*pair).mean()))
            psnr[path.stem] = float(10 * torch.log10(4 / (made - video).square().mean()))
        figures = {"psnr_db": float(np.mean(list(psnr.values()))), **psnr}
        return {**figures, "lpips": float(np.mean(distances))} if distances else figures


def watched_clips(folder: Path) -> list[Path]:
    """Clips never trained on: NAME.npy [T, H, W, 3] uint8, masks NAME_mask.npy left out."""
    return sorted(p for p in folder.glob("*.npy") if not p.stem.endswith("_mask"))


def to_unit(clips_u8: NDArray[np.uint8], device: str) -> Tensor:
    """uint8 [B, T, H, W, 3] to float [B, 3, T, H, W] in -1..1."""
    return torch.from_numpy(clips_u8).to(device).permute(0, 4, 1, 2, 3).float().div_(127.5).sub_(1)


@torch.no_grad()
def pca_start(model: TinyAutoencoder, sampler: ClipSampler, clips: int = 160) -> None:
    """Sets the linear paths to a PCA of aligned patches and motion, and quiets the rest.

    A pixel of motion weighs what it changes in the picture: the root of the mean squared gradient times the values of
    a frame's patch. Channel variances become the square roots of the PCA's.
    """
    model.flow_gain.fill_(1.0)
    values, slopes = [], []
    for _ in range(clips):
        video = to_unit(sampler.sample(9, 128, 128)[None], "cpu")
        values.append(model.align(video)[1:].movedim(1, -1).flatten(0, 2))
        steps = (video[..., 1:] - video[..., :-1], video[..., 1:, :] - video[..., :-1, :])
        slopes.append(torch.stack([step.square().mean() for step in steps]).mean())
    gain = float((torch.stack(slopes).mean() * (PATCH_VALUES / 4)).sqrt())
    model.flow_gain.fill_(gain)
    x = torch.cat(values).double()
    x[:, PATCH_VALUES:] *= gain
    mean = x.mean(0)
    variance, basis = torch.linalg.eigh((x - mean).T @ (x - mean) / len(x))
    variance, basis = variance.flip(0)[: model.z_dim], basis.flip(1)[:, : model.z_dim]
    scale = variance.pow(-0.25) / variance.sqrt().mean().sqrt()
    model.encoder.linear.weight.copy_((basis * scale).T[..., None, None])
    model.encoder.linear.bias.copy_(-(mean @ basis) * scale)
    model.decoder.linear.weight.copy_((basis / scale)[..., None, None])
    model.decoder.linear.bias.copy_(mean)
    for net in (model.encoder, model.decoder):
        net.head.weight.mul_(0.02)
        net.head.bias.zero_()
        for block in net.blocks:
            block.time.weight.mul_(0.2)
    fine = slice(-FLOW_VALUES * FINE**2, None)
    beside = model.decoder.features
    assert beside is not None and beside.bias is not None
    beside.weight[fine].zero_()
    beside.bias[fine].zero_()
    model.refiner.out.weight.mul_(0.01)
    model.refiner.out.bias.zero_()


def perturb(latents_BCTHW: Tensor, options: AutoencoderOptions) -> Tensor:
    """Latent noise, relative to the latents so that scaling them up does not escape it.

    For the decoder alone also what a denoiser's errors look like: noise per latent and per 2x2 token, of a strength
    that varies from clip to clip and is zero for some, so that it learns to smooth only what needs it.
    """
    noise = options.latent_noise * latents_BCTHW.float().std() * torch.randn_like(latents_BCTHW)
    if not options.decoder_only:
        return latents_BCTHW + noise
    b, c, t, h, w = latents_BCTHW.shape
    strength = (torch.rand(b, 1, 1, 1, 1, device=noise.device) * 0.9 - 0.4).clamp_min(0)
    token = torch.randn(b, c, t, (h + 1) // 2, (w + 1) // 2, device=noise.device)
    token = token.repeat_interleave(2, 3).repeat_interleave(2, 4)[..., :h, :w]
    return latents_BCTHW + noise + strength * (0.6 * token + 0.8 * torch.randn_like(latents_BCTHW))


@torch.no_grad()
def freeze(data: Path, out: Path, config: TinyConfig, like: nn.Module | None = None, clips: int = 64) -> str:
    """ae.pt's averaged model, its latents brought to mean 0 and overall variance 1: ae-frozen.pt.

    One scale for all channels: it keeps the spectrum that training found. With an older autoencoder `like`, the latents
    are turned to resemble its own instead (`basis`), which is what a denoiser trained on those can go on with.
    """
    model = build_autoencoder(config)
    model.load_state_dict(torch.load(out / "ae.pt", map_location="cpu", weights_only=True)["ema"])
    model.mean.zero_()
    model.std.fill_(1)
    sampler = ClipSampler(data, np.random.default_rng(3))
    videos = [to_unit(sampler.sample(9, 128, 128)[None], "cpu") for _ in range(clips)]
    latents_NC = _latents(model, videos)
    text = ""
    if like is None:
        model.std.fill_(float((latents_NC - latents_NC.mean(0)).square().mean().sqrt()))
    else:
        old_NC = _latents(like, videos)
        turn = matching_map(latents_NC, old_NC)
        text = f"share of the old latents met: {_rounded(explained(turn, latents_NC, old_NC))}\n"
        change_basis(model, turn)
        latents_NC = _latents(model, videos)
    model.mean.copy_(latents_NC.mean(0))
    torch.save(model.state_dict(), out / "ae-frozen.pt")
    return f"{text}std per channel: {_rounded(latents_NC.std(0) / model.std)}"


def _latents(model: nn.Module, videos: list[Tensor]) -> Tensor:
    """The latents of all groups but the first, one row per place: [N, C]."""
    return torch.cat([model.encode(video)[:, :, 1:].movedim(1, -1).flatten(0, -2) for video in videos])


def _rounded(values_C: Tensor) -> list[float]:
    return [round(float(value), 2) for value in values_C]
