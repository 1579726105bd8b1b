"""A batch over a cluster of a head and two nodes on loopback, one of which is killed in mid-job. Needs Ray."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from batch_runs import SMALL, make_media, results, start, until

import inference

pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="kills process groups")]
# Ray's workers give way to everything else on a machine, unless they are told not to.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1"}
LONG = 400


class Node:
    """`ray start --block` in a session of its own; made when it runs."""

    def __init__(self, log: Path, *words: str) -> None:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--node-ip-address=127.0.0.1"]
        self.log = log.open("w")
        self.process = subprocess.Popen(
            [*command, "--object-store-memory=80000000", *words],
            stdout=self.log,
            stderr=self.log,
            env={**os.environ, **QUIET},
            start_new_session=True,
        )
        try:
            until(lambda: "Ray runtime started" in log.read_text() or self.process.poll() is not None)
            assert self.process.poll() is None, log.read_text()
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        for pid in self.members():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()
        self.log.close()

    def members(self) -> list[int]:
        """Every process of its session."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                session = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[3])
            except (OSError, ValueError, IndexError):
                continue
            if session == self.process.pid:
                found.append(int(entry.name))
        return found


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ray")
    make_media(folder, 2)
    return folder


@pytest.fixture(scope="module")
def cluster(folder: Path) -> Iterator[tuple[str, list[Node]]]:
    port = free_port()
    address = f"127.0.0.1:{port}"
    nodes: list[Node] = []
    try:
        head = ["--head", f"--port={port}", "--include-dashboard=false", "--num-cpus=0"]
        nodes.append(Node(folder / "head.log", *head))
        for index in range(2):
            nodes.append(Node(folder / f"node_{index}.log", f"--address={address}", "--num-cpus=1"))
        yield address, nodes
    finally:
        for node in reversed(nodes):
            node.kill()


def test_a_batch_survives_the_loss_of_a_node(folder: Path, cluster: tuple[str, list[Node]]) -> None:
    address, (_, *nodes) = cluster
    steps = {"long0": LONG, "long1": LONG, "a": 2, "b": 2, "c": 2}  # first, so that both nodes have one at once
    lines = ["video,mask,output,steps,seed"]
    lines += [f"v{i % 2}.mp4,m.mp4,{name},{count},{i}" for i, (name, count) in enumerate(steps.items())]
    lines += ["gone.mp4,m.mp4,missing,2,0"]
    jobs, out = folder / "jobs.csv", folder / "out"
    jobs.write_text("\n".join(lines) + "\n")
    batch = start(jobs, out, "--ray", address, "--workers", "2")
    try:
        until(lambda: (out / ".long0.lock").exists() and (out / ".long1.lock").exists(), batch, 120)
        nodes[1].kill()
        said, errors = batch.communicate(timeout=200)
    finally:
        batch.kill()
    assert batch.returncode == 1, (said, errors)
    told = results(out)
    assert {name for name, job in told.items() if job["state"] == "failed"} == {"missing.mp4"}
    assert sorted(told[name]["tries"] for name in ("long0.mp4", "long1.mp4")) == [1, 2], "one job was begun again"
    for index, (name, count) in enumerate(steps.items()):
        alone = folder / f"{name}_alone.mp4"
        files = ["--video", f"{folder}/v{index % 2}.mp4", "--mask", f"{folder}/m.mp4", "--output", str(alone)]
        assert inference.main([*SMALL, *files, "--steps", str(count), "--seed", str(index)]) == 0
        assert alone.read_bytes() == (out / f"{name}.mp4").read_bytes()
    assert not list(out.glob(".*"))


def test_a_cluster_that_is_not_there_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = folder / "one.csv"
    jobs.write_text("video,mask\nv0.mp4,m.mp4\n")
    assert inference.main(["batch", str(jobs), "--out", str(folder / "none"), "--ray", "127.0.0.1:1", *SMALL]) == 2
    assert "--ray 127.0.0.1:1: no cluster there" in capsys.readouterr().err
