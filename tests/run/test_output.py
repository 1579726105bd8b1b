"""Outputs: what would be lost, what is held by another run, where nothing can be written, who reads along."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from bad_media import good

from hetcache.cli import parse
from hetcache.modes import MODES
from hetcache.run import job
from hetcache.run.command import installed, main
from hetcache.run.options import Output, Request
from hetcache.run.output import Outputs, sole_run

ROOT = Path(__file__).resolve().parents[2]
SMALL = "--video v.mp4 --mask m.mp4 --frames 5 --steps 1 --height 48 --width 64 --model tiny --mode baseline".split()
HOLD = """
import sys, time
from pathlib import Path
from hetcache.run.output import Outputs, sole_run
with sole_run(Outputs(Path(sys.argv[1]), Path("x.json"))):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    good(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def holder(video: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(video)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_second_run_of_one_output_is_refused_at_its_start(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    process = holder(folder / "out.mp4")
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(job, "prepare", lambda *_: pytest.fail("the clip was read"))
            assert main([*SMALL, "--output", "out.mp4"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "output out.mp4: another run is writing it; wait for it, or choose another --output" in line
        assert (folder / "out.mp4").read_bytes() == b"an earlier result"
        # Another output is free, and so is a plan, which writes none.
        assert main([*SMALL, "--output", "other.mp4", "--plan"]) == 0
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    # The killed run has left its file behind; that is no lock.
    assert (folder / ".out.lock").exists()
    with sole_run(Outputs(folder / "out.mp4", folder / "out.json")):
        pass
    assert not (folder / ".out.lock").exists()


def test_the_lock_is_of_the_file_and_not_of_the_way_to_it(folder: Path) -> None:
    (folder / "link.mp4").symlink_to(folder / "out.mp4")
    process = holder(folder / "out.mp4")
    try:
        with pytest.raises(ValueError, match="another run"), sole_run(Outputs(Path("out.mp4"), Path("out.json"))):
            pass
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("text", [b'{"name": "my project"}', b"[1, 2]", b"not json", b""])
def test_a_json_file_of_somebody_else_is_not_overwritten(
    folder: Path, capsys: pytest.CaptureFixture[str], text: bytes
) -> None:
    (folder / "out.json").write_bytes(text)
    assert main([*SMALL, "--output", "out.mp4"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "output out.json: is not a record of this tool and would be lost; move it away or choose" in line
    assert (folder / "out.json").read_bytes() == text
    assert (folder / "out.mp4").read_bytes() == b"an earlier result"


def test_a_page_of_somebody_else_is_not_overwritten(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "out.html").write_text("<!doctype html><title>mine</title>")
    assert main([*SMALL, "--output", "out.mp4", "--report"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "output out.html: is not a page of this tool and would be lost; move it away or choose" in line
    assert "mine" in (folder / "out.html").read_text()
    assert main([*SMALL, "--output", "other.mp4", "--report"]) == 0
    assert main([*SMALL, "--output", "other.mp4", "--report"]) == 0


def test_the_installed_command_goes_by_its_name(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["hetcache", "--video", "none.mp4", "--mask", "m.mp4"])
    assert installed() == 2
    assert capsys.readouterr().err.startswith("hetcache: error: video none.mp4: no such file")
    monkeypatch.setattr(sys, "argv", ["hetcache", "--help"])
    with pytest.raises(SystemExit):
        installed()
    shown = capsys.readouterr().out
    assert "usage: hetcache " in shown and "\n  hetcache --mode hetcache --compare" in shown
    assert "inference.py" not in shown
    assert parse(["--seed", "3"], program="hetcache").command == "hetcache --seed 3"
    assert parse(["--seed", "3"]).command == "python inference.py --seed 3"


def test_probe_as_json_has_the_names_of_a_record(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--output", "out.mp4"]) == 0
    record = json.loads((folder / "out.json").read_text())
    capsys.readouterr()
    assert main(["--probe", "v.mp4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {"file": "v.mp4", "source": {k: v for k, v in record["source"].items() if k != "notes"}}
    assert main(["--json"]) == 2
    assert "--json is how --probe FILE prints" in capsys.readouterr().err


def test_an_earlier_record_is_replaced(folder: Path) -> None:
    for seed in ("1", "2"):
        assert main([*SMALL, "--output", "out.mp4", "--seed", seed]) == 0
    assert json.loads((folder / "out.json").read_text())["seed"] == 2
    assert not list(folder.glob(".*"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_plan_needs_no_folder_that_can_be_written(folder: Path) -> None:
    folder.chmod(0o500)
    try:
        assert main([*SMALL, "--plan"]) == 0
    finally:
        folder.chmod(0o700)


def test_a_plan_makes_no_folder(folder: Path) -> None:
    assert main([*SMALL, "--plan", "--output", "no/such/out.mp4"]) == 0
    assert main([*SMALL, "--plan"]) == 0
    assert not (folder / "no").exists() and not (folder / "outputs").exists()


@pytest.mark.parametrize("output", [".", "..", "sub/.."])
def test_a_folder_is_no_output(folder: Path, capsys: pytest.CaptureFixture[str], output: str) -> None:
    (folder / "sub").mkdir()
    assert main([*SMALL, "--output", output]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is a folder; give a file name" in line


def test_a_file_in_the_place_of_the_default_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "outputs").write_bytes(b"mine")
    assert main(SMALL) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "output folder outputs: is a file; move it away or give --output" in line


def test_no_ffmpeg_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(folder / "none"))
    assert main([*SMALL, "--output", "out.mp4"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "ffmpeg" in line and "Traceback" not in line


def run(folder: Path, words: list[str], **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "inference.py"), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env={**os.environ, **environment},
    )


def test_a_reader_that_leaves_early_ends_no_run(folder: Path) -> None:
    process = run(folder, [*SMALL, "--output", "out.mp4"])
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait() == 0, errors
    assert b"Broken pipe" not in errors and b"Exception" not in errors
    assert json.loads((folder / "out.json").read_text())["outputs"]["video"] == "out.mp4"


def test_a_page_is_utf_8_whatever_the_locale(folder: Path) -> None:
    words = [*SMALL, "--output", "out.mp4", "--report", "--prompt", "ein Café 花"]
    process = run(folder, words, PYTHONIOENCODING="ascii", LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    out, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "花" in (folder / "out.html").read_bytes().decode("utf-8")
    assert b"Caf\\xe9" in out


def test_the_names_of_outputs() -> None:
    request = Request(MODES["pab"], None, output=Output(save_raw=True, report=True))
    assert Outputs.of(request).as_json() == {
        "video": "outputs/real_pab.mp4",
        "raw": "outputs/real_pab_raw.mp4",
        "record": "outputs/real_pab.json",
        "report": "outputs/real_pab.html",
    }
