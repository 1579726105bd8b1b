"""A batch in processes: a killed worker, bad files, Ctrl-C and a second call; every good job is written once, and its
bytes are those of a single run."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from batch_runs import SMALL, children, holder, is_alive, make_media, results, start, until

import inference

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
LONG = 60  # steps of a job that is caught in mid-run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("batch")
    make_media(folder, 3)
    return folder


def inode(path: Path) -> tuple[int, int]:
    return path.stat().st_ino, path.stat().st_mtime_ns


@pytest.mark.slow
def test_twelve_jobs_with_every_accident(folder: Path) -> None:
    steps = {name: 2 for name in ("a", "b", "c", "d", "e", "f", "g", "h")} | {"kill": LONG, "stop": LONG}
    lines = ["video,mask,output,steps,seed"]
    lines += [f"v{i % 3}.mp4,m.mp4,{name},{steps[name]},{i}" for i, name in enumerate(steps)]
    kill, stop = lines.pop(9), lines.pop(9)
    lines[1:1] = [kill, "gone.mp4,m.mp4,missing,,"]
    lines[6:6] = [stop, "v0.mp4,bad.mp4,bad,,"]
    jobs, out = folder / "jobs.csv", folder / "out"
    jobs.write_text("\n".join(lines) + "\n")
    assert len(lines) == 13

    batch = start(jobs, out, "--workers", "2")
    killed = until(lambda: holder(batch.pid, (out / ".kill.lock").resolve()), batch)
    os.kill(killed, signal.SIGKILL)
    until(lambda: holder(batch.pid, (out / ".stop.lock").resolve()), batch)
    until(lambda: (out / "a.json").exists(), batch)
    workers = children(batch.pid)
    batch.send_signal(signal.SIGINT)
    _, said = batch.communicate(timeout=60)
    assert batch.returncode == 130 and "interrupted" in said
    assert killed not in workers and not any(map(is_alive, workers))
    assert not (out / "stop.mp4").exists() and not list(out.glob(".*.tmp*")), "Ctrl-C left something half-written"
    before = results(out)
    done = {path.name: inode(path) for path in out.glob("*.mp4")}
    assert done.keys() == {name for name, job in before.items() if job["state"] == "done"} >= {"a.mp4"}

    again = start(jobs, out, "--workers", "2")
    said, progress = again.communicate(timeout=120)
    assert again.returncode == 1, progress
    after = results(out)
    assert {name: inode(out / name) for name in done} == done, "a finished job was written again"
    assert {name: after[name]["state"] for name in done} == dict.fromkeys(done, "already done")
    assert {name for name, job in after.items() if job["state"] == "failed"} == {"missing.mp4", "bad.mp4"}
    assert "gone.mp4" in said and "bad.mp4" in said and after["missing.mp4"]["tries"] <= 1
    assert (
        {path.stem for path in out.glob("*.mp4")}
        == steps.keys()
        == {path.stem for path in out.glob("*.json")} - {"batch_results"}
    )
    tries = {name: before[name]["tries"] + after[name]["tries"] for name in after}
    assert tries["kill.mp4"] == 2 or before["kill.mp4"]["state"] != "done"
    assert [path.name for path in out.iterdir() if path.name.startswith(".")] == []

    for index, (name, count) in enumerate(steps.items()):
        alone = folder / f"{name}_alone.mp4"
        files = ["--video", f"{folder}/v{index % 3}.mp4", "--mask", f"{folder}/m.mp4", "--output", str(alone)]
        assert inference.main([*SMALL, *files, "--steps", str(count), "--seed", str(index)]) == 0
        assert alone.read_bytes() == (out / f"{name}.mp4").read_bytes()


@pytest.mark.slow
def test_workers_end_with_a_batch_that_is_killed(folder: Path) -> None:
    jobs, out = folder / "one.csv", folder / "killed"
    jobs.write_text(f"video,mask,output,steps\nv0.mp4,m.mp4,long,{LONG}\n")
    batch = start(jobs, out)
    worker = until(lambda: holder(batch.pid, (out / ".long.lock").resolve()), batch)
    batch.kill()
    batch.communicate()
    until(lambda: not is_alive(worker), seconds=10)
    assert not (out / "long.mp4").exists()
