"""Start a module of this repository from any folder, in the place of the script that asks for it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent


def through(module: str) -> NoReturn:
    """Become `python -m MODULE` with the flags of this command, with the repository where Python looks first."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    os.execve(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], {**os.environ, "PYTHONPATH": path})
