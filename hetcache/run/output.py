"""Where a run writes: named and checked before any work, and held by one run at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from hetcache.files import UserError, sole_holder
from hetcache.media.write import check_writable
from hetcache.report.page import PAGE_MARK
from hetcache.run.options import Request

DEFAULT_FOLDER = Path("outputs")

_PAGE_HEAD_BYTES = 1024


@dataclass(frozen=True)
class Outputs:
    """The files of a run. `raw` and `report` are None unless asked for."""

    video: Path
    record: Path
    raw: Path | None = None
    report: Path | None = None

    @classmethod
    def of(cls, request: Request) -> Outputs:
        asked = request.output
        video = asked.output or DEFAULT_FOLDER / f"{request.video.stem}_{request.mode.name}.mp4"
        if video.name in ("", ".."):
            raise UserError(f"output {video}: is a folder; give a file name, such as {video / 'out.mp4'}")
        return cls(
            video,
            video.with_suffix(".json"),
            video.with_name(f"{video.stem}_raw.mp4") if asked.save_raw else None,
            video.with_suffix(".html") if asked.report else None,
        )

    def as_json(self) -> dict[str, str | None]:
        """As in the record."""
        return {
            name: None if path is None else str(path)
            for name, path in (
                ("video", self.video),
                ("raw", self.raw),
                ("record", self.record),
                ("report", self.report),
            )
        }


def check_outputs(request: Request) -> Outputs:
    """Raises UserError for files that cannot be written or would be lost. `--plan` writes none and checks none."""
    outputs = Outputs.of(request)
    if request.output.plan:
        return outputs
    if request.output.output is None:
        try:
            DEFAULT_FOLDER.mkdir(exist_ok=True)
        except OSError as error:
            cause = "is a file" if DEFAULT_FOLDER.is_file() else error.strerror or error
            raise UserError(f"output folder {DEFAULT_FOLDER}: {cause}; move it away or give --output") from error
    inputs = [path for path in (request.video, request.mask) if path is not None]
    for path in (outputs.record, outputs.report):
        if path is not None and path.is_dir():
            raise UserError(f"output {path}: is a folder; choose another --output")
    if outputs.raw is not None:
        check_writable(outputs.raw, inputs)
    check_writable(outputs.video, inputs)
    _check_record(outputs.record)
    if outputs.report is not None:
        check_page(outputs.report)
    return outputs


def _check_record(path: Path) -> None:
    """Raises UserError for a file that is there and is not the record of an earlier run."""
    if not path.exists():
        return
    try:
        known = json.loads(path.read_bytes())
    except (OSError, ValueError):
        known = None
    if not (isinstance(known, dict) and {"schema", "mode", "outputs"} <= known.keys()):
        raise UserError(
            f"output {path}: is not a record of this tool and would be lost; move it away or choose another --output"
        )


def check_page(path: Path) -> None:
    """Raises UserError for a file that is there and is not a page of this tool."""
    if not path.exists():
        return
    try:
        with path.open("rb") as file:
            own = PAGE_MARK.encode() in file.read(_PAGE_HEAD_BYTES)
    except OSError:
        own = False
    if not own:
        raise UserError(
            f"output {path}: is not a page of this tool and would be lost; move it away or choose another --output"
        )


@contextmanager
def sole_run(outputs: Outputs) -> Iterator[None]:
    """Hold the outputs for this process: its video, record and windows. Raises UserError when another run does."""
    refusal = f"output {outputs.video}: another run is writing it; wait for it, or choose another --output"
    with sole_holder(lock_of(outputs.video), refusal):
        remove_leftovers(outputs)
        yield


def lock_of(video: Path) -> Path:
    """The file that a run locks while it writes `video`."""
    return video.resolve().with_name(f".{video.stem[:80]}.lock")


def remove_leftovers(outputs: Outputs) -> None:
    """Delete the temporary files of a run of these outputs that was killed; for who knows that none is running."""
    for path in (outputs.video, outputs.record, outputs.raw, outputs.report):
        if path is None:
            continue
        temporary = re.compile(rf"\.{re.escape(path.stem[:80])}\.[0-9a-f]{{8}}\.tmp{re.escape(path.suffix)}")
        for file in path.resolve().parent.iterdir():
            if temporary.fullmatch(file.name):
                with suppress(OSError):
                    file.unlink()
