"""One video's steps on one device and shared out among several, at true dimensions with random weights.

    torchrun --nproc-per-node 2 -m scripts.measure.gpu_ranks --kind cfg --output docs/benchmarks/ranks.json

Prints milliseconds of a full, a partial and a reused step of both branches, alone and together, the speed-up, and the
largest relative difference of the velocity. On a CPU, choose small sizes as for scripts/gpu_check.py and `--device
cpu`.
"""

from __future__ import annotations

import argparse
import os
import statistics
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from hetcache.core.facts import hardware, package_versions
from hetcache.core.guidance import RankedGuidance
from hetcache.core.ranks import Team
from hetcache.core.vocabulary import Compute
from hetcache.files import write_json
from scripts.measure.bench_step import StepBench, build_model, grid_of, inputs_of
from scripts.measure.shared import add_shape_flags


def medians(bench: StepBench, repeats: int) -> tuple[dict[Compute, float], dict[Compute, torch.Tensor]]:
    """By kind of step, (milliseconds, the last velocity)."""
    times: dict[Compute, list[float]] = {compute: [] for compute in Compute}
    last: dict[Compute, torch.Tensor] = {}
    for _ in range(repeats + 1):
        for compute in Compute:
            ms, last[compute] = bench.step(compute)
            times[compute].append(ms)
    return {compute: statistics.median(values[1:]) for compute, values in times.items()}, last


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    team = Team(args.kind, 300.0)
    model, grid = build_model(args), grid_of(args.tokens)
    kwargs = inputs_of(model, grid, args)
    sizes = (model, kwargs, grid, round(args.active * grid.num_tokens), "rows", args.context_kv, True)
    alone_ms, alone = medians(StepBench(*sizes), args.repeats)
    together_ms, shared = medians(StepBench(*sizes, ranks=team, pair=RankedGuidance(team)), args.repeats)
    rows = []
    for compute in Compute:
        difference = (shared[compute].float() - alone[compute].float()).norm() / alone[compute].float().norm()
        rows.append(
            {
                "step": compute.name.lower(),
                "alone_ms": alone_ms[compute],
                "together_ms": together_ms[compute],
                "speedup": alone_ms[compute] / together_ms[compute],
                "relative_difference": float(difference),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_shape_flags(parser, 30, 15, tokens=32760, repeats=3)
    parser.add_argument("--kind", choices=("cfg", "sp", "cfg+sp"), default="cfg")
    parser.add_argument("--active", type=float, default=0.3, help="|A|/N of the partial step")
    parser.add_argument("--context-kv", choices=("cached", "sampled"), default="cached")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--output", type=Path, help="also write the figures as JSON")
    args = parser.parse_args()
    if args.device == "cuda":
        args.device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(args.device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if args.device.startswith("cuda") else "gloo")
    rows = measure(args)
    if dist.get_rank() == 0:
        for row in rows:
            print(
                f"{row['step']:8} alone {row['alone_ms']:9.2f} ms, {dist.get_world_size()} processes "
                f"{row['together_ms']:9.2f} ms: {row['speedup']:.2f}x, difference {row['relative_difference']:.1e}"
            )
        if args.output:
            settings = {key: str(value) for key, value in vars(args).items()}
            facts = {"hardware": hardware(args.device), "versions": package_versions(), "ranks": dist.get_world_size()}
            write_json(args.output, {"settings": settings, **facts, "steps": rows})
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
