"""Calibrations by model id: how a model's static signal maps to the change of its output.

Files are versioned JSON in `hetcache/calibrations/` (published figures and the embedded model's) or any path a
user gives; a model without one is an error that names the command that makes it, never a silent stand-in.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hetcache.drift import Rescale

SCHEMA = 1
FOLDER = Path(__file__).parent / "calibrations"


class CalibrationError(ValueError):
    """No calibration, or a file that is not one."""


@dataclass(frozen=True)
class Calibration:
    """`teacache` maps a static signal (`e0`, `e`) to its rescaling; `raw` is the whole file."""

    model: str
    source: str
    teacache: dict[str, Rescale] = field(default_factory=dict)
    raw: dict[str, Any] = field(default_factory=dict)

    def rescale(self, signal: str) -> Rescale:
        """Raises CalibrationError when this model was not calibrated for the signal."""
        if signal not in self.teacache:
            raise CalibrationError(
                f"model {self.model!r} has no calibration for signal {signal!r}: "
                f"run python scripts/calibrate.py --model {self.model}"
            )
        return self.teacache[signal]


def load_calibration(model_id: str, path: Path | None = None) -> Calibration:
    """The calibration of `model_id`, from `path` or from the package. Raises CalibrationError."""
    file = path or FOLDER / f"{model_id}.json"
    if not file.is_file():
        raise CalibrationError(
            f"no calibration for model {model_id!r} ({file.name} not found): "
            f"run python scripts/calibrate.py --model {model_id}"
        )
    try:
        data = json.loads(file.read_text())
        schema, model = data["schema"], data["model"]
        rescales = {
            name: Rescale(
                tuple(float(c) for c in entry["coefficients"]),
                entry.get("space", "linear"),
                tuple(entry["domain"]) if "domain" in entry else None,
            )
            for name, entry in data.get("teacache", {}).items()
        }
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise CalibrationError(f"{file} is not a calibration file: {error}") from error
    if schema != SCHEMA:
        raise CalibrationError(f"{file} has calibration schema {schema}; this version reads {SCHEMA}")
    if model != model_id:
        raise CalibrationError(f"{file} was made for model {model!r}, not for {model_id!r}")
    return Calibration(model, str(data.get("source", "")), rescales, data)
