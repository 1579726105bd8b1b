"""Where the project's own files lie: one place for every folder."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent
DATA = ROOT / "data"
EMBEDDED_WEIGHTS = DATA / "tiny"
CALIBRATIONS = PACKAGE / "calibrate" / "calibrations"
