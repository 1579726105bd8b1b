"""What the run records beside a video say about it: which output it is (raw or composited), of which mode."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hetcache.media.windows import Window

_MAX_BYTES = 16 << 20
UNKNOWN = "unknown"
KINDS = {"video": "composited", "raw": "raw"}


@dataclass(frozen=True)
class Origin:
    """Where a video comes from: `output` is "composited", "raw" or "unknown" (in no run record)."""

    output: str = UNKNOWN
    mode: str | None = None
    record: str | None = None


def origin_of(video: Path) -> Origin:
    """Look `video` up in the run records (JSON files with "outputs") of its folder, `NAME.json` first."""
    return _found(video)[0]


def windows_of(video: Path) -> list[Window]:
    """The windows that `video` was edited in, by its run record; none where no record says so."""
    listed = _found(video)[1].get("windows")
    try:
        return [Window(*(int(each["window"][key]) for key in ("start", "count", "known"))) for each in listed or ()]
    except (KeyError, TypeError, ValueError):
        return []


def _found(video: Path) -> tuple[Origin, dict[str, Any]]:
    """(what its record says, the record; an empty one where there is none)."""
    candidates = sorted(video.parent.glob("*.json"), key=lambda path: (not video.stem.startswith(path.stem), path))
    for path in candidates:
        record = _read(path)
        for key, kind in KINDS.items():
            listed = record.get("outputs", {}).get(key) if isinstance(record.get("outputs"), dict) else None
            # Records may have been moved with their videos, so the name decides and not the folder.
            if isinstance(listed, str) and Path(listed).name == video.name:
                mode = record.get("mode")
                return Origin(kind, mode if isinstance(mode, str) else None, str(path)), record
    return Origin(), {}


def mixed_outputs(pred: Origin, reference: Origin) -> str | None:
    """A warning when a raw output is compared with a composited one, else None."""
    if UNKNOWN in (pred.output, reference.output) or pred.output == reference.output:
        return None
    return (
        f"the prediction is a {pred.output} output and the reference a {reference.output} one: "
        "outside the mask they differ by the compositing alone"
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            return {}
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
