"""Cost of a full, a partial and a reused step of a Wan-VACE of any size with random weights.

    python scripts/bench_step.py --dim 1536 --heads 12 --ffn 8960 --layers 2 --vace-layers 1 --tokens 3120

Prints, for each active fraction |A|/N, the time of a partial step over that of a full one beside |A|/N itself, the
same ratio of analytic FLOPs, and the largest difference of the computed rows from the full step's when the inputs are
frozen. Times are medians of interleaved repeats in one process. Random weights: nothing about quality is said.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffsynth.models.wan_video_dit import WanModel
from diffsynth.models.wan_video_vace import VaceWanModel
from diffsynth.pipelines.wan_video import model_fn_wan_video

from diffsynth_patches.apply import CachedModel
from hetcache.core.flops import full_step_flops
from hetcache.core.ranks import ALONE, Ranks
from hetcache.core.session import CacheSession
from hetcache.core.tokens import TokenClasses
from hetcache.core.vocabulary import Branch, Compute, Grid, Schedule, Step
from hetcache.method.config import HetCacheConfig
from hetcache.method.replay import replayed
from hetcache.method.selector import TokenSelector
from scripts.measure.shared import add_device_flags, add_shape_flags, write_results


def build_model(args: argparse.Namespace) -> SimpleNamespace:
    """A pipeline-like object with a random DiT and VACE branch."""
    torch.manual_seed(0)
    common = {
        "dim": args.dim,
        "num_heads": args.heads,
        "ffn_dim": args.ffn,
        "eps": 1e-6,
        "patch_size": (1, 2, 2),
        "has_image_input": False,
    }
    stride = max(1, args.layers // max(1, args.vace_layers))
    dtype = getattr(torch, args.dtype)
    dit = WanModel(in_dim=16, out_dim=16, text_dim=args.text_dim, freq_dim=256, num_layers=args.layers, **common)
    vace = VaceWanModel(vace_layers=tuple(range(0, stride * args.vace_layers, stride)), vace_in_dim=96, **common)
    for model in (dit, vace):
        model.to(args.device, dtype).eval().requires_grad_(False)
    return SimpleNamespace(dit=dit, vace=vace, model_fn=model_fn_wan_video, torch_dtype=dtype, device=args.device)


def grid_of(num_tokens: int) -> Grid:
    """A grid of that many tokens, as many frames of 30 x 52 tokens (480p) as fit, else one row."""
    return Grid(num_tokens // 1560, 30, 52) if num_tokens % 1560 == 0 else Grid(1, 1, num_tokens)


def inputs_of(model: SimpleNamespace, grid: Grid, args: argparse.Namespace) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    size = (grid.frames, 2 * grid.height, 2 * grid.width)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(args.device, model.torch_dtype)

    return {
        "dit": model.dit,
        "vace": model.vace,
        "latents": random(1, 16, *size),
        "positive": True,
        "context": random(1, args.text_len, args.text_dim),
        "vace_context": random(1, 96, *size),
        "vace_scale": 1.0,
        "timestep": torch.tensor([500.0], device=args.device, dtype=model.torch_dtype),
    }


def timed(
    device: str, function: Callable[[], Any], clock: Callable[[], float] = time.perf_counter
) -> tuple[float, Any]:
    """(milliseconds, result) of a call by `clock` (seconds); between two events of the stream on CUDA."""
    if not device.startswith("cuda"):
        begin = clock()
        result = function()
        return (clock() - begin) * 1e3, result
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    result = function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end), result


class StepBench:
    """HetCache's branches, the conditional one alone unless `guided`, whose next step can be made full, partial or
    reused at will, shared out among `ranks`. `options` go to `CachedModel`."""

    def __init__(
        self,
        model: SimpleNamespace,
        kwargs: dict[str, Any],
        grid: Grid,
        active: int,
        vace: str,
        context_kv: str,
        guided: bool = False,
        clock: Callable[[], float] = time.perf_counter,
        ranks: Ranks = ALONE,
        **options: Any,
    ) -> None:
        config = HetCacheConfig(
            context_ratio=0.0,
            margin_ratio=0.0,
            partial_vace=vace,
            context_kv=context_kv,
            use_kmeans=False,
            use_attention_interaction=False,
        )
        rows = torch.linspace(0, grid.num_tokens - 1, active).round().long().to(model.device)
        rest = torch.ones(grid.num_tokens, dtype=torch.bool)
        rest[rows.cpu()] = False
        context = rest.nonzero().squeeze(1).to(model.device)
        self.rows = rows
        selector = TokenSelector(TokenClasses(grid, rows, rows[:0], context), config.selection())
        self.session = CacheSession(replayed(config, selector, "FPR"), ranks=ranks)
        self.session.begin(Schedule((500.0,) * 3))
        self.forward, self.device = CachedModel(model, self.session, **options), str(model.device)
        negative = {**kwargs, "positive": False, "context": -kwargs["context"]}
        self.clock = clock
        self.calls = [kwargs, negative] if guided else [kwargs]
        if options.get("pair") is not None:
            options["pair"].negative = negative["context"]

    def step(self, compute: Compute) -> tuple[float, torch.Tensor]:
        """(milliseconds, velocity of the first branch) of one step."""
        self.session.step = Step("FPR".index(compute.value), 3, 500.0)
        with torch.no_grad():
            ms, velocities = timed(self.device, lambda: [self.forward(**call) for call in self.calls], self.clock)
        return ms, velocities[0]

    def rows_of(self, velocity: torch.Tensor, grid: Grid) -> torch.Tensor:
        """The patches [|A|, 4 C] of the computed tokens."""
        c, f, h, w = velocity.shape[1:]
        patches = velocity[0].view(c, f, h // 2, 2, w // 2, 2).permute(1, 2, 4, 0, 3, 5).reshape(grid.num_tokens, -1)
        return patches[self.rows]


def measure(model: SimpleNamespace, args: argparse.Namespace) -> list[dict[str, float]]:
    grid = grid_of(args.tokens)
    kwargs = inputs_of(model, grid, args)
    results = []
    for fraction in args.active:
        active = round(fraction * grid.num_tokens)
        bench = StepBench(model, kwargs, grid, active, args.partial_vace, args.context_kv)
        times: dict[Compute, list[float]] = {compute: [] for compute in Compute}
        for _ in range(args.repeats + 1):
            for compute in Compute:
                ms, velocity = bench.step(compute)
                times[compute].append(ms)
                if compute is Compute.FULL:
                    full_rows = bench.rows_of(velocity, grid).float()
                elif compute is Compute.PARTIAL:
                    rows = bench.rows_of(velocity, grid).float()
        medians = {compute: statistics.median(values[1:]) for compute, values in times.items()}
        records = bench.session.trace.of(Branch.COND)
        assert bench.forward.shape is not None
        results.append(
            {
                "active_fraction": active / grid.num_tokens,
                "time_ratio": medians[Compute.PARTIAL] / medians[Compute.FULL],
                "flops_ratio": records[-2].flops / full_step_flops(bench.forward.shape, grid.num_tokens),
                "reuse_ratio": medians[Compute.REUSE] / medians[Compute.FULL],
                "rows_relative_error": ((rows - full_rows).norm() / full_rows.norm()).item(),
                "full_ms": medians[Compute.FULL],
            }
        )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_shape_flags(parser, 2, 1, tokens=3120, repeats=5)
    parser.add_argument("--active", type=float, nargs="+", default=[0.15, 0.3, 0.5])
    parser.add_argument("--partial-vace", choices=("rows", "hints"), default="rows")
    parser.add_argument("--context-kv", choices=("cached", "sampled"), default="cached")
    add_device_flags(parser)
    parser.add_argument("--output", type=Path, help="also write the figures as JSON")
    args = parser.parse_args()
    results = measure(build_model(args), args)
    print("  |A|/N   time(partial)/time(full)   FLOPs ratio   time(reuse)/time(full)   rows' relative error")
    for row in results:
        print(
            f"  {row['active_fraction']:.3f}   {row['time_ratio']:24.3f}   {row['flops_ratio']:11.3f}   "
            f"{row['reuse_ratio']:22.4f}   {row['rows_relative_error']:20.1e}"
        )
    write_results(args, results)


if __name__ == "__main__":
    main()
