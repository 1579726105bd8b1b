"""Files, one of each: folders of the project and of the user, the atomic writer, the lock, JSON, the digest, messages
for users.

Standard library only: every other module may import this one.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

StrPath = str | Path

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent
"""The checkout; for an installed package the folder that it is installed in."""

# A wheel carries the repository's `data` as package data, inside the package (see setup.py).
DATA = PACKAGE / "data" if (PACKAGE / "data").is_dir() else ROOT / "data"
EMBEDDED_WEIGHTS = DATA / "tiny"
CALIBRATIONS = PACKAGE / "calibrate" / "calibrations"

_PIECE_BYTES = 1 << 20


class UserError(ValueError):
    """What a person gave cannot be used, told in one line: what is wrong, where, and what to do."""

    def __init__(self, message: str) -> None:
        # File names and other programs' words are part of it: none of their line breaks or terminal codes.
        super().__init__("".join(char if char.isprintable() else "?" for char in message))


def cache_folder() -> Path:
    """`HETCACHE_CACHE`, else XDG_CACHE_HOME/hetcache, else ~/.cache/hetcache; an empty variable counts as unset."""
    chosen = os.environ.get("HETCACHE_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "hetcache"


@contextmanager
def atomic_output(path: StrPath) -> Iterator[Path]:
    """Yield a temporary file beside `path`; it takes the place of `path` only if the block succeeds.

    The bytes are on the disk before the name is. On any failure, Ctrl-C included, the temporary file is
    removed and whatever was at `path` stays. A symbolic link is followed, not replaced.
    """
    target = Path(os.path.realpath(path))
    temporary = reserve(target)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, temporary)
        temporary.replace(target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(target.parent)


def reserve(path: Path) -> Path:
    """Create an empty file with a name of its own beside `path`, with the permissions of any new file."""
    temporary = path.with_name(f".{path.stem[:80]}.{secrets.token_hex(4)}.tmp{path.suffix}")
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    return temporary


def locked(path: Path) -> IO[bytes] | None:
    """The file of this name, made if need be, and locked until it is closed; None when another process holds it.

    The lock is the system's, so that it ends with the process, however that ends; a file that a killed process leaves
    behind is no lock. Who is done with the file may unlink it while it is still held.
    """
    while True:
        file = path.open("ab")
        try:
            _lock(file)
        except OSError:
            file.close()
            return None
        with suppress(OSError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()


def _lock(file: IO[bytes]) -> None:
    """Raises OSError when another process holds the lock."""
    try:
        import fcntl
    except ImportError:
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def sole_holder(lock: Path, refusal: str) -> Iterator[None]:
    """Hold the file `lock` for this process; UserError with `refusal` when another process does."""
    file = locked(lock)
    if file is None:
        raise UserError(refusal)
    try:
        yield
    finally:
        # While it is still held: whoever opened this file before sees that it is no longer the one of this name.
        with suppress(OSError):
            lock.unlink()
        file.close()


def write_text(path: StrPath, text: str) -> None:
    """Write UTF-8, whole or not at all. What a file's name holds of other bytes is written as its code."""
    with atomic_output(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: StrPath, value: Any, indent: int = 2) -> None:
    """Write `to_json(value)`, whole or not at all."""
    write_text(path, to_json(value, indent))


def to_json(value: Any, indent: int | None = 2) -> str:
    """Strict JSON of `json_value(value)`, with a line break at its end if it is indented."""
    text = json.dumps(json_value(value), indent=indent, allow_nan=False)
    return text if indent is None else text + "\n"


def json_value(value: Any) -> Any:
    """The value as strict JSON can hold it: infinities as the strings "inf" and "-inf", NaN ("there is no value") as
    null, keys and paths as text, sets sorted. Other types are left to `json.dumps`, which refuses what it cannot write.
    """
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return value if math.isfinite(value) else ("inf" if value > 0 else "-inf")
    if isinstance(value, Mapping):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return [json_value(item) for item in sorted(value)]
    return str(value) if isinstance(value, Path) else value


def digest(*parts: str | bytes | Path) -> str:
    """SHA-256, in hexadecimal, over the parts one after another: text as UTF-8, a file as its bytes, a folder as the
    names and bytes of all files in it."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path) and part.is_dir():
            for file in sorted(path for path in part.rglob("*") if path.is_file()):
                found.update(file.name.encode())
                _add_file(found, file)
        elif isinstance(part, Path):
            _add_file(found, part)
        else:
            found.update(part.encode() if isinstance(part, str) else part)
    return found.hexdigest()


def _add_file(found: hashlib._Hash, path: Path) -> None:
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE_BYTES):
            found.update(piece)


def _sync_folder(folder: Path) -> None:
    # Makes the new name itself durable; not every system lets a folder be opened.
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
