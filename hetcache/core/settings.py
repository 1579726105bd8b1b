"""`setting`: a field of an option or mode dataclass, which the command lines turn into a flag."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Callable
from dataclasses import Field, field, fields
from typing import Any

from hetcache.files import UserError


def setting(default: Any, help: str, **extra: Any) -> Any:
    """A dataclass field that becomes a flag of every command that takes the dataclass.

    `help` says what it does, without the default. Optional: `flag` is its name on the command line where that is not
    the field's; `choices` limits its values (a `Literal` type does too); `shown` is what `--help` gives as the default
    where the value says nothing, "" to say nothing; `metavar` names the value; `parser` reads it from its text and
    raises ValueError for what it cannot read; `repeat`: the flag of several values takes one and is given
    again for each.
    """
    return field(default=default, metadata={"help": help, **extra})


def flag_of(config: Any, name: str) -> str:
    """`--name` as typed. `config` is the dataclass or an instance."""
    item = next(item for item in fields(config) if item.name == name)
    return "--" + str(item.metadata.get("flag", name)).replace("_", "-")


def refused(config: Any, name: str, remedy: str) -> UserError:
    """The error for a field of the instance `config`: its flag, its value, and what it must be."""
    return UserError(f"{flag_of(config, name)} {getattr(config, name)}: {remedy}")


def kind_of(config: type, item: Field[Any]) -> tuple[Any, tuple[Any, ...] | None, bool]:
    """(type of one value, its choices or None, whether several values may be given) of a field."""
    kind, choices, several = typing.get_type_hints(config)[item.name], item.metadata.get("choices"), False
    if isinstance(kind, types.UnionType):
        kind = next(option for option in typing.get_args(kind) if option is not type(None))
    if typing.get_origin(kind) is tuple and Ellipsis in typing.get_args(kind):
        kind, several = typing.get_args(kind)[0], True
    if typing.get_origin(kind) is typing.Literal:
        choices = typing.get_args(kind)
        kind = type(choices[0])
    return kind, choices, several


def reader_of(config: type, item: Field[Any]) -> Callable[[str], Any]:
    """Reads one value of a field from its text; raises ValueError."""
    parser = item.metadata.get("parser")
    kind = kind_of(config, item)[0]
    return parser or (finite if kind is float else kind)


def finite(text: str) -> float:
    """A finite number. Raises ValueError."""
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number") from None
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is not a finite number")
    return value


def check_settings(config: Any) -> None:
    """Raises UserError, naming the flag, for a number that is not finite and for a value that is none of the field's
    choices. For `__post_init__`, so that every door is guarded: commands, benchmark and library."""
    for item in fields(config):
        value = getattr(config, item.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise refused(config, item.name, "not a finite number")
        choices = kind_of(type(config), item)[1]
        if choices is not None and value not in choices:
            raise UserError(f"{flag_of(config, item.name)} must be {' or '.join(map(str, choices))}, not {value!r}")
