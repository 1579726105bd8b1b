"""What a command tells a person: on standard output, which may be closed or know few characters."""

from __future__ import annotations

import os
import sys


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


def take_any_character() -> None:
    """A prompt or a file's name may hold what the locale cannot show: then its code is shown."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
