"""What --cfg-batch, --compile and --fast-rope change in the time of a guided step, at any size, with random weights.

    python scripts/bench_options.py --dim 192 --heads 4 --ffn 768 --layers 8 --vace-layers 4 --tokens 3120 \\
        --text-len 16 --text-dim 64
    python scripts/bench_options.py --dim 1536 --heads 12 --ffn 8960 --layers 2 --vace-layers 1 --tokens 780

    python scripts/bench_options.py --example hetcache --frames 17 --steps 50

Prints the median time of a full and of a partial step of both branches under each option, its ratio to the step
without options, and the largest relative difference of the velocity. All are measured in turn in one process, after
one step that is not counted; what that first step took more is mostly compilation. With `--example MODE` the embedded
model edits the example instead, with and without --cfg-batch: time of the denoising loop.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch

import hetcache.core.session as session_module
from diffsynth_patches.compiled import compiled_regions
from hetcache.core.guidance import GuidancePair
from hetcache.core.mode import RunContext
from hetcache.core.options import EditSettings
from hetcache.core.vocabulary import Compute, Grid
from hetcache.files import DATA
from hetcache.media.clip import read_clip
from hetcache.media.read import probe
from hetcache.models import MODELS
from hetcache.models.backend import LoadOptions, backend
from hetcache.modes import MODES
from scripts.measure.bench_step import StepBench, build_model, grid_of, inputs_of
from scripts.measure.shared import add_cpu_time_flag, add_device_flags, add_shape_flags, write_results

OPTIONS = ("none", "cfg-batch", "compile", "fast-rope", "cfg-batch compile fast-rope")


def compare_options(
    model: SimpleNamespace,
    kwargs: dict[str, Any],
    grid: Grid,
    args: argparse.Namespace,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, dict[str, float]]:
    """By option: `full_ms` and `partial_ms` of both branches, their ratios to no option, the first step's ms."""
    active = round(args.active * grid.num_tokens)
    with ExitStack() as stack:
        benches: dict[str, StepBench] = {}
        for name in OPTIONS:
            chosen: dict[str, Any] = {"fast_rope": "fast-rope" in name, "clock": clock}
            if "cfg-batch" in name:
                chosen["pair"] = GuidancePair()
            if "compile" in name:
                chosen["regions"] = stack.enter_context(compiled_regions(args.device))
            benches[name] = StepBench(
                model, kwargs, grid, active, args.partial_vace, args.context_kv, guided=True, **chosen
            )
        return _measure(benches, args.repeats)


def _measure(benches: dict[str, StepBench], repeats: int) -> dict[str, dict[str, float]]:
    kinds = (Compute.FULL, Compute.PARTIAL)
    times: dict[tuple[str, Compute], list[float]] = {(name, kind): [] for name in benches for kind in kinds}
    velocities: dict[str, torch.Tensor] = {}
    for repeat in range(repeats + 1):
        for name in sorted(benches, reverse=repeat % 2 == 1):
            for kind in kinds:
                ms, velocities[name] = benches[name].step(kind)
                times[name, kind].append(ms)
    medians = {key: statistics.median(values[1:]) for key, values in times.items()}
    expected = velocities["none"].float()
    return {
        name: {
            "full_ms": medians[name, Compute.FULL],
            "partial_ms": medians[name, Compute.PARTIAL],
            "full_ratio": medians[name, Compute.FULL] / medians["none", Compute.FULL],
            "partial_ratio": medians[name, Compute.PARTIAL] / medians["none", Compute.PARTIAL],
            "first_ms": times[name, Compute.FULL][0] + times[name, Compute.PARTIAL][0],
            "relative_difference": ((velocities[name].float() - expected).norm() / expected.norm()).item(),
        }
        for name in benches
    }


def compare_example(args: argparse.Namespace, clock: Callable[[], float]) -> dict[str, float]:
    """Median milliseconds of the example's denoising loop under the mode, without and with --cfg-batch, and their
    ratio."""
    info = MODELS["tiny"]
    pipeline = backend(info.backend).load("tiny", LoadOptions(args.device, getattr(torch, args.dtype)))
    source = probe(DATA / "real.mp4")
    clip = read_clip(DATA / "real.mp4", DATA / "masks.mp4", args.frames, info.default_size(source.height, source.width))
    mode = MODES[args.example]
    config = mode.config(**mode.defaults)
    mask_THW = torch.from_numpy(clip.mask_THW).to(args.device)
    context = RunContext.of(mask_THW, info.model_id, mode.margin_width(config))
    times: dict[bool, list[float]] = {False: [], True: []}
    with patch.object(session_module, "now_ms", lambda: clock() * 1e3):
        for repeat in range(args.repeats):
            for cfg_batch in sorted(times, reverse=repeat % 2 == 1):
                settings = EditSettings(
                    info.prompt, info.negative_prompt, args.steps, info.cfg_scale, 5.0, 0, cfg_batch=cfg_batch
                )
                result = pipeline.edit(clip, mode.build(config, context), settings)
                times[cfg_batch].append(result.session.stage_ms["denoise"])
    two_calls, one_batch = (statistics.median(values) for values in times.values())
    return {"two_calls_ms": two_calls, "one_batch_ms": one_batch, "ratio": one_batch / two_calls}


def table(results: dict[str, dict[str, float]]) -> str:
    lines = [
        "| options | full ms (ratio) | partial ms (ratio) | first full and partial ms | relative difference |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {row['full_ms']:.1f} ({row['full_ratio']:.3f}) | {row['partial_ms']:.1f} "
        f"({row['partial_ratio']:.3f}) | {row['first_ms']:.0f} | {row['relative_difference']:.1e} |"
        for name, row in results.items()
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_shape_flags(parser, 2, 1, tokens=1560, repeats=5)
    parser.add_argument("--example", choices=[name for name, mode in MODES.items() if mode.plan is not None])
    parser.add_argument("--frames", type=int, default=17, help="with --example")
    parser.add_argument("--steps", type=int, default=50, help="with --example")
    parser.add_argument("--active", type=float, default=0.2, help="|A|/N of the partial step")
    parser.add_argument("--partial-vace", choices=("rows", "hints"), default="rows")
    parser.add_argument("--context-kv", choices=("cached", "sampled"), default="sampled")
    add_device_flags(parser)
    add_cpu_time_flag(parser)
    parser.add_argument("--output", type=Path, help="also write the figures as JSON")
    args = parser.parse_args()
    clock = time.process_time if args.cpu_time else time.perf_counter
    results: dict[str, Any]
    if args.example:
        results = compare_example(args, clock)
        print(
            f"{args.example}: two calls {results['two_calls_ms']:.0f} ms, one batch "
            f"{results['one_batch_ms']:.0f} ms, ratio {results['ratio']:.3f}"
        )
    else:
        model, grid = build_model(args), grid_of(args.tokens)
        results = compare_options(model, inputs_of(model, grid, args), grid, args, clock)
        print(table(results))
    write_results(args, results)


if __name__ == "__main__":
    main()
