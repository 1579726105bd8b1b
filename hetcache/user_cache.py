"""The user's cache folder: metric weights and prompt embeddings live below it."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`HETCACHE_CACHE`, else XDG_CACHE_HOME/hetcache, else ~/.cache/hetcache; an empty variable counts as unset."""
    chosen = os.environ.get("HETCACHE_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "hetcache"
