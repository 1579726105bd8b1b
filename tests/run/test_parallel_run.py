"""`torchrun inference.py --parallel`: one video, written by the first process, as a single one writes it; a process
that is killed takes the others with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from batch_runs import ROOT, SMALL, children, is_alive, make_media, until

import inference

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parallel")
    make_media(folder, 1)
    return folder


def start(folder: Path, output: str, *words: str) -> subprocess.Popen[str]:
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    files = ["--video", str(folder / "v0.mp4"), "--mask", str(folder / "m.mp4"), "--output", str(folder / output)]
    pipe = subprocess.PIPE
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*run, str(ROOT / "inference.py"), *SMALL, *files, *words]
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=folder, env=environment)


def test_one_video_is_written_once_and_equal(folder: Path) -> None:
    together = start(folder, "together.mp4", "--parallel", "cfg", "--steps", "4", "--device", "cpu")
    said, errors = together.communicate(timeout=120)
    assert together.returncode == 0, errors
    assert said.count("steps (cond)") == 1, "only one process speaks"
    files = ["--video", str(folder / "v0.mp4"), "--mask", str(folder / "m.mp4"), "--output", str(folder / "alone.mp4")]
    assert inference.main([*SMALL, *files, "--steps", "4"]) == 0
    assert (folder / "together.mp4").read_bytes() == (folder / "alone.mp4").read_bytes()
    ours, theirs = (json.loads((folder / name).read_text()) for name in ("together.json", "alone.json"))
    assert ours["decisions"] == theirs["decisions"] and ours["cache_bytes"] == theirs["cache_bytes"]
    assert ours["config"]["parallel"] == "cfg" and ours["notes"]["parallel"]["ranks"] == 2
    assert not list(folder.glob(".*"))


def test_a_killed_process_ends_the_run_and_leaves_no_process(folder: Path) -> None:
    run = start(folder, "killed.mp4", "--parallel", "sp", "--steps", "400", "--device", "cpu")
    ranks = until(lambda: len(children(run.pid)) == 2 and children(run.pid), run)
    until(lambda: (folder / ".killed.lock").exists(), run)
    os.kill(ranks[1], signal.SIGKILL)
    said, errors = run.communicate(timeout=60)
    assert run.returncode not in (0, None)
    assert not any(map(is_alive, ranks))
    assert not (folder / "killed.mp4").exists(), (said, errors)
