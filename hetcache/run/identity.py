"""What the bytes of a run depend on, so that an interrupted one is resumed only as itself."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from hetcache.core.calibration import calibration_digest
from hetcache.core.facts import facts_of_weights, hardware, package_versions
from hetcache.media.images import list_frames
from hetcache.run.job import Job


def run_identity(job: Job) -> dict[str, Any]:
    """Everything that the bytes of a run's windows depend on, as JSON values: a run resumes only as itself."""
    files = {"video": job.source.video, "mask": job.source.mask}
    machine = hardware(job.device)
    return {
        "mode": job.mode.name,
        "settings": asdict(job.config),
        "target speed-up": job.target_speedup,
        "edit": asdict(job.settings),
        "input options": asdict(job.source.options),
        **{name: _file_facts(path) for name, path in files.items()},
        "windows": [asdict(window) for window in job.windows],
        "size": job.clip.size,
        "feather": job.feather_px,
        "weights": [facts_of_weights(job.model), job.revision],
        "memory": [job.vram.limit_gib, job.vram.fp8_storage],
        "dtype": str(job.dtype),
        "machine": [machine.get(key) for key in ("device", "cpu", "gpu", "threads")],
        "calibration": calibration_digest(job.info.model_id, job.model),
        "versions": package_versions(),
    }


def _file_facts(path: Path | None) -> list[Any]:
    if path is None:
        return []
    files = list_frames(path) if path.is_dir() else [path]
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
