"""A run of several windows that is killed, interrupted or out of disk: nothing is lost and --resume finishes it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from long_runs import NUM_FRAMES, NUM_WINDOWS, ONE, ROOT, STOPPING, command, edits, make_clip, run, saved
from video_files import make

from diffsynth_patches import backend
from hetcache.media import source
from hetcache.media import write as video_write
from hetcache.media.read import read_frames
from hetcache.media.timeline import Timeline
from hetcache.run import window_store

__all__ = ["edits"]

STOPPED = (
    STOPPING
    + """
import inference
from hetcache.run import editor
from hetcache.media import result
from hetcache.run import window_store

signal.signal(signal.SIGINT, signal.default_int_handler)
stage, end, *flags = sys.argv[1:]
if stage == "first step":
    at(editor.StepBar, "observe", 1)
elif stage == "window saved":
    at(window_store.WindowStore, "save", 1, after=True)
elif stage == "in a window":
    at(editor.StepBar, "observe", 4)
elif stage == "saving frames":
    at(window_store.np, "savez_compressed", 2, after=True)
elif stage == "saving facts":
    at(window_store, "atomic_output", 5)
elif stage == "writing":
    at(result, "_blended", 12)
sys.exit(inference.main(flags))
"""
)
KEPT = {"first step": 0, "window saved": 1, "in a window": 1, "saving frames": 1, "saving facts": 1, "writing": 3}


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def finished(folder: Path) -> int:
    return window_store.WindowStore(folder / "out.mp4").finished()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The output of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    make_clip(folder)
    assert run(folder) == 0
    return (folder / "out.mp4").read_bytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_clip(tmp_path)
    return tmp_path


def start(folder: Path, stage: str, end: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", STOPPED, stage, end, *command(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    return subprocess.Popen(words, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.parametrize("stage", KEPT)
def test_a_killed_run_resumes_to_the_same_bytes(stage: str, folder: Path, whole: bytes, edits: list[int]) -> None:
    process = start(folder, stage, "SIGKILL")
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert (folder / "out.mp4").read_bytes() == b"an earlier result"
    assert finished(folder) == KEPT[stage]
    assert run(folder, "--resume") == 0
    assert len(edits) == NUM_WINDOWS - KEPT[stage]
    assert (folder / "out.mp4").read_bytes() == whole
    assert not (folder / "out_windows").exists()


@pytest.mark.parametrize("stage", ["in a window", "writing"])
def test_ctrl_c_says_what_is_kept_and_how_to_go_on(stage: str, folder: Path, whole: bytes, edits: list[int]) -> None:
    process = start(folder, stage, "SIGINT")
    assert process.stdout is not None
    while process.stdout.readline() != "stopped here\n":
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    last = errors.splitlines()[-1]
    assert f"interrupted: {KEPT[stage]} of {NUM_WINDOWS} windows are finished and kept in" in last
    assert "--resume goes on" in last and "Traceback" not in errors
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    assert (folder / "out.mp4").read_bytes() == b"an earlier result"
    assert run(folder, "--resume") == 0
    assert len(edits) == NUM_WINDOWS - KEPT[stage]
    assert (folder / "out.mp4").read_bytes() == whole


@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), KeyboardInterrupt()])
def test_a_run_that_ends_before_its_first_window_leaves_nothing(
    error: BaseException, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object) -> None:
        raise error

    monkeypatch.setattr(backend, "run_edit", stopped)
    assert run(folder) == (130 if isinstance(error, KeyboardInterrupt) else 2)
    assert ("no output was written" if isinstance(error, KeyboardInterrupt) else "broken") in capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir()) == ["m.mp4", "out.mp4", "v.mp4"]


def test_a_disk_that_fills_up_keeps_the_windows_before(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], edits: list[int]
) -> None:
    real = np.savez_compressed
    with monkeypatch.context() as patch:
        patch.setattr(window_store.np, "savez_compressed", lambda *a, **k: full() if edits == [0, 1] else real(*a, **k))
        assert run(folder) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "window_00001.npz: not written (No space left on device); free disk space" in error and "--resume" in error
    assert saved(folder) == ONE and (folder / "out.mp4").read_bytes() == b"an earlier result"
    assert run(folder, "--resume") == 0
    assert len(edits) == 1 + NUM_WINDOWS - 1 + 1


def test_a_disk_that_is_full_at_the_output_keeps_all_windows(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], edits: list[int]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(video_write, "encode_planes", full)
        assert run(folder) == 2
    assert "out.mp4: not written (No space left on device); free disk space" in capsys.readouterr().err
    assert len(saved(folder)) == 2 * NUM_WINDOWS and (folder / "out.mp4").read_bytes() == b"an earlier result"
    assert run(folder, "--resume") == 0
    assert len(edits) == NUM_WINDOWS


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = (
        os.geteuid() == 0
        and subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True
        ).returncode
        == 0
    )
    if not mounted:
        pytest.skip("a small tmpfs needs root and the right to mount")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_really_full_disk(small_disk: Path, capfd: pytest.CaptureFixture[str], edits: list[int]) -> None:
    make_clip(small_disk)
    (small_disk / "ballast").write_bytes(b"")
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    (small_disk / "ballast").write_bytes(bytes(free - 110_000))
    assert run(small_disk) == 2
    lines = capfd.readouterr().err.splitlines()
    assert "No space left on device); free disk space" in lines[-1] and "Traceback" not in "".join(lines)
    assert 0 < len(edits) < NUM_WINDOWS + 1
    assert (small_disk / "out.mp4").read_bytes() == b"an earlier result"
    assert len(saved(small_disk)) == 2 * (len(edits) - 1)
    (small_disk / "ballast").unlink()
    assert run(small_disk, "--resume") == 0
    assert len(read_frames(small_disk / "out.mp4")) == NUM_FRAMES


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_said_before_the_work(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder.chmod(0o500)
    try:
        assert run(folder) == 2
    finally:
        folder.chmod(0o700)
    assert "out.mp4: cannot be written (Permission denied); choose another folder" in capsys.readouterr().err


def test_a_video_that_ends_early_keeps_the_windows_before(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = make(folder / "v.ts", "-c:v", "mpeg2video", "-g", 1, frames=read_frames(folder / "v.mp4"), rate=12)
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size * 85 // 100])
    monkeypatch.setattr(source, "read_timeline", lambda info, _: Timeline.even(NUM_FRAMES, info.rate))
    assert run(folder, "--video", str(whole)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "v.ts: ends after 15 of 17 frames" in error and "go on with --frames 15 --resume (2 of 3 windows" in error
    assert len(saved(folder)) == 4 and (folder / "out.mp4").read_bytes() == b"an earlier result"
    assert run(folder, "--video", str(whole), "--frames", "15", "--resume") == 0
    assert not (folder / "out_windows").exists()
