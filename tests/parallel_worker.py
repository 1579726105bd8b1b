"""One rank of a test: `python parallel_worker.py CASES OUT`, with RANK, WORLD_SIZE and RENDEZVOUS set.

Runs every case on a small pipeline and writes what rank 0 got, with whether all ranks got the same.
"""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from parallel_cases import make_pipe, run_case

from hetcache.core.ranks import Team


def main(cases: list[dict[str, Any]], out: Path) -> None:
    torch.set_num_threads(1)
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    span = timedelta(seconds=60)
    dist.init_process_group("gloo", f"file://{os.environ['RENDEZVOUS']}", span, world_size=size, rank=rank)
    pipes: dict[int, Any] = {}
    for case in cases:
        heads = case.get("heads", 2)
        if heads not in pipes and "library" not in case:
            pipes[heads] = make_pipe(heads)
        try:
            team = Team(case["kind"], case.get("timeout", 60))
            result = run_case(pipes.get(heads), {**case, **case.get("ranks", {}).get(str(rank), {})}, team)
        except ValueError as error:
            result = {"error": str(error), "at": time.time()}
        if rank == 0:
            torch.save(result, out / f"{case['name']}.pt")
        told: list[Any] = [None] * size
        dist.all_gather_object(told, result.get("digest") or result["error"])
        if rank == 0:
            torch.save({**result, "told": told}, out / f"{case['name']}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
