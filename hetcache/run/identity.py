"""What the bytes of a run depend on: an interrupted one is resumed only as itself, a finished one not run again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hetcache.core.calibration_files import calibration_digest
from hetcache.core.facts import facts_of_weights, hardware, package_versions
from hetcache.files import CALIBRATIONS, digest, to_json
from hetcache.media.images import list_frames
from hetcache.models import model_info
from hetcache.run.options import Request

if TYPE_CHECKING:
    from hetcache.run.job import Job

Facts = Sequence[Any]
NOT_ASKED = ("output", "resume", "plan", "debug")
"""Fields of `Output` that say where and how a run goes, not what comes out."""


def run_identity(job: Job) -> dict[str, Any]:
    """Everything that the bytes of a run's windows depend on, as JSON values: a run resumes only as itself."""
    files = {"video": job.source.video, "mask": job.source.mask}
    machine = hardware(job.device)
    return {
        "mode": job.mode.name,
        "settings": asdict(job.config),
        "target speed-up": job.target_speedup,
        "exact plan": None if job.wish is None else asdict(job.wish),
        "edit": asdict(job.settings),
        "input options": asdict(job.source.options),
        **{name: file_facts(path) for name, path in files.items()},
        "windows": [{**asdict(window), "box": box} for window, box in zip(job.windows, job.boxes, strict=True)],
        "size": job.clip.size,
        "feather": job.feather_px,
        "fill": job.fill,
        "match colour": job.match_colour,
        "restore seen": job.restore_seen,
        "weights": [facts_of_weights(job.model), job.revision],
        "memory": [job.vram.limit_gib, job.vram.fp8_storage],
        "dtype": str(job.dtype),
        "machine": [machine.get(key) for key in ("device", "cpu", "gpu", "threads")],
        "calibration": calibration_digest(job.info.model_id, job.model),
        "versions": package_versions(),
    }


def request_identity(request: Request, files: Mapping[str, Facts] | None = None) -> str:
    """A digest of what was asked of which files in which versions, told without opening them: the same run again,
    wherever it is made. Not the machine: another card's result is a result. `files` are the facts of `video` and `mask`
    where they lie elsewhere than the request says. Raises OSError for a file that is not there."""
    if files is None:
        files = {"video": file_facts(request.video), "mask": file_facts(request.mask)}
    model = request.model.model
    output = {name: value for name, value in asdict(request.output).items() if name not in NOT_ASKED}
    asked = {
        "mode": request.mode.name,
        "settings": asdict(request.config),
        **{name: asdict(getattr(request, name)) for name in ("task", "length", "input", "size", "edit", "vram")},
        "model": {name: value for name, value in asdict(request.model).items() if name != "device"},
        "output": output,
        "files": files,
        "weights": facts_of_weights(model),
        "calibration": digest(CALIBRATIONS)
        if model == "auto"
        else calibration_digest(model_info(model).model_id, model),
        "versions": package_versions(),
    }
    return digest(to_json(asked, None))[:32]


def file_facts(path: Path | None) -> list[Any]:
    """Name, size in bytes and time of change (ns) of a file or of a folder's frames; empty for None."""
    if path is None:
        return []
    files = list_frames(path) if path.is_dir() else [path]
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
