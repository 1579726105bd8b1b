"""What a GPU does with HetCache at true dimensions, with random weights: no hub, no download.

    python scripts/gpu_check.py --output docs/benchmarks/gpu.json

Measures the matmul ceiling of the machine, parity of the caching forward with DiffSynth's in this precision, and for
each clip length the cost of a full, a partial and a reused step, their memory, and the TFLOP/s that a full step
reaches against the ceiling; at the first length also what --cfg-batch, --compile and --fast-rope change. Writes one
JSON file and a Markdown table beside it. On a CPU, choose small sizes:

    python scripts/gpu_check.py --device cpu --dtype float32 --dim 96 --heads 2 --ffn 192 --layers 2 --vace-layers 1 \\
        --frames 5 --height 64 --width 96 --output /tmp/check.json
"""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from diffsynth_patches.apply import CachedModel
from hetcache.core.facts import hardware, package_versions
from hetcache.core.flops import full_step_flops
from hetcache.core.session import CacheSession
from hetcache.core.tokens import PATCH_PX, latent_frames
from hetcache.core.vocabulary import Compute, Grid, Schedule
from hetcache.files import write_json
from hetcache.modes import MODES
from scripts.measure.bench_options import compare_options, table
from scripts.measure.bench_step import StepBench, build_model, inputs_of, timed
from scripts.measure.shared import add_shape_flags, command_line


def matmul_ceiling_tflops(device: str, dtype: torch.dtype, size: int, repeats: int = 20) -> float:
    """Best TFLOP/s of a square matrix product of this size."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(repeats):
        best = min(best, timed(device, lambda: a @ b)[0])
    return 2 * size**3 / best / 1e9


def parity(model: SimpleNamespace, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Is a baseline step through the caching forward equal to DiffSynth's own, bit for bit?"""
    session = CacheSession(MODES["baseline"].build(MODES["baseline"].config(), None))
    session.begin(Schedule((500.0,)))
    session.advance()
    with torch.no_grad():
        ours = CachedModel(model, session)(**kwargs)
        upstream = model.model_fn(**kwargs)
    return {"bit_equal": torch.equal(ours, upstream), "max_abs_difference": (ours - upstream).abs().max().item()}


def step_costs(model: SimpleNamespace, kwargs: dict[str, Any], grid: Grid, args: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds, FLOPs and memory of the three kinds of step at this grid and active fraction."""
    active = round(args.active * grid.num_tokens)
    bench = StepBench(model, kwargs, grid, active, args.partial_vace, args.context_kv)
    if args.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    times: dict[Compute, list[float]] = {compute: [] for compute in Compute}
    for _ in range(args.repeats + 1):
        for compute in Compute:
            times[compute].append(bench.step(compute)[0])
    best = {compute: sorted(values[1:])[len(values) // 2 - 1] for compute, values in times.items()}
    assert bench.forward.shape is not None
    flops = full_step_flops(bench.forward.shape, grid.num_tokens)
    full_ms = best[Compute.FULL]
    peak_gib = torch.cuda.max_memory_allocated() / 2**30 if args.device.startswith("cuda") else None
    return {
        "tokens": grid.num_tokens,
        "active": active,
        "full_ms": full_ms,
        "partial_ms": best[Compute.PARTIAL],
        "reuse_ms": best[Compute.REUSE],
        "partial_over_full": best[Compute.PARTIAL] / full_ms,
        "reuse_over_full": best[Compute.REUSE] / full_ms,
        "full_tflop": flops / 1e12,
        "full_tflops": flops / full_ms / 1e9,
        "cache_gib_per_branch": bench.session.cache_bytes / 2**30,
        "peak_gib": peak_gib,
    }


def markdown(report: dict[str, Any]) -> str:
    facts = report["hardware"]
    lines = [
        f"# GPU check, {report['date']}",
        "",
        f"{facts.get('gpu', facts['cpu'])}, {report['settings']['dtype']}, torch {report['versions']['torch']}, "
        f"diffsynth {report['versions']['diffsynth']}. Random weights: time and memory only, no quality.",
        "",
        f"Matmul ceiling {report['ceiling_tflops']:.1f} TFLOP/s. Baseline step equal to DiffSynth's bit for bit: "
        f"{report['parity']['bit_equal']}.",
        "",
        "| frames | tokens | full ms | partial ms (ratio, at A/N) | reuse ms (ratio) | TFLOP/s (of ceiling) | "
        "cache GiB a branch | peak GiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for frames, row in report["steps"].items():
        peak = "-" if row["peak_gib"] is None else f"{row['peak_gib']:.1f}"
        lines.append(
            f"| {frames} | {row['tokens']} | {row['full_ms']:.1f} | {row['partial_ms']:.1f} "
            f"({row['partial_over_full']:.3f} at {row['active'] / row['tokens']:.3f}) | {row['reuse_ms']:.2f} "
            f"({row['reuse_over_full']:.4f}) | {row['full_tflops']:.1f} "
            f"({row['full_tflops'] / report['ceiling_tflops']:.0%}) | {row['cache_gib_per_branch']:.3f} | {peak} |"
        )
    for frames, results in report["options"].items():
        lines += ["", f"Options at {frames} frames, both branches of guidance:", "", table(results)]
    return "\n".join([*lines, "", f"Command: `{report['command']}`", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_shape_flags(parser, 30, 15, height=480, width=832, repeats=3, matmul=8192)
    parser.add_argument("--frames", type=int, nargs="+", default=[33, 81])
    parser.add_argument("--active", type=float, default=0.3, help="|A|/N of the partial step")
    parser.add_argument("--partial-vace", choices=("rows", "hints"), default="rows")
    parser.add_argument("--context-kv", choices=("cached", "sampled"), default="cached")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("no CUDA device here; see the CPU example in --help")
    model, dtype = build_model(args), getattr(torch, args.dtype)
    steps: dict[int, dict[str, Any]] = {}
    equal: dict[str, Any] = {}
    options: dict[int, dict[str, Any]] = {}
    for frames in args.frames:
        grid = Grid(latent_frames(frames), args.height // PATCH_PX, args.width // PATCH_PX)
        kwargs = inputs_of(model, grid, args)
        equal = equal or parity(model, kwargs)
        steps[frames] = step_costs(model, kwargs, grid, args)
        print(
            f"{frames} frames: full {steps[frames]['full_ms']:.1f} ms, partial {steps[frames]['partial_ms']:.1f} ms, "
            f"reuse {steps[frames]['reuse_ms']:.2f} ms"
        )
        options = options or {frames: compare_options(model, kwargs, grid, args)}
    report = {
        "schema": 1,
        "date": datetime.date.today().isoformat(),
        "command": command_line("gpu_check"),
        "hardware": hardware(args.device),
        "versions": package_versions(),
        "settings": {key: str(value) for key, value in vars(args).items()},
        "ceiling_tflops": matmul_ceiling_tflops(args.device, dtype, args.matmul),
        "parity": equal,
        "steps": steps,
        "options": options,
    }
    write_json(args.output, report)
    args.output.with_suffix(".md").write_text(markdown(report))
    print(markdown(report))


if __name__ == "__main__":
    main()
