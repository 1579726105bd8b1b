"""The cells of a benchmark, (method, setting, video, seed), and the folder in which finished runs are kept.

A run is one JSON file that appears whole or not at all, so that a benchmark killed at any moment goes on where it
was: what has its file is not run again. The folder's name carries a digest of everything that the result depends on,
so a changed setting, weight, video or line of code is another cell and never a stale one.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hetcache.benchmark.methods import Method
from hetcache.files import atomic_output, digest, to_json, write_json

Record = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One video with its mask. `digest` is of both files' bytes."""

    name: str
    video: Path
    mask: Path
    digest: str = ""


@dataclass(frozen=True)
class Cell:
    """`setup` is what all cells share: model, sizes, steps, guidance, weights, code (JSON values)."""

    method: Method
    case: Case
    seed: int
    setup: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """Relative to the benchmark's `cells` folder."""
        facts = {
            "mode": self.method.mode,
            "config": asdict(self.method.config()),
            "steps": self.method.num_steps,
            "matches": self.method.matches,
            **({} if self.method.exact is None else {"exact": self.method.exact}),
            "video": self.case.digest,
            "seed": self.seed,
            "setup": dict(self.setup),
        }
        code = digest(to_json(facts, indent=None))[:10]
        name = re.sub(r"[^A-Za-z0-9_.=]+", "-", self.method.name)[:60]
        return Path(self.case.name) / f"{name}-seed{self.seed}-{code}"


class Store:
    """Finished runs under `OUTPUT/cells`. Reading tolerates nothing but whole files."""

    def __init__(self, output: Path) -> None:
        self.root = output / "cells"

    def clear(self) -> None:
        """Forget every finished run of this output folder."""
        shutil.rmtree(self.root, ignore_errors=True)

    def run(self, cell: Cell, repeat: int) -> Record | None:
        return _read(self.root / cell.folder / f"run-{repeat}.json")

    def runs(self, cell: Cell, num_repeats: int) -> list[Record]:
        found = [self.run(cell, repeat) for repeat in range(num_repeats)]
        return [record for record in found if record is not None]

    def failure(self, cell: Cell) -> Record | None:
        return _read(self.root / cell.folder / "failed.json")

    def keep_run(self, cell: Cell, repeat: int, record: Record) -> None:
        (self.root / cell.folder / "failed.json").unlink(missing_ok=True)
        write_json(self._folder(cell) / f"run-{repeat}.json", record)

    def keep_failure(self, cell: Cell, record: Record) -> None:
        write_json(self._folder(cell) / "failed.json", record)

    def keep_reference(self, case: Case, process: str, record: Record) -> None:
        """The baseline's times in a process that took up an interrupted benchmark (see `runner`)."""
        (self.root / case.name).mkdir(parents=True, exist_ok=True)
        write_json(self.root / case.name / f"reference-{process}.json", record)

    def references(self, case: Case) -> Iterator[Record]:
        for path in sorted((self.root / case.name).glob("reference-*.json")):
            record = _read(path)
            if record is not None:
                yield record

    def keep_frames(self, cell: Cell, frames_THWC: NDArray[np.uint8]) -> None:
        """Lossless: the output that later cells, also in a later process, are compared with."""
        with atomic_output(self._folder(cell) / "frames.npy") as temporary, temporary.open("wb") as file:
            np.save(file, frames_THWC)

    def frames(self, cell: Cell) -> NDArray[np.uint8] | None:
        path = self.root / cell.folder / "frames.npy"
        return np.load(path) if path.is_file() else None

    def video(self, cell: Cell) -> Path:
        """Where the cell's raw output is, for people and for the report."""
        return self._folder(cell) / "output.mp4"

    def _folder(self, cell: Cell) -> Path:
        folder = self.root / cell.folder
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def digest_files(paths: list[Path]) -> str:
    """Of names and bytes of files, and of everything in folders."""
    named: list[str | Path] = []
    for path in paths:
        named += [path] if path.is_dir() else [path.name, path]
    return digest(*named)[:16]


def _read(path: Path) -> Record | None:
    return json.loads(path.read_text()) if path.is_file() else None
