"""One job of the queue: a folder with what is asked, what became of it, and all that it wrote.

job.json        what is asked: the words of `inference.py` without its files, the inputs, whose job it is
state.json      waiting, running, done, failed or cancelled, and why
progress.json   where a running job is
log.txt         what the run said
input/          the video and the mask, copied or linked when the job was added
edit.mp4 ...    what the run wrote: video, record, page, and finished windows while it runs
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from hetcache.cli import RaisingParser, parse
from hetcache.files import UserError, to_json, write_text
from hetcache.run.options import Request

State = Literal["waiting", "running", "done", "failed", "cancelled"]
STATES: tuple[State, ...] = get_args(State)
ENDED: tuple[State, ...] = ("done", "failed", "cancelled")


@dataclass(frozen=True)
class Standing:
    """Where a job stands. Times are seconds since 1970; `attempts` counts the workers that began it."""

    state: State = "waiting"
    message: str = ""
    started: float | None = None
    ended: float | None = None
    attempts: int = 0


@dataclass(frozen=True)
class Progress:
    """A running job: which of its edits (windows, or runs of --compare), the decisions of its steps so far, one letter
    each, and how long each step took; before the first step `stage` says what is done."""

    edit: int = 1
    num_edits: int = 1
    num_steps: int = 0
    decisions: str = ""
    step_s: tuple[float, ...] = ()
    stage: str = "loading the model"

    @property
    def left_s(self) -> float | None:
        """The time left by the mean step so far; None before the first."""
        if not self.step_s:
            return None
        mean_s = sum(self.step_s) / len(self.step_s)
        steps = self.num_steps - len(self.decisions) + self.num_steps * max(self.num_edits - self.edit, 0)
        return mean_s * steps

    def describe(self) -> str:
        """Such as `step 7 of 50 (FFRPRPR), about 12 s left`."""
        if not self.decisions:
            return self.stage
        which = f"part {self.edit} of {self.num_edits}, " if self.num_edits > 1 else ""
        text = f"{which}step {len(self.decisions)} of {self.num_steps} ({self.decisions})"
        return text if self.left_s is None else f"{text}, about {span(self.left_s)} left"


@dataclass(frozen=True)
class QueuedJob:
    """A job's folder, read. `words` are those of `inference.py` without its files; `inputs` name the video and the mask
    relative to the folder, or are empty for the example; `output` is a file elsewhere that was asked for."""

    folder: Path
    words: tuple[str, ...]
    title: str
    added: float
    owner: str = ""
    inputs: dict[str, str] = field(default_factory=dict)
    output: str | None = None

    @property
    def number(self) -> int:
        return int(self.folder.name)

    @property
    def video(self) -> Path:
        """What the run writes; its record and its page are beside it."""
        return Path(self.output) if self.output is not None else self.folder / "edit.mp4"

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    @property
    def standing(self) -> Standing:
        values = _read(self.folder / "state.json")
        known = {name: values[name] for name in Standing.__dataclass_fields__ if name in values}
        if known.get("state") not in STATES:
            return Standing("failed", f"{self.folder / 'state.json'}: missing or damaged; add the job again")
        return Standing(**known)

    @property
    def progress(self) -> Progress:
        values = _read(self.folder / "progress.json")
        known = {name: values[name] for name in Progress.__dataclass_fields__ if name in values}
        return Progress(**{**known, "step_s": tuple(known.get("step_s", ()))})

    @property
    def is_cancelled(self) -> bool:
        """Whether it was asked to end while it ran."""
        return (self.folder / "cancel").exists()

    def ask_to_cancel(self) -> None:
        (self.folder / "cancel").touch()

    def forget_cancel(self) -> None:
        (self.folder / "cancel").unlink(missing_ok=True)

    def words_with_files(self) -> list[str]:
        """The whole command line of the run."""
        files = [word for name, path in self.inputs.items() for word in (f"--{name}", str(self.folder / path))]
        return [*files, *self.words, "--output", str(self.video)]

    def request(self) -> Request:
        """Raises ValueError for words that this version does not take."""
        return parse(self.words_with_files(), kind=RaisingParser)

    def write(self) -> None:
        values = {name: value for name, value in asdict(self).items() if name != "folder"}
        write_text(self.folder / "job.json", to_json(values))

    def put(self, standing: Standing) -> None:
        """Write the state, whole or not at all. Only the queue does, while it holds its lock."""
        write_text(self.folder / "state.json", to_json(asdict(standing)))

    def put_progress(self, progress: Progress) -> None:
        write_text(self.folder / "progress.json", to_json(asdict(progress), indent=None))

    @classmethod
    def read(cls, folder: Path) -> QueuedJob:
        """Raises UserError for a folder that holds no job."""
        values = _read(folder / "job.json")
        try:
            job = cls(folder, **values)
            return replace(job, words=tuple(job.words), inputs=dict(job.inputs))
        except (TypeError, ValueError) as error:
            raise UserError(f"{folder / 'job.json'}: missing or damaged; remove the folder") from error


def span(seconds: float) -> str:
    """A time in a person's words."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _read(path: Path) -> dict[str, Any]:
    """The JSON object; empty where there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
