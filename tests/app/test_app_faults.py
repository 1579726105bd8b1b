"""The server is killed while a mask is made, while a job waits, and while it runs; its worker is killed too."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from app_server import Client, Served, served, wait_for
from long_runs import command, make_clip

pytest.importorskip("gradio", reason="the page needs its extra: pip install -r requirements-app.txt")

from hetcache.cli import parse
from hetcache.files import digest
from hetcache.queue.job import QueuedJob
from hetcache.queue.store import Queue


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    make_clip(tmp_path)
    yield tmp_path
    stop_workers(tmp_path)


def stop_workers(folder: Path) -> None:
    for pid in workers(folder):
        os.kill(pid, signal.SIGKILL)


def workers(folder: Path) -> list[int]:
    """The processes that work on this test's queue."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"hetcache.queue" in words and str(folder / "queue").encode() in words:
            found.append(int(path.parent.name))
    return found


def add(queue: Queue, folder: Path, client: Client, *extra: str) -> QueuedJob:
    words = command(folder)
    owner = digest("hetcache session ", client.cookie.partition("=")[2])[:32]
    return queue.add(parse([*words[: words.index("--output")], *extra]), owner)


def kill(server: Served) -> None:
    server.process.send_signal(signal.SIGKILL)
    server.process.wait(20)


def again(server: Served, client: Client) -> Client:
    """The same browser at the server of today."""
    found = Client(server)
    found.cookie = client.cookie
    return found


def states(client: Client) -> list[Any]:
    return [job["state"] for job in client.get("/app/jobs")]


@pytest.mark.slow
def test_the_server_is_killed_at_three_stages(folder: Path) -> None:
    queue = Queue(folder / "queue")
    with served(folder, "--no-worker") as server:
        client = Client(server)
        clip = client.post("/app/clip?name=v.mp4", (folder / "v.mp4").read_bytes())["clip"]
        client.post("/app/marks", [{"kind": "box", "frame": 0, "box": [14, 18, 48, 52]}])
        client.post("/app/propagate")
        # First: a mask is being made.
        kill(server)
    with served(folder, "--no-worker") as server:
        client = again(server, client)
        state = client.get("/app/state")
        assert state["clip"] == clip and len(state["marks"]) == 1 and state["mask"]["state"] == "none"
        client.post("/app/propagate")
        wait_for(lambda: client.get("/app/state")["mask"]["state"] == "ready")
        first = add(queue, folder, client, "--steps", "40")
        second = add(queue, folder, client)
        # Second: jobs wait.
        kill(server)
    with served(folder) as server:
        client = again(server, client)
        assert client.get("/app/state")["mask"]["state"] == "ready"
        wait_for(lambda: first.standing.state == "running" and len(first.progress.decisions) > 2)
        (worker,) = workers(folder)
        # Third: a job runs. Its worker goes on by itself.
        kill(server)
    assert workers(folder) == [worker]
    with served(folder) as server:
        client = again(server, client)
        wait_for(lambda: states(client) == ["done", "done"])
        assert workers(folder) == [worker]
    assert [job.standing.attempts for job in (first, second)] == [1, 1]


@pytest.mark.slow
def test_a_killed_worker_is_followed_by_another(folder: Path) -> None:
    queue = Queue(folder / "queue")
    with served(folder) as server:
        client = Client(server)
        done = add(queue, folder, client)
        wait_for(lambda: states(client) == ["done"])
        kept = done.video.read_bytes(), done.video.stat().st_mtime_ns
        job = add(queue, folder, client, "--steps", "60")
        wait_for(lambda: job.progress.edit == 2)
        (worker,) = workers(folder)
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: job.standing.attempts == 2)
        wait_for(lambda: states(client) == ["done", "done"])
        assert "1 of 3 windows were finished before" in job.log.read_text()
        assert (done.video.read_bytes(), done.video.stat().st_mtime_ns) == kept
        assert len(workers(folder)) == 1 and worker not in workers(folder)
