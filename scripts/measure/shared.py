"""What the measuring scripts share: the machine's flags, the clock for a busy one, the figures as JSON."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from typing import Any


def add_device_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")


def add_shape_flags(parser: argparse.ArgumentParser, layers: int, vace_layers: int, **more: int) -> None:
    """Whole-number flags: the dimensions of Wan2.1-VACE-1.3B with that many blocks, and `more` with their defaults."""
    shape = {"dim": 1536, "heads": 12, "ffn": 8960, "layers": layers, "vace_layers": vace_layers}
    for name, default in {**shape, "text_len": 512, "text_dim": 4096, **more}.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)


def add_cpu_time_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="CPU time instead of wall time, on a busy machine; "
        "set OMP_NUM_THREADS=1, or waiting threads count as computing",
    )


def command_line(script: str) -> str:
    """The command that makes this report again, from the repository's root."""
    return shlex.join(["python", f"scripts/{script}.py", *sys.argv[1:]])


def cpu_ms() -> float:
    """Milliseconds that the threads of this process have computed."""
    return time.process_time() * 1e3


def write_results(args: argparse.Namespace, results: Any, **facts: Any) -> None:
    """Write `--output`, if it was given: the settings, the machine, `facts` and the results."""
    from hetcache.core.facts import hardware
    from hetcache.files import write_json

    if args.output:
        head = {"settings": {k: str(v) for k, v in vars(args).items()}, "hardware": hardware(args.device), **facts}
        write_json(args.output, {**head, "results": results})
