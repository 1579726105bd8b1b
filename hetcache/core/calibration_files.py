"""Where a model's calibration lies, and the tables of errors beside it."""

from __future__ import annotations

from pathlib import Path

from hetcache.files import CALIBRATIONS, digest


def calibration_file(model_id: str, model: str | None = None) -> Path:
    """Where the calibration of `model_id` lies: beside the weights where `model`, the model as it was asked for, is a
    folder that holds one, else in the package."""
    beside = own_calibration_file(model_id, model or model_id)
    return beside if beside.is_file() else CALIBRATIONS / beside.name


def own_calibration_file(model_id: str, model: str) -> Path:
    """Where a new calibration of the model is written: into its folder, for a model of the package into the package."""
    home = Path(model) if model != model_id and Path(model).is_dir() else CALIBRATIONS
    return home / f"{model_id}.json"


def calibration_digest(model_id: str, model: str | None = None) -> str:
    """A hash of the model's calibration file and of the tables of errors beside it, empty without one."""
    file = calibration_file(model_id, model)
    if not file.is_file():
        return ""
    tables = [*path_files(file), *file.parent.glob(f"{file.stem}.errors.safetensors")]
    parts = [digest(part)[:16] for part in (file, *tables)]
    return parts[0] if len(parts) == 1 else digest(*parts)[:16]


def path_files(file: Path) -> tuple[Path, ...]:
    """The tables of path errors that lie beside a calibration file."""
    return tuple(sorted(file.parent.glob(f"{file.stem}.dpcache-*.safetensors")))


def path_file(file: Path, num_steps: int, sigma_shift: float) -> Path:
    """Where the table of one schedule is written, beside the calibration file."""
    return file.with_name(f"{file.stem}.dpcache-{num_steps}-{sigma_shift:g}.safetensors")
