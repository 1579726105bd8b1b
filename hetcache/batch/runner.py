"""Runs one task in this process: copies its files in where they are URLs, edits, copies the result out."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from hetcache.batch import storage
from hetcache.batch.task import Task
from hetcache.core.trace import StepRecord
from hetcache.core.vocabulary import Step
from hetcache.files import UserError, write_json
from hetcache.run.attempt import Outcome, attempt
from hetcache.run.output import Outputs, sole_run
from hetcache.run.studio import Studio

Progress = Callable[[int, int], None]
"""Told (steps done, steps of this edit) after each."""


class Runner:
    """Keeps the model from task to task. `prompts` are those of all tasks."""

    def __init__(self, prompts: Sequence[str] = (), progress: Progress | None = None) -> None:
        def watch(step: Step, records: list[StepRecord]) -> None:
            if progress is not None:
                progress(step.index + 1, step.count)

        self._studio = Studio(prompts, watch)

    def __call__(self, task: Task) -> Outcome:
        """Never raises but KeyboardInterrupt."""
        places = (task.video, task.mask, task.output)
        is_remote = any(place is not None and storage.is_url(place) for place in places)
        try:
            with tempfile.TemporaryDirectory(prefix="hetcache-") if is_remote else nullcontext() as folder:
                return self._run(task, None if folder is None else Path(folder))
        except (ValueError, OSError) as error:
            return Outcome(str(error))

    def _run(self, task: Task, folder: Path | None) -> Outcome:
        near = task if folder is None else _brought(task, folder)
        output = Path(near.output)
        output.parent.mkdir(parents=True, exist_ok=True)
        words = [*near.words, f"--output={output}"]
        words += [f"--{name}={place}" for name, place in (("video", near.video), ("mask", near.mask)) if place]
        outcome = attempt(words, self._studio)
        if outcome.error is None and near != task:
            _settle(task, near)
        return outcome


def _brought(task: Task, folder: Path) -> Task:
    """The task with its remote files in `folder`, each in a folder of its own, and its output there too."""

    def bring(place: str | None, name: str) -> str | None:
        if place is None or not storage.is_url(place):
            return place
        (folder / name).mkdir()
        return str(storage.fetch(place, folder / name))

    output = task.output
    if storage.is_url(output):
        output = str(folder / "out" / Path(task.name).name)
    return replace(task, video=bring(task.video, "video"), mask=bring(task.mask, "mask"), output=output)


def _settle(task: Task, near: Task) -> None:
    """Make the record speak of the places that were asked for, and copy everything out: the record last, because it
    says that the job is finished."""
    record_file = Path(near.output).with_suffix(".json")
    record: dict[str, Any] = json.loads(record_file.read_bytes())
    places = {near.video: task.video, near.mask: task.mask}
    record["identity"] = task.identity
    if "config" in record:
        record["config"] |= {name: places.get(record["config"][name]) for name in ("video", "mask")}
    if near.output == task.output:
        write_json(record_file, record)
        return
    base = task.output.removesuffix(Path(task.output).name)
    files = {name: Path(path) for name, path in record["outputs"].items() if path}
    record["outputs"] |= {name: base + path.name for name, path in files.items()}
    write_json(record_file, record)
    for path in sorted({*files.values(), record_file}, key=lambda path: path == record_file):
        storage.deliver(path, base + path.name)


def is_finished(task: Task) -> bool:
    """Whether the video is there with the record of this very job."""
    if not task.identity or not storage.exists(task.output):
        return False
    return storage.read_record(task.output.removesuffix(".mp4") + ".json").get("identity") == task.identity


def check_out(out: str) -> None:
    """Raises UserError for an output folder that cannot be one."""
    if storage.is_url(out):
        return
    try:
        Path(storage.local(out)).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror or error}; choose another folder") from error


def tidy(task: Task) -> None:
    """Remove what a worker that is gone has left half-written beside the task's output."""
    if storage.is_url(task.output):
        return
    video = Path(task.output)
    names = [video.with_name(f"{video.stem}_raw.mp4"), video.with_suffix(".html")]
    # Unless another run has it by now.
    with suppress(UserError, OSError), sole_run(Outputs(video, video.with_suffix(".json"), *names)):
        pass
