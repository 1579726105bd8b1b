"""Toy models in folders of their own."""

import json
from pathlib import Path

from hetcache.files import CALIBRATIONS


def lend_calibration(folder: Path) -> None:
    """The embedded model's calibration, without a word about its weights: a toy of random weights needs one of any
    values, not a true one."""
    values = json.loads((CALIBRATIONS / "tiny.json").read_text())
    for name in ("weights", "fastcache"):
        values.pop(name, None)
    (folder / "tiny.json").write_text(json.dumps(values))
