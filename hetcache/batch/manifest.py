"""A manifest as tasks: CSV, JSONL, or a folder of NAME.mp4 and NAME_mask.mp4."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path, PurePosixPath
from typing import Any

from hetcache.batch import storage
from hetcache.batch.task import Task
from hetcache.cli import GROUPS, RaisingParser, UsageError, parse
from hetcache.core.settings import flag_of, kind_of
from hetcache.files import UserError
from hetcache.modes import MODES
from hetcache.run.identity import Facts, file_facts, request_identity
from hetcache.run.options import Request

VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi")
FILES = ("video", "mask", "output")
ONE_RUNS_OWN = ("output", "probe", "plan", "resume", "debug", "parallel", "parallel_timeout")
RESULTS = "batch_results"
Row = Mapping[str, str]


def read_tasks(jobs: Path, out: str, defaults: Sequence[str]) -> list[Task]:
    """One task per job. What is wrong with a single job is the task's `error`. Raises UsageError for a manifest that
    cannot be read, for a column that no flag has, for defaults that no job could have, and for two jobs with one
    output."""
    parse(defaults, kind=RaisingParser)
    if jobs.is_dir():
        rows, base = list(_read_folder(jobs)), Path()
    else:
        rows, base = list(_read_file(jobs)), jobs.parent
    if not rows:
        raise UsageError(f"{jobs}: no jobs in it")
    flags = _flags()
    unknown = sorted({column for row in rows for column in row} - {*FILES, *flags})
    if unknown:
        raise UsageError(f"{jobs}: unknown column {', '.join(unknown)}: use video, mask, output or a flag's name")
    tasks = [_task(index, row, base, out, defaults, flags) for index, row in enumerate(rows, 1)]
    for name, count in Counter(task.name for task in tasks).items():
        if count > 1:
            lines = ", ".join(str(task.index) for task in tasks if task.name == name)
            raise UsageError(f"{jobs}: jobs {lines} all write {name}: give them a column output")
    return tasks


def _read_file(path: Path) -> Iterator[Row]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file; check the path") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not UTF-8 text; give a CSV or JSONL file, or a folder") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
    if path.suffix.lower() in (".jsonl", ".ndjson", ".json"):
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                yield _read_object(path, number, line)
        return
    reader = csv.DictReader(text.splitlines(), skipinitialspace=True, strict=True)
    try:
        for cells in reader:
            if None in cells or None in cells.values():
                raise UsageError(f"{path}, line {reader.line_num}: {len(reader.fieldnames or ())} columns expected")
            yield {_column(name): (text or "").strip() for name, text in cells.items()}
    except csv.Error as error:
        raise UsageError(f"{path}, line {reader.line_num}: {error}") from error


def _read_object(path: Path, number: int, line: str) -> Row:
    try:
        values = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{path}, line {number}: not JSON ({error})") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path}, line {number}: not a JSON object")
    return {_column(str(name)): _text(value) for name, value in values.items()}


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _read_folder(folder: Path) -> Iterator[Row]:
    """Every video with a mask; one without is a job that fails, so that it is not overlooked."""
    videos = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in VIDEOS}
    for name, path in videos.items():
        if name.endswith("_mask") and name.removesuffix("_mask") in videos:
            continue
        mask = videos.get(f"{name}_mask", folder / f"{name}_mask{path.suffix}")
        yield {"video": str(path), "mask": str(mask), "output": f"{name}.mp4"}


def _column(name: str) -> str:
    return name.strip().lstrip("-").replace("_", "-")


def _flags() -> dict[str, tuple[str, bool, bool]]:
    """By column, a flag's name as it is typed, whether it is on or off, whether it takes several words. A field whose
    flag has another name is known by both."""
    found: dict[str, tuple[str, bool, bool]] = {"mode": ("--mode", False, False)}
    for config in [*(each for _, configs in GROUPS for each in configs), *(mode.config for mode in MODES.values())]:
        for item in fields(config):
            if item.name in (*FILES, *ONE_RUNS_OWN):
                continue
            kind, _, several = kind_of(config, item)
            flag = flag_of(config, item.name)
            for name in (_column(flag), _column(item.name)):
                found[name] = flag, kind is bool, several
    return found


def _task(
    index: int, row: Row, base: Path, out: str, defaults: Sequence[str], flags: Mapping[str, tuple[str, bool, bool]]
) -> Task:
    video, mask = (_place(row.get(name, ""), base) for name in ("video", "mask"))
    words, identity, error = tuple(defaults), "", None
    name = f"job_{index:05d}.mp4"
    try:
        words += tuple(word for column, text in row.items() if text for word in _words(column, text, flags))
        request = _request(words, video, mask)
        name = _name(row.get("output", ""), video, request.mode.name)
        if video is None:
            raise UserError("no video is given")
        identity = _identity(request, video, mask)
    except ValueError as bad:
        error = str(bad)
    return Task(index, name, words, video, mask, storage.join(out, name), identity, error)


def _place(text: str, base: Path) -> str | None:
    """A cell's path, from the manifest's folder, or its URL."""
    if not text:
        return None
    return text if storage.is_url(text) else str(base / storage.local(text))


def _words(column: str, text: str, flags: Mapping[str, tuple[str, bool, bool]]) -> list[str]:
    if column in FILES:
        return []
    flag, is_switch, several = flags[column]
    if not is_switch:
        return [flag, *text.split()] if several else [f"{flag}={text}"]
    if text.lower() in ("true", "yes", "on", "1"):
        return [flag]
    if text.lower() in ("false", "no", "off", "0"):
        return [flag.replace("--", "--no-", 1)]
    raise UserError(f"{flag} {text}: true or false")


def _request(words: Sequence[str], video: str | None, mask: str | None) -> Request:
    files = [f"--{name}={place}" for name, place in (("video", video), ("mask", mask)) if place is not None]
    return parse([*words, *files], kind=RaisingParser)


def _name(text: str, video: str | None, mode: str) -> str:
    """The output below the folder. Raises UserError for one that would leave it."""
    if not text:
        return f"{PurePosixPath(video or 'video').stem}_{mode}.mp4"
    path = PurePosixPath(text.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or storage.is_url(text):
        raise UserError(f"output {text}: must lie below --out")
    path = path if path.suffix == ".mp4" else path.with_name(f"{path.name}.mp4")
    if str(path) == f"{RESULTS}.mp4":
        raise UserError(f"output {text}: its record would be the batch's own file; choose another name")
    return str(path)


def _identity(request: Request, video: str, mask: str | None) -> str:
    """ "" where a file cannot be looked at: the worker says why."""
    try:
        files = {name: _facts(place) for name, place in (("video", video), ("mask", mask))}
        return request_identity(request, files)
    except OSError:
        return ""


def _facts(place: str | None) -> Facts:
    if place is not None and storage.is_url(place):
        return storage.facts(place)
    return file_facts(None if place is None else Path(place))
