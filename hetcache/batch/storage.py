"""Files by URL: copied in before a run, copied out after it and renamed last. Local paths pass untouched.

Anything that fsspec knows: s3://, gs://, az://, http:// (in only), memory:// in tests; file:// is a path.
"""

from __future__ import annotations

import json
import posixpath
import re
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import fsspec

from hetcache.files import UserError

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")


def is_url(text: str) -> bool:
    """Whether this is a URL of another kind than file://."""
    return bool(_URL.match(text)) and not text.startswith("file://")


def local(text: str) -> str:
    """file:// URLs as paths, everything else as it is."""
    return unquote(urlparse(text).path) if text.startswith("file://") else text


def join(folder: str, name: str) -> str:
    return posixpath.join(folder, name) if is_url(folder) else str(Path(local(folder), name))


def _open(url: str) -> tuple[Any, str]:
    """(file system, path on it). Raises UserError for a kind whose driver is not installed."""
    try:
        found: tuple[Any, str] = fsspec.core.url_to_fs(url)
        return found
    except (ImportError, ValueError) as error:
        raise UserError(f"{url}: cannot be read ({error})") from error


def facts(url: str) -> list[Any]:
    """Name, size and version of a remote file, as its store tells them. Raises OSError."""
    system, path = _open(url)
    info = system.info(path)
    marks = {
        key: str(info[key]) for key in ("ETag", "etag", "md5Hash", "mtime", "LastModified", "created") if key in info
    }
    return [posixpath.basename(path), info.get("size"), marks]


def fetch(url: str, folder: Path) -> Path:
    """Copy a remote file into `folder`. Raises UserError."""
    system, path = _open(url)
    target = folder / posixpath.basename(path)
    try:
        system.get_file(path, str(target))
    except Exception as error:
        # Drivers raise errors of their own for access, networks and missing files.
        raise UserError(f"{url}: cannot be read ({type(error).__name__}: {error})") from error
    return target


def deliver(file: Path, url: str) -> None:
    """Copy a file out under a name of its own and rename it. Raises UserError; nothing is left behind."""
    system, path = _open(url)
    temporary = f"{path}.{secrets.token_hex(4)}.tmp"
    try:
        system.makedirs(posixpath.dirname(path), exist_ok=True)
        system.put_file(str(file), temporary)
        system.mv(temporary, path)
    except Exception as error:
        with suppress(Exception):
            system.rm(temporary)
        raise UserError(f"{url}: cannot be written ({type(error).__name__}: {error})") from error


def exists(target: str) -> bool:
    if not is_url(target):
        return Path(target).is_file()
    system, path = _open(target)
    return bool(system.exists(path))


def read_record(target: str) -> dict[str, Any]:
    """A run's record, {} for one that is not there or not readable."""
    try:
        if is_url(target):
            system, path = _open(target)
            text = system.cat_file(path)
        else:
            text = Path(target).read_bytes()
        value = json.loads(text)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
