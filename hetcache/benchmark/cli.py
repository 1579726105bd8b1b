"""The command line of the benchmark: its own options, and the groups of `inference.py` from the same fields."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from hetcache.benchmark.options import QUICK, BenchOutput, BenchRequest, Compared, RandomWeights
from hetcache.cli import OneLineParser, add_settings, take
from hetcache.core.options import EditSettings, Memory, Sampling, Speed, VramOptions
from hetcache.models.options import ModelOptions
from hetcache.run.options import Size

DESCRIPTION = """Compare every method on this machine; writes report.html, table.md and benchmark.json.

Interrupted at any moment and started again with the same flags, it goes on where it was.
"""
EPILOG = """examples:
  bash scripts/benchmark.sh --quick
  bash scripts/benchmark.sh --videos clips --masks masks --seeds 0 1 2
  bash scripts/benchmark.sh --modes hetcache:cache_thresh=0.1 hetcache_fast steps:hetcache_fast --steps 50
  bash scripts/benchmark.sh --model wan2.1-vace-1.3b --random-weights
"""
GROUPS: tuple[tuple[str, tuple[type, ...]], ...] = (
    ("what to compare", (Compared,)),
    ("model", (ModelOptions, Size, RandomWeights)),
    ("sampling", (Sampling,)),
    ("speed", (Speed,)),
    ("memory", (Memory, VramOptions)),
    ("output", (BenchOutput,)),
)
# Seeds are several here, and a budget changes a mode's settings, which here are what is compared.
LEFT_OUT = ("seed", "cache_budget_gib")


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        "benchmark.sh",
        description=DESCRIPTION,
        epilog=EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for title, configs in GROUPS:
        group = parser.add_argument_group(title)
        for config in configs:
            add_settings(group, config, LEFT_OUT)
    return parser


def parse(argv: Sequence[str]) -> BenchRequest:
    """Raises ValueError for values that cannot be run; argparse itself exits with code 2 for what it can tell alone."""
    given = vars(build_parser().parse_args(argv))
    steps = {"num_steps": QUICK["steps"]} if given.get("quick") else {}
    return BenchRequest(
        take(Compared, given),
        take(ModelOptions, given),
        take(Size, given),
        take(RandomWeights, given),
        take(EditSettings, {**steps, **given}),
        take(VramOptions, given),
        take(BenchOutput, given),
        tuple(argv),
    )
