"""The flags of `inference.py batch`; every other one is a default for all its jobs."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hetcache.cli import OneLineParser, UsageError, add_settings, take
from hetcache.core.settings import check_settings, refused, setting

EPILOG = """JOBS is a CSV or JSONL file or a folder of NAME.mp4 and NAME_mask.mp4. Columns: video, mask, output (below
--out), and any flag of inference.py by its name. A flag given here holds for every job whose column says nothing.

examples:
  python inference.py batch jobs.csv --out edits --gpus 8 --mode hetcache --frames all
  python inference.py batch clips/ --out edits --workers 2 --model tiny --steps 8
  python inference.py batch jobs.jsonl --out s3://bucket/edits --ray auto
"""


@dataclass(frozen=True)
class BatchOptions:
    """`jobs` is the first word, not a flag."""

    out: str | None = setting(None, "folder or URL (s3://, gs://, ...) to write into", metavar="DIR", shown="")
    gpus: int | None = setting(None, "workers, a GPU each", shown="all of this machine, or of the Ray cluster")
    workers: int | None = setting(None, "workers on a CPU, instead of --gpus", shown="1 where there is no GPU")
    retries: int = setting(2, "how often a job is tried again after its worker was lost")
    ray: str | None = setting(
        None, "run on a Ray cluster: auto, or its address (needs hetcache[ray])", metavar="auto|ADDRESS", shown=""
    )

    def __post_init__(self) -> None:
        check_settings(self)
        for name in ("gpus", "workers"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise refused(self, name, "at least 1")
        if self.gpus is not None and self.workers is not None:
            raise UsageError("--gpus and --workers: choose one, workers on GPUs or on the CPU")
        if self.retries < 0:
            raise refused(self, "retries", "not negative")


@dataclass(frozen=True)
class BatchRequest:
    """`defaults` are the flags for all jobs, as typed."""

    jobs: Path
    out: str
    options: BatchOptions
    defaults: tuple[str, ...]


def parse_batch(argv: Sequence[str]) -> BatchRequest:
    """The words behind `batch`. Raises UsageError; argparse itself exits with code 2 for what it can tell alone."""
    parser = OneLineParser(
        "inference.py batch",
        usage="inference.py batch JOBS --out DIR [flags below] [flags of inference.py]",
        description="Edit many videos; finished ones are not run again.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_settings(parser, BatchOptions)
    jobs, words = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else (None, argv)
    given, defaults = parser.parse_known_args(words)
    options = take(BatchOptions, vars(given))
    if jobs is None:
        raise UsageError("batch: its first word is the file or folder of jobs: batch jobs.csv --out DIR")
    if options.out is None:
        raise UsageError("batch: say where to write with --out DIR")
    for word in defaults:
        if re.match(r"--(output|video|mask|probe|plan|resume|parallel)(=|$)", word):
            raise UsageError(f"batch: {word.split('=')[0]} is one run's; jobs have columns (see batch --help)")
    return BatchRequest(Path(jobs), options.out, options, tuple(defaults))
