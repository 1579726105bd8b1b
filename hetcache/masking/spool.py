"""Opacities on their way between two keyframes, kept on disk: a long clip has thousands."""

from __future__ import annotations

from typing import IO

import numpy as np

from hetcache.masking.track import Plane


class Spool:
    """Planes [H, W] in 0..1 by index, each with a confidence; kept as bytes in `file`, where others write too."""

    def __init__(self, size: tuple[int, int], file: IO[bytes]) -> None:
        self.size = size
        self.confidence: dict[int, float] = {}
        self._places: dict[int, int] = {}
        self._file = file

    def put(self, index: int, opacity_HW: Plane, confidence: float) -> None:
        self._places[index] = self._file.seek(0, 2)
        self._file.write(np.rint(opacity_HW * 255).astype(np.uint8).tobytes())
        self.confidence[index] = confidence

    def get(self, index: int) -> Plane:
        height, width = self.size
        self._file.seek(self._places[index])
        data = np.frombuffer(self._file.read(height * width), np.uint8)
        return np.asarray(data.reshape(height, width).astype(np.float32) / np.float32(255))
