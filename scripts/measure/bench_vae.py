"""Is encoding the inactive and the reactive video as one batch faster than one after the other?

    python scripts/bench_vae.py --frames 9 --height 96 --width 160

DiffSynth's VACE unit encodes the two videos one after the other. Prints, for Wan's autoencoder at its true dimensions
with random weights and for the embedded model's, the median time of both ways, measured in turn in one process, and
the largest difference of their latents relative to the largest latent (0: equal bit for bit).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffsynth.models.wan_video_vae import WanVideoVAE

from diffsynth_patches.tiny import TinyConfig, build_tiny_pipeline
from hetcache.core.session import now_ms
from scripts.measure.shared import add_cpu_time_flag, add_device_flags, cpu_ms, write_results

Encode = Callable[[torch.Tensor], torch.Tensor]


def encoders(args: argparse.Namespace) -> dict[str, Encode]:
    """Each autoencoder's untiled encoding of videos [B, 3, T, H, W] as one batch."""
    dtype = getattr(torch, args.dtype)
    torch.manual_seed(0)
    wan = WanVideoVAE().to(args.device, dtype).eval().requires_grad_(False)
    tiny = build_tiny_pipeline(TinyConfig(), device=args.device, dtype=dtype).vae.model
    return {"Wan2.1 VAE": lambda videos: wan.model.encode(videos, wan.scale), "embedded model's": tiny.encode}


def measure(encode: Encode, videos_2CTHW: torch.Tensor, repeats: int, now: Callable[[], float]) -> dict[str, Any]:
    def in_turn() -> torch.Tensor:
        return torch.cat([encode(videos_2CTHW[:1]), encode(videos_2CTHW[1:])])

    ways = {"in_turn": in_turn, "one_batch": lambda: encode(videos_2CTHW)}
    times: dict[str, list[float]] = {name: [] for name in ways}
    latents: dict[str, torch.Tensor] = {}
    for repeat in range(repeats + 1):
        for name in sorted(ways, reverse=repeat % 2 == 1):
            start = now()
            latents[name] = ways[name]()
            times[name].append(now() - start)
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    difference = (latents["one_batch"] - latents["in_turn"]).abs().max() / latents["in_turn"].abs().max()
    return {
        "in_turn_ms": medians["in_turn"],
        "one_batch_ms": medians["one_batch"],
        "ratio": medians["one_batch"] / medians["in_turn"],
        "relative_difference": float(difference),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("frames", 9), ("height", 96), ("width", 160), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    add_device_flags(parser)
    add_cpu_time_flag(parser)
    parser.add_argument("--output", type=Path, help="also write the figures as JSON")
    args = parser.parse_args()
    generator = torch.Generator().manual_seed(1)
    videos = torch.rand(2, 3, args.frames, args.height, args.width, generator=generator) * 2 - 1
    videos = videos.to(args.device, getattr(torch, args.dtype))
    now = cpu_ms if args.cpu_time else now_ms
    with torch.no_grad():
        results = {name: measure(encode, videos, args.repeats, now) for name, encode in encoders(args).items()}
    print("  autoencoder         in turn ms   one batch ms   ratio   relative difference")
    for name, row in results.items():
        print(
            f"  {name:18s} {row['in_turn_ms']:11.1f} {row['one_batch_ms']:14.1f} {row['ratio']:7.3f} "
            f"{row['relative_difference']:21.1e}"
        )
    write_results(args, results, date=time.strftime("%Y-%m-%d"))


if __name__ == "__main__":
    main()
