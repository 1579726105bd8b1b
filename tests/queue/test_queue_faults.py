"""A worker that is killed, stopped or asked to cancel: no finished job is lost, the unfinished one goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from long_runs import NUM_WINDOWS, ROOT, STOPPING, command, edits, make_clip

from hetcache.cli import parse
from hetcache.files import UserError
from hetcache.queue.job import QueuedJob
from hetcache.queue.store import Queue
from hetcache.queue.worker import do, work
from hetcache.run.studio import Studio

__all__ = ["edits"]

STOPPED = (
    STOPPING
    + """
from pathlib import Path
from hetcache.media import result
from hetcache.queue import command, watch
from hetcache.run import window_store

stage, end, queue = sys.argv[1:]
if stage == "first step":
    at(watch.StepWatch, "__call__", 2)
elif stage == "second window":
    at(watch.StepWatch, "__call__", 4)
elif stage == "writing":
    at(result, "_blended", 12)
sys.exit(command.main(["--queue", queue, "run", "--until-empty"]))
"""
)
KEPT = {"first step": 0, "second window": 1, "writing": 3}


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    make_clip(tmp_path)
    return tmp_path


def long_job(queue: Queue, clip: Path) -> QueuedJob:
    words = command(clip)
    return queue.add(parse(words[: words.index("--output")]))


def short_job(queue: Queue, clip: Path) -> QueuedJob:
    files = ["--video", str(clip / "v.mp4"), "--mask", str(clip / "m.mp4")]
    return queue.add(parse([*files, *"--model tiny --frames 5 --height 48 --width 64 --steps 2".split()]))


def start(queue: Queue, stage: str, end: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", STOPPED, stage, end, str(queue.folder)]
    pipe = subprocess.PIPE
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(words, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)


def wait_for_stop(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    while "stopped here" not in process.stdout.readline():
        assert process.poll() is None, process.stderr and process.stderr.read()


@pytest.mark.parametrize("stage", KEPT)
def test_a_killed_worker_loses_nothing(stage: str, clip: Path, edits: list[int]) -> None:
    queue = Queue(clip / "queue")
    finished = short_job(queue, clip)
    queue.take()
    do(queue, finished, Studio())
    kept = finished.video.read_bytes(), finished.video.stat().st_mtime_ns
    killed, waiting = long_job(queue, clip), short_job(queue, clip)
    process = start(queue, stage, "SIGKILL")
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert [job.standing.state for job in queue.jobs()] == ["done", "running", "waiting"]
    assert not killed.video.exists() and not queue.has_worker()
    edits.clear()
    work(queue, until_empty=True)
    assert [job.standing.state for job in queue.jobs()] == ["done"] * 3
    assert len(edits) == NUM_WINDOWS - KEPT[stage] + 1
    assert killed.standing.attempts == 2 and waiting.standing.attempts == 1
    assert (finished.video.read_bytes(), finished.video.stat().st_mtime_ns) == kept
    assert {path.name for path in killed.folder.iterdir() if not path.name.startswith(".")} >= {"edit.mp4", "edit.json"}
    assert not list(killed.folder.glob("edit_windows"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_is_told_to_stop_puts_its_job_back(number: signal.Signals, clip: Path) -> None:
    queue = Queue(clip / "queue")
    job = long_job(queue, clip)
    process = start(queue, "second window", "sleep")
    wait_for_stop(process)
    assert queue.has_worker()
    with pytest.raises(UserError, match="another worker is at it"):
        work(queue, until_empty=True)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "goes on with the next worker" in errors and "Traceback" not in errors
    standing = job.standing
    assert (standing.state, standing.attempts) == ("waiting", 0) and "was stopped" in standing.message
    assert (job.folder / "edit_windows" / "window_00000.npz").exists()


def test_cancel_ends_within_a_step_and_the_next_job_runs(clip: Path, edits: list[int]) -> None:
    queue = Queue(clip / "queue")
    files = ["--video", str(clip / "v.mp4"), "--mask", str(clip / "m.mp4")]
    job = queue.add(
        parse([*files, *"--mode baseline --model tiny --frames 5 --height 48 --width 64 --steps 4000".split()])
    )
    behind = short_job(queue, clip)
    thread = threading.Thread(target=work, args=(queue, True))
    # Signals go to a process's first thread alone.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hetcache.queue.worker.stopped_by", lambda _: threading.Lock())
        thread.start()
        until = time.monotonic() + 60
        while len(job.progress.decisions) < 2 and time.monotonic() < until:
            time.sleep(0.05)
        queue.cancel(job.number)
        done = len(job.progress.decisions)
        thread.join(60)
    assert not thread.is_alive()
    assert job.standing.state == "cancelled" and not job.is_cancelled
    assert 2 <= done <= len(job.progress.decisions) < 400
    assert not job.video.exists() and not list(job.folder.glob(".edit*"))
    assert behind.standing.state == "done" and len(edits) == 2
