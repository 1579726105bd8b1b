"""Mutated files as --video and --mask: one line and exit code 2, or a run that reaches the model; nothing is left."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from bad_media import good
from mutated_files import SECONDS, mutated, originals

import inference  # noqa: E402
from diffsynth_patches import loader

REACHED = "the model was reached"
PLANS = ("--frames 1", "--frames 9", "--frames all", "--frames 9 --window 5 --overlap 1", "--frames 5 --fit crop")


def test_mutated_files_through_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def reached(*_: object) -> None:
        raise ValueError(REACHED)

    (tmp_path / "made").mkdir()
    files = [(path.suffix, path.read_bytes()) for path in originals(tmp_path / "made")]
    work = tmp_path / "work"
    work.mkdir()
    good(work)
    monkeypatch.chdir(work)
    monkeypatch.setattr(loader, "load_pipeline", reached)
    end, seed, met = time.monotonic() + SECONDS, 0, 0
    while time.monotonic() < end:
        suffix, data = files[seed % len(files)]
        random = np.random.default_rng(seed)
        mutant = work / f"mutant{suffix}"
        mutant.write_bytes(mutated(data, random))
        names = [mutant.name, "m.mp4"] if random.random() < 0.5 else ["v.mp4", mutant.name]
        flags = f"{PLANS[seed % len(PLANS)]} --steps 1 --height 48 --width 64 --output out.mp4 --model tiny".split()
        code = inference.main(["--video", names[0], "--mask", names[1], *flags])
        error = capsys.readouterr().err
        mutant.unlink()
        case = f"seed {seed} ({suffix})"
        left = sorted(path.name for path in work.iterdir() if path.suffix != ".json")
        assert left == ["m.mp4", "out.mp4", "v.mp4"], case
        if code == 0:
            assert (work / "out.json").is_file(), case
            (work / "out.json").unlink()
        else:
            assert code == 2 and error.startswith("inference.py: error: ") and error.count("\n") == 1, case
            assert (work / "out.mp4").read_bytes() == b"an earlier result", case
            met += REACHED in error
        (work / "out.mp4").write_bytes(b"an earlier result")
        seed += 1
    assert 0 < met < seed
