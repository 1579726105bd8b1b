"""Task: one line of a batch, in words that travel to another process or machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Task:
    """`index` counts the manifest's lines from 1. `words` are the flags without the files; `video` and `mask` are paths
    or URLs, None where none was given. `output` is a path or URL of an mp4, `name` the same below the output folder.
    `identity` is what its record will say once it is finished, "" where that could not be told. `error` says why it
    cannot be run at all."""

    index: int
    name: str
    words: tuple[str, ...]
    video: str | None
    mask: str | None
    output: str
    identity: str = ""
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Task:
        return cls(**{**values, "words": tuple(values["words"])})
