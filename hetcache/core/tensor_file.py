"""A file of measured tables: tensors as safetensors, facts about them in its metadata. numpy alone, because plans are
made without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray


def read_tensor_file(path: Path) -> tuple[dict[str, str], dict[str, NDArray[Any]]]:
    """(metadata, tensors by name). Raises OSError, and ValueError for what is no such file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, TypeError) as error:
        # numpy knows no bfloat16, which no table is written in.
        raise ValueError(str(error)) from error
