"""What a command tells a person: on standard output, which may be closed or know few characters."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def say(text: str) -> None:
    """One message on standard output. When nobody reads it any more (`| head -1`), the run goes on without."""
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # What is still buffered goes nowhere too, or the interpreter would complain at its end.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def complain(text: str) -> None:
    """One message on standard error."""
    sys.stderr.write(f"{text}\n")


@contextmanager
def meanwhile(text: str) -> Iterator[None]:
    """Say on a terminal what takes long now; when it is over the line is gone. Files and pipes get nothing of it."""
    shown = sys.stderr.isatty()
    if shown:
        sys.stderr.write(f"  {text} ...")
        sys.stderr.flush()
    try:
        yield
    finally:
        if shown:
            sys.stderr.write(f"\r{' ' * (len(text) + 6)}\r")
            sys.stderr.flush()


def take_any_character() -> None:
    """A prompt or a file's name may hold what the locale cannot show: then its code is shown."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
