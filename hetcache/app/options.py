"""What can be said to the page's server. Every field is a flag."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from hetcache.core.settings import check_settings, refused, setting
from hetcache.files import UserError
from hetcache.queue.store import default_queue

LOOPBACK = ("127.0.0.1", "localhost", "::1")
SHORTEST_PASSWORD = 8


@dataclass(frozen=True)
class AppOptions:
    """Where the page listens, who may come, what may be opened, and where it is kept."""

    host: str = setting("127.0.0.1", "address to listen on; any but this machine's own needs --auth")
    port: int = setting(7860, "port to listen on; 0 takes a free one")
    auth: str | None = setting(
        None,
        "name and password that the browser asks for; HETCACHE_AUTH says it too, and no list of processes shows that",
        metavar="USER:PASSWORD",
        shown="",
    )
    queue: Path | None = setting(
        None, "the queue's folder, which hetcache-queue works on too", metavar="FOLDER", shown="the user's own"
    )
    folder: Path | None = setting(
        None, "where opened clips and their masks are kept", metavar="FOLDER", shown="beside the queue"
    )
    keep_days: float = setting(7.0, "remove clips that nobody has worked on for so long", metavar="DAYS")
    max_mib: float = setting(512.0, "largest file that can be opened", metavar="MIB")
    max_seconds: float = setting(60.0, "longest clip that can be opened", metavar="SECONDS")
    max_frames: int = setting(1800, "most frames of a clip that can be opened", metavar="N")
    max_pixels: int = setting(3840 * 2160, "most pixels of a frame of a clip that can be opened", metavar="N")
    worker: bool = setting(True, "start a worker for the queue when a job waits and none is there")

    def __post_init__(self) -> None:
        check_settings(self)
        if not 0 <= self.port <= 65535:
            raise refused(self, "port", "from 0 to 65535")
        for name in ("keep_days", "max_mib", "max_seconds", "max_frames", "max_pixels"):
            if getattr(self, name) <= 0:
                raise refused(self, name, "greater than 0")
        if self.credentials is not None:
            user, colon, password = self.credentials.partition(":")
            if not user or not colon or len(password) < SHORTEST_PASSWORD:
                raise UserError(f"--auth: give USER:PASSWORD, the password of {SHORTEST_PASSWORD} characters or more")
        elif self.host not in LOOPBACK:
            raise UserError(
                f"--host {self.host}: others could open the page; give --auth USER:PASSWORD too, or leave it at "
                "127.0.0.1"
            )

    @property
    def credentials(self) -> str | None:
        """USER:PASSWORD, or None."""
        return self.auth if self.auth is not None else os.environ.get("HETCACHE_AUTH") or None

    @property
    def queue_folder(self) -> Path:
        return self.queue if self.queue is not None else default_queue()

    @property
    def clips_folder(self) -> Path:
        return self.folder if self.folder is not None else self.queue_folder.absolute().parent / "clips"
