"""`setting`: a field of a mode's config dataclass, which the command line turns into a flag."""

from __future__ import annotations

from dataclasses import field, fields
from typing import Any


def setting(default: Any, help: str, **extra: Any) -> Any:
    """A config field that becomes a CLI flag.

    `choices` limits its values; `shown` is what `--help` gives as the default where the value says nothing.
    """
    return field(default=default, metadata={"help": help, **extra})


def check_choices(config: Any) -> None:
    """Raises ValueError, naming the flag and its values, for a field that is none of its `choices`."""
    for item in fields(config):
        choices = item.metadata.get("choices")
        value = getattr(config, item.name)
        if choices is not None and value not in choices:
            flag = item.name.replace("_", "-")
            raise ValueError(f"--{flag} must be {' or '.join(choices)}, not {value!r}")
