"""What the metrics raise when the user has to do something; each message says what."""

from __future__ import annotations

import importlib
from types import ModuleType

from hetcache.files import UserError


class MetricError(UserError):
    """An input that cannot be measured: the message is one line that names the remedy."""


class MissingDependencyError(MetricError):
    """An optional package is not installed: the message holds the pip command that brings it."""


def optional_import(module: str, package: str, purpose: str) -> ModuleType:
    """Import `module`, or raise MissingDependencyError with the command that installs `package`."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"{purpose} needs {module.partition('.')[0]} ({error}): run `pip install {package}`"
        ) from error
