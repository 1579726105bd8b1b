"""Finished windows on disk, beside the output, so that an interrupted long run goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hetcache.files import atomic_output, to_json
from hetcache.media.ffmpeg import VideoError

Frames = NDArray[np.uint8]
RUN = "run.json"


class ForeignWindowsError(VideoError):
    """The windows that are kept are of another run, or of nobody knows which."""


class WindowStore:
    """A folder `OUTPUT_windows` with one `.npz` (finished frames [T, H, W, 3] at the model's size) and one `.json`
    (facts for the record) per window. A window is finished when both are there; each appears whole or not at all."""

    def __init__(self, output: Path) -> None:
        self.folder = output.with_name(f"{output.stem}_windows")

    def open(self, run: Mapping[str, Any], resume: bool) -> None:
        """Take the folder for the run that `run` describes (JSON values): everything that its bytes depend on, with
        `windows` as a list. Of those only the finished ones must agree, so a run may end earlier or later.

        Raises VideoError when windows are there and `resume` is not asked, or when they belong to another run.
        """
        path = self.folder / RUN
        wanted = json.loads(to_json(run))
        done = self.finished()
        if done:
            if not resume:
                raise VideoError(
                    f"{self.folder} keeps the windows of an interrupted run: add --resume to go on with it, or delete "
                    "the folder to start over"
                )
            known = _read_run(path)
            changed = sorted(key for key in {*known, *wanted} if _part(known, key, done) != _part(wanted, key, done))
            if changed:
                raise ForeignWindowsError(
                    f"{self.folder} keeps the windows of another run ({', '.join(changed)} differ): give the same "
                    "flags and files, or delete the folder to start over"
                )
        self._remove_from(done)
        try:
            self.folder.mkdir(exist_ok=True)
            with atomic_output(path) as temporary:
                temporary.write_text(to_json(wanted), encoding="utf-8")
        except OSError as error:
            cause = f"cannot keep finished windows there ({error.strerror or error})"
            raise VideoError(f"{self.folder}: {cause}; choose another --output") from error

    def finished(self) -> int:
        """How many windows are finished, from the first without a gap."""
        index = 0
        while self._facts(index).is_file() and self._frames(index).is_file():
            index += 1
        return index

    def save(self, index: int, frames_THWC: Frames, facts: Mapping[str, Any]) -> None:
        """Raises VideoError when the disk is full or not writable; the windows before stay."""
        try:
            with atomic_output(self._frames(index)) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, frames_THWC=frames_THWC)
            with atomic_output(self._facts(index)) as temporary:
                temporary.write_text(to_json(facts), encoding="utf-8")
        except OSError as error:
            raise VideoError(
                f"{self._frames(index)}: not written ({error.strerror or error}); free disk space "
                "and go on with --resume"
            ) from error

    def frames(self, index: int) -> Frames:
        """[T, H, W, 3] uint8. Raises VideoError for a damaged file."""
        path = self._frames(index)
        try:
            with np.load(path, allow_pickle=False) as archive:
                frames: Frames = archive["frames_THWC"]
            if frames.dtype != np.uint8 or frames.ndim != 4:
                raise ValueError(f"{frames.dtype} {frames.shape}")
        except Exception as error:
            # Damaged archives make numpy, zipfile and zlib raise almost anything.
            raise VideoError(f"{path}: damaged; delete it and go on with --resume") from error
        return frames

    def facts(self, index: int) -> dict[str, Any]:
        """What was saved with window `index`. Raises VideoError for a damaged file."""
        facts = _read_json(self._facts(index))
        if "skipped" not in facts and not {"settings", "fell_back", "timing_s", "flops"} <= facts.keys():
            raise VideoError(f"{self._facts(index)}: damaged; delete it and go on with --resume")
        return facts

    def settings(self) -> dict[str, Any] | None:
        """The settings of the first finished window that was computed, None where none was. Raises VideoError."""
        found = (self.facts(index) for index in range(self.finished()))
        settings: dict[str, Any] | None = next((facts["settings"] for facts in found if "skipped" not in facts), None)
        return settings

    def remove(self) -> None:
        """Delete the windows, what a killed process left of one, and the folder unless something else is in it."""
        with suppress(OSError):
            self._remove_from(0)
            (self.folder / RUN).unlink(missing_ok=True)
            self.folder.rmdir()

    def _remove_from(self, first: int) -> None:
        """Delete the windows from `first` on, the last one first: what a kill leaves is still a run's beginning."""
        kept = {path.name for index in range(first) for path in (self._frames(index), self._facts(index))}
        windows = sorted(self.folder.glob("window_*"), reverse=True)
        for path in [*windows, *self.folder.glob(".window_*.tmp.*"), *self.folder.glob(".run.*.tmp.json")]:
            if path.name not in kept:
                path.unlink(missing_ok=True)

    def _frames(self, index: int) -> Path:
        return self.folder / f"window_{index:05d}.npz"

    def _facts(self, index: int) -> Path:
        return self.folder / f"window_{index:05d}.json"


def _part(run: Mapping[str, Any], key: str, done: int) -> Any:
    value = run.get(key)
    return value[:done] if key == "windows" and isinstance(value, list) else value


def _read_run(path: Path) -> dict[str, Any]:
    try:
        return _read_json(path)
    except VideoError:
        raise ForeignWindowsError(
            f"{path}: missing or damaged, so nothing says whose windows these are; delete the folder to start over"
        ) from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise VideoError(f"{path}: damaged; delete it and go on with --resume") from error
    if not isinstance(value, dict):
        raise VideoError(f"{path}: damaged; delete it and go on with --resume")
    return value
