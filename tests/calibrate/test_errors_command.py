"""`python -m hetcache.calibrate --errors`, from clips to a plan."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from long_runs import make_clip

from hetcache.calibrate import command
from hetcache.files import CALIBRATIONS
from hetcache.planner.search import Costs, Front
from hetcache.planner.tables import load_tables

STEPS = 10


def test_tables_are_measured_written_and_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_clip(tmp_path)
    shutil.copy(CALIBRATIONS / "tiny.json", tmp_path / "tiny.json")
    files = f"--video {tmp_path}/v.mp4 --mask {tmp_path}/m.mp4 --output {tmp_path}/tiny.json"
    words = f"{files} --model tiny --frames 5 --height 96 --width 128 --steps {STEPS} --errors"
    assert command.main(words.split()) == 0
    said = capsys.readouterr().out
    assert "tiny.errors.safetensors" in said and said.count("x: ") == 6 and "FPPP: " in said
    tables = load_tables(tmp_path / "tiny.errors.safetensors", "")
    assert tables.origin.model == "tiny" and tables.origin.cfg_scale == 2.0 and tables.measured_on["steps"] == STEPS
    assert tables.sensitivity.shape == (STEPS,) and np.all(tables.sensitivity > 0)
    model = tables.model(tables.timesteps)
    front = Front(model, Costs(100, 0, (40, 50)))
    assert len(front) > 5 and front.errors[-1] == 0
    # The plan's predicted PSNR is of the size of those that were run.
    assert 20 < tables.psnr(front.errors[len(front) // 2]) < 90


def test_errors_are_measured_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--errors", "--paths", "only"]) == 2
    assert "leave --paths" in capsys.readouterr().err


def test_an_interrupt_ends_it_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(request: object) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "run", interrupt)
    assert command.main([]) == 130
    assert capsys.readouterr().err == "\nhetcache.calibrate: interrupted\n"
