"""The page's server as a process of its own, and a client for its doors that keeps a cookie as a browser does."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MADE = re.compile(r"http://\S+:(\d+)/")


@dataclass
class Served:
    """A server that runs: its port, its process, and the folder of its queue and clips."""

    port: int
    process: subprocess.Popen[str]
    folder: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"


@contextmanager
def served(folder: Path, *flags: str) -> Iterator[Served]:
    words = [sys.executable, "-m", "hetcache.app", "--port", "0", "--queue", str(folder / "queue"), *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    errors = (folder / "errors.txt").open("a")
    process = subprocess.Popen(words, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = MADE.search(line)
        assert found, line + (folder / "errors.txt").read_text()
        yield Served(int(found.group(1)), process, folder)
    finally:
        process.terminate()
        process.wait(20)
        errors.close()


class Client:
    """Asks the server; keeps its cookie."""

    def __init__(self, server: Served) -> None:
        self.server = server
        self.cookie = ""
        self.ask("GET", "/app/state")

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes, dict[str, str]]:
        """(status, body, headers); the path goes out as it is, `..` and all."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        sent = {"Cookie": self.cookie, **(headers or {})} if self.cookie else dict(headers or {})
        try:
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        got = {name.lower(): value for name, value in answer.getheaders()}
        if "set-cookie" in got and not self.cookie:
            self.cookie = got["set-cookie"].split(";")[0]
        return answer.status, data, got

    def get(self, path: str) -> Any:
        status, data, _ = self.ask("GET", path)
        assert status == 200, (status, data[:300])
        return json.loads(data)

    def post(self, path: str, value: Any = None) -> Any:
        """JSON values, or bytes as they are."""
        body = value if isinstance(value, bytes) else b"" if value is None else json.dumps(value).encode()
        status, data, _ = self.ask("POST", path, body)
        assert status == 200, (status, data[:300])
        return json.loads(data)

    def refused(self, method: str, path: str, body: bytes | None = None) -> str:
        """The message of a refusal."""
        status, data, _ = self.ask(method, path, body)
        assert 400 <= status < 500, (status, data[:300])
        return str(json.loads(data)["error"])


def wait_for(true: Callable[[], Any], seconds: float = 90.0) -> Any:
    """What `true` gives as soon as it is true."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = true()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"not true within {seconds:g} s")
