"""The joins of a long edit, measured on what is written, for its record."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hetcache.media.windows import Window
from hetcache.metrics.joins import JoinMeter
from hetcache.run.job import Job


class JoinWatch:
    """Looks at the edited frames as they pass, in memory that does not grow."""

    def __init__(self, windows: Sequence[Window]) -> None:
        self._meter = JoinMeter(windows)

    def watch(self, job: Job, edited: Iterable[NDArray[np.uint8]]) -> Generator[NDArray[np.uint8], None, None]:
        """The frames [H, W, 3] of `edited`, at the source's size, as they are."""
        with closing(job.source.every_mask(job.num_frames)) as masks:
            for frame, mask in zip(edited, masks, strict=False):
                self._meter.update(frame[None], {"in_mask": mask[None]})
                yield frame

    def facts(self) -> list[dict[str, Any]]:
        """For each window what docs/record.md says of `join` (of all but the first) and `hole`."""
        joins = [{"seam_ratio": join.seam_ratio, **asdict(join)} for join in self._meter.joins()]
        holes = [asdict(hole) for hole in self._meter.holes()]
        return [
            {**({"join": _rounded(joins[index - 1])} if index else {}), "hole": _rounded(hole)}
            for index, hole in enumerate(holes)
        ]


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) if math.isfinite(value) else value for name, value in figures.items()}
