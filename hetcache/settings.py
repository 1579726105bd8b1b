"""`setting`: a field of a mode's config dataclass, which the command line turns into a flag."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def setting(default: Any, help: str, **extra: Any) -> Any:
    """A config field that becomes a CLI flag; `choices` limits its values."""
    return field(default=default, metadata={"help": help, **extra})
