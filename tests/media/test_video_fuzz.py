"""Mutated files end in a VideoError or in frames, never in another exception, a hang or a damaged output.

Seeded and bounded in time: HETCACHE_FUZZ_SECONDS (default 8) says how long; a failure names its seed.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from mutated_files import SECONDS, SIZE, mutated, originals
from video_files import clip

from hetcache.media.ffmpeg import VideoError
from hetcache.media.masks import read_mask
from hetcache.media.read import count_frames, iter_frames, probe
from hetcache.media.write import write_video


def exercise(path: Path, output: Path) -> None:
    """Everything the program does with an input; only VideoError may come out."""
    for attempt in (
        lambda: probe(path),
        lambda: count_frames(path),
        lambda: read_mask(path, 3, SIZE, extend="hold"),
        lambda: write_video(output, iter_frames(path, count=3, size=SIZE), 24, audio_from=path),
    ):
        try:
            attempt()
        except VideoError as error:
            assert str(error).isprintable() and len(str(error)) < 500


def test_mutated_files_never_break_it(tmp_path: Path) -> None:
    files = [(path.suffix, path.read_bytes()) for path in originals(tmp_path)]
    folder = tmp_path / "out"
    folder.mkdir()
    output = folder / "out.mp4"
    write_video(output, clip(1), 24)
    end, seed = time.monotonic() + SECONDS, 0
    while time.monotonic() < end:
        suffix, data = files[seed % len(files)]
        path = tmp_path / f"mutated{suffix}"
        path.write_bytes(mutated(data, np.random.default_rng(seed)))
        begin = time.monotonic()
        try:
            exercise(path, output)
        except Exception as error:
            pytest.fail(f"seed {seed} ({suffix}): {error!r}")
        assert time.monotonic() - begin < 30, f"seed {seed} ({suffix}) took too long"
        assert [entry.name for entry in folder.iterdir()] == ["out.mp4"], f"seed {seed}"
        assert probe(output).codec == "h264", f"seed {seed}"
        seed += 1
    assert seed > 0
