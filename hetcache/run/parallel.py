"""A run of several processes: all make the same edit together, the first one writes and speaks."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

from hetcache.files import UserError
from hetcache.run.options import Request

EXAMPLE = "torchrun --nproc-per-node 2 inference.py --parallel cfg ..."


@contextmanager
def joined(request: Request) -> Iterator[Request]:
    """Join the processes that torchrun started, for `--parallel`. Yields the request as this one runs it: the first
    process as asked, another one silently into a folder that is thrown away. Raises UserError for a start that does not
    fit the flag."""
    kind = request.edit.parallel
    if kind == "off":
        if "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError(f"torchrun started several processes and --parallel is off: {EXAMPLE}")
        yield request
        return
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        raise UserError(f"--parallel {kind}: start it with {EXAMPLE}")
    if request.model.device.startswith("cuda:"):
        raise UserError(f"--device {request.model.device}: with --parallel every process takes its own; leave it out")
    _take_card()
    _join(request)
    import torch.distributed as dist

    from hetcache.core.ranks import ranks_of

    try:
        ranks_of(kind, request.edit.parallel_timeout)
        if dist.get_rank() == 0:
            _wait_for_copies(request)
            yield request
        else:
            with (
                tempfile.TemporaryDirectory(prefix="hetcache-rank-") as folder,
                open(os.devnull, "w") as nowhere,  # noqa: PTH123 - a device, not a file
                redirect_stdout(nowhere),
                redirect_stderr(nowhere),
            ):
                yield _aside(request, Path(folder))
    finally:
        dist.destroy_process_group()


def _take_card() -> None:
    """Leave this process the card of its place among the machine's, before torch looks for cards: then `cuda` is its
    own everywhere."""
    place, visible = int(os.environ.get("LOCAL_RANK", "0")), os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible == "":
        return
    names = visible.split(",") if visible else [str(index) for index in range(place + 1)]
    if place >= len(names):
        raise UserError(f"--parallel: process {place + 1} of this machine may use {len(names)} cards: start fewer")
    os.environ["CUDA_VISIBLE_DEVICES"] = names[place]


def _join(request: Request) -> None:
    from datetime import timedelta

    import torch
    import torch.distributed as dist

    on_cards = request.model.device != "cpu" and torch.cuda.is_available()
    if not on_cards and request.model.device == "cuda":
        raise UserError("--device cuda: no CUDA device here for this process, use --device cpu")
    span = timedelta(seconds=request.edit.parallel_timeout)
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_cards else "gloo", timeout=span)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"--parallel: the processes do not find each other ({str(error).splitlines()[0]})") from error


def _aside(request: Request, folder: Path) -> Request:
    """The request with its output in `folder`; finished windows of a run to resume are looked at from a copy."""
    from hetcache.run.output import Outputs
    from hetcache.run.window_store import WindowStore

    output = folder / "out.mp4"
    if request.output.resume:
        kept = WindowStore(Outputs.of(request).video).folder
        if kept.is_dir():
            shutil.copytree(kept, WindowStore(output).folder)
    _wait_for_copies(request)
    return replace(request, output=replace(request.output, output=output, report=False))


def _wait_for_copies(request: Request) -> None:
    """Nobody goes on before all have looked at the finished windows."""
    import torch.distributed as dist

    if request.output.resume:
        dist.barrier()
