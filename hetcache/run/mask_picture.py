"""Where `--plan` leaves its picture of the mask."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hetcache.files import atomic_output
from hetcache.media.mask_sheet import mask_sheet
from hetcache.run.job import Job


def write_mask_picture(job: Job) -> Path:
    """Draw the mask over the first window as PNG, beside the output or, where nothing can be written there or the name
    is taken by an input, in the system's folder for temporary files. Returns the path."""
    path = job.outputs.video.with_name(f"{job.outputs.video.stem}_plan.png")
    inputs = [each.resolve() for each in (job.source.video, job.source.mask) if each is not None]
    folder = path.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK) or path.is_dir() or path.resolve() in inputs:
        handle, name = tempfile.mkstemp(suffix=f"_{path.name}")
        os.close(handle)
        path = Path(name)
    sheet = mask_sheet(job.clip.source_THWC, job.clip.source_mask_THW)
    with atomic_output(path) as temporary:
        sheet.save(temporary, format="PNG")
    return path
