"""The command line of the benchmark."""

from __future__ import annotations

import argparse
from pathlib import Path

from hetcache.models import MODELS

QUICK = {"frames": 9, "steps": 20, "repeats": 1}
CPU_DEFAULT = {"frames": 17, "steps": 50, "repeats": 2}
CUDA_DEFAULT = {"frames": 33, "steps": 50, "repeats": 3}

DESCRIPTION = """Compare every method on this machine; writes report.html, table.md and benchmark.json.

Interrupted at any moment and started again with the same flags, it goes on where it was.
"""
EPILOG = """examples:
  bash scripts/benchmark.sh --quick
  bash scripts/benchmark.sh --videos clips --masks masks --seeds 0 1 2
  bash scripts/benchmark.sh --modes hetcache:cache_thresh=0.1 hetcache_fast steps:hetcache_fast --steps 50
  bash scripts/benchmark.sh --model wan2.1-vace-1.3b --random-weights
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "benchmark.sh",
        description=DESCRIPTION,
        epilog=EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_what(parser.add_argument_group("what to compare"))
    _add_how(parser.add_argument_group("model and sampling"))
    out = parser.add_argument_group("output")
    out.add_argument("--output", type=Path, default=Path("outputs/benchmark"), help="folder (outputs/benchmark)")
    out.add_argument("--fresh", action="store_true", help="forget the finished cells in --output and start over")
    out.add_argument(
        "--publish",
        type=Path,
        metavar="DIR",
        help="also write report, table and figures under dated names here, such as docs/benchmarks",
    )
    out.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def fill_defaults(args: argparse.Namespace, cuda: bool) -> None:
    """Set frames, steps and repeats that were not given."""
    defaults = QUICK if args.quick else CUDA_DEFAULT if cuda else CPU_DEFAULT
    for name, value in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)


def _add_what(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--modes",
        nargs="+",
        default=["default"],
        metavar="METHOD",
        help="modes, with settings as hetcache:cache_thresh=0.1,context_ratio=0.2; steps:25 (fewer steps, no cache); "
        "steps:hetcache (as many as its FLOPs pay for); all; default: the paper's table and the added methods",
    )
    group.add_argument("--videos", type=Path, help="folder of videos (default: the example)")
    group.add_argument("--masks", type=Path, help="folder of masks, NAME.* or NAME_mask.*")
    group.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds of the noise (default 0)")
    group.add_argument("--repeats", type=int, help=f"runs of each cell (default {_by_device('repeats')})")
    group.add_argument(
        "--quick",
        action="store_true",
        help=f"{QUICK['frames']} frames, {QUICK['steps']} steps, once: a look in minutes",
    )


def _add_how(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--model", default="auto", help=f"auto, {', '.join(MODELS)}, or a folder with weights")
    group.add_argument(
        "--random-weights",
        action="store_true",
        help="the model's true dimensions with random weights: time and memory, no quality",
    )
    group.add_argument(
        "--decisions",
        help="with --random-weights: HetCache's decisions to replay, one letter a step, "
        "or a run's .json record (default: those under a steady change)",
    )
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default auto)")
    group.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", "float32", "bfloat16", "float16"),
        help="auto: bfloat16 on CUDA, float32 on a CPU",
    )
    group.add_argument("--huggingface", action="store_true", help="fetch weights from Hugging Face, not ModelScope")
    group.add_argument("--steps", type=int, help=f"denoising steps (default {_by_device('steps')})")
    group.add_argument("--frames", type=int, help=f"frames, 4k+1 (default {_by_device('frames')})")
    group.add_argument("--height", type=int, help="multiple of 16 (default: the model's area at the video's aspect)")
    group.add_argument("--width", type=int, help="multiple of 16")
    group.add_argument("--cfg-scale", type=float, help="guidance scale (default: the model's)")
    group.add_argument("--sigma-shift", type=float, default=5.0, help="shift of the noise schedule (default 5)")
    group.add_argument("--prompt", help="default: the model's")
    group.add_argument("--negative-prompt", help="default: the model's")


def _by_device(name: str) -> str:
    return f"{CPU_DEFAULT[name]}, on CUDA {CUDA_DEFAULT[name]}"
