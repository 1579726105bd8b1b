"""Command lines from option dataclasses: a field is a flag. `add_settings` for groups, `parse` for `inference.py`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from typing import Any, NoReturn, TypeVar

from hetcache.core.mode import Mode
from hetcache.core.options import EditSettings, Memory, Sampling, Speed, VramOptions
from hetcache.core.settings import flag_of, kind_of, reader_of
from hetcache.files import UserError
from hetcache.media.options import InputOptions
from hetcache.models.options import ModelOptions
from hetcache.modes import MODES
from hetcache.run.options import Files, Length, Output, Request, Size, Task, started_by
from hetcache.run.wish import WISHES, Planning

EPILOG = """examples:
  COMMAND --mode hetcache
  COMMAND --mode hetcache --compare
  COMMAND --mode hetcache --video clip.mp4 --mask mask.mp4 --frames 33 --steps 50 --cache-thresh 0.05
  COMMAND --mode hetcache --video long.mp4 --mask mask.mp4 --frames all --output long_edit.mp4
  COMMAND --mode hetcache --video clip.mp4 --outpaint 64,0,64,0
  COMMAND --mode baseline --steps 25 --output half.mp4
  COMMAND batch jobs.csv --out edits --gpus 8        (batch --help)
"""
GROUPS: tuple[tuple[str, tuple[type, ...]], ...] = (
    ("input", (Files, Task, Length, InputOptions)),
    ("model", (ModelOptions, Size)),
    ("sampling", (Sampling,)),
    ("speed", (Speed,)),
    ("memory", (Memory, VramOptions)),
    ("output", (Output,)),
)
Values = Mapping[str, Any]
T = TypeVar("T")


class UsageError(UserError):
    """A command line that cannot be run, with the remedy in its message."""


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line: the usage of all modes' flags would bury it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (--help explains the flags)\n")


class RaisingParser(OneLineParser):
    """For command lines that a program wrote: what is wrong with one is the program's to tell."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def build_parser(
    modes: Mapping[str, Mode] = MODES, kind: type[OneLineParser] = OneLineParser, program: str = "inference.py"
) -> OneLineParser:
    parser = kind(
        program,
        usage=f"{program} [--mode MODE] [--video VIDEO --mask MASK] [flags below]",
        description="Fill the masked part of a video with Wan2.1-VACE, with or without caching.",
        epilog=EPILOG.replace("COMMAND", " ".join(started_by(program))),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--mode", default="hetcache", metavar="MODE", help=f"how to compute (default hetcache): {', '.join(modes)}"
    )
    for title, configs in GROUPS:
        group = parser.add_argument_group(title)
        for config in configs:
            add_settings(group, config)
    _add_mode_flags(parser, modes)
    return parser


def parse(
    argv: Sequence[str] | None = None,
    modes: Mapping[str, Mode] = MODES,
    kind: type[OneLineParser] = OneLineParser,
    program: str = "inference.py",
) -> Request:
    """Raises UsageError for an unknown mode, a flag of another mode or a bad value; argparse itself exits with code 2
    for what it can tell alone, unless `kind` is RaisingParser."""
    given = vars(build_parser(modes, kind, program).parse_args(argv))
    mode = modes.get(given["mode"])
    if mode is None:
        raise UsageError(f"unknown --mode {given['mode']!r}: choose from {', '.join(modes)}")
    try:
        return Request(
            mode,
            mode_config(given, mode, modes),
            files=take(Files, given),
            length=take(Length, given),
            task=take(Task, given),
            input=take(InputOptions, given),
            model=take(ModelOptions, given),
            size=take(Size, given),
            edit=take(EditSettings, given),
            vram=take(VramOptions, given),
            output=take(Output, given),
            words=tuple(argv or ()),
            program=program,
        )
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from error


def mode_config(given: Values, mode: Mode, modes: Mapping[str, Mode] = MODES) -> Any:
    """The mode's config from the flags that were given. Raises UsageError."""
    own = {field.name for field in fields(mode.config)}
    for owned in {field.name: other.config for other in modes.values() for field in fields(other.config)}.items():
        name, config = owned
        if name in given and name not in own:
            owners = [other.name for other in modes.values() if name in {f.name for f in fields(other.config)}]
            raise UsageError(
                f"{flag_of(config, name)} is a setting of --mode {' or '.join(owners)}, not of {mode.name}"
            )
    try:
        config = take(mode.config, {**dict(mode.defaults), **given})
    except ValueError as error:
        raise UsageError(str(error)) from error
    dial = mode.dial_of(config)
    for wish in WISHES:
        if dial is not None and dial.field in given and given.get(wish) is not None:
            both = f"{flag_of(config, dial.field)} and {flag_of(Planning, wish)}"
            raise UsageError(f"{both} both decide the plan: give one")
    return config


def take(config: type[T], given: Values) -> T:
    """An option or mode dataclass from the values that were given. Raises ValueError as its `__post_init__` does."""
    names = {item.name for item in fields(config)}  # type: ignore[arg-type]
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    return config(**{name: value for name, value in values.items() if name in names})


def words_of(config: Any, leave_out: Collection[str] = (), own: Any = None) -> list[str]:
    """The flags that make an instance of an option dataclass: those that differ from its defaults, or from those of
    `own`, another instance."""
    words: list[str] = []
    for item in fields(config):
        value = getattr(config, item.name)
        default = item.default if own is None else getattr(own, item.name)
        if value == default or item.name in leave_out:
            continue
        flag = flag_of(config, item.name)
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        else:
            joint = item.metadata.get("joint", ",")
            text = joint.join(map(str, value)) if isinstance(value, tuple) else str(value)
            # A value that looks like a flag must stick to its own.
            words += [f"{flag}={text}"] if text.startswith("-") else [flag, text]
    return words


def words_of_request(request: Request) -> list[str]:
    """The words that `parse` makes this request of, the mode always among them: the command line to type for it."""
    own = mode_config({}, request.mode)
    words = ["--mode", request.mode.name, *words_of(request.files), *words_of(request.task)]
    words += words_of(request.config, own=own)
    for config in (request.length, request.input, request.model, request.size, request.edit, request.vram):
        words += words_of(config)
    return words + words_of(request.output)


def add_settings(
    group: Any, config: type, leave_out: Collection[str] = (), shown: Mapping[str, str] | None = None
) -> None:
    """One flag a field of an option or mode dataclass. A flag that is not given is absent from the parsed values, so
    that the dataclass's own default holds; `shown` replaces the default that `--help` names where a command has one of
    its own."""
    for item in fields(config):
        if item.name not in leave_out:
            _add_field(group, config, item, (shown or {}).get(item.name))


def _add_field(group: Any, config: type, item: Field[Any], shown: str | None) -> None:
    flag = flag_of(config, item.name)
    kind, choices, several = kind_of(config, item)
    default = _default(item) if shown is None else f": {shown}"
    text = (item.metadata["help"] + (f" (default{default})" if default else "")).replace("%", "%%")
    common: dict[str, Any] = {"dest": item.name, "default": argparse.SUPPRESS}
    if kind is bool and item.default:
        group.add_argument(flag, action=argparse.BooleanOptionalAction, help=text, **common)
        return
    if kind is bool:
        # Its opposite is understood, for commands made by programs, but says nothing to a person.
        group.add_argument(flag, action="store_true", help=text, **common)
        opposite = flag.replace("--", "--no-", 1)
        group.add_argument(opposite, action="store_false", help=argparse.SUPPRESS, **common)
        return
    metavar = item.metadata.get("metavar")
    if metavar is None and not choices:
        metavar = kind.__name__.upper() if kind in (int, float) else flag.strip("-").replace("-", "_").upper()
    group.add_argument(
        flag,
        type=_reader(reader_of(config, item)),
        choices=choices,
        metavar=metavar,
        nargs="+" if several and not item.metadata.get("repeat") else None,
        action="append" if item.metadata.get("repeat") else "store",
        help=text,
        **common,
    )


def _reader(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """The reader for argparse, which shows the message of its own error class alone."""
    if isinstance(read, type):
        return read

    def reader(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return reader


def _default(item: Field[Any]) -> str:
    """What follows the word default in a flag's help; "" says nothing."""
    if "shown" in item.metadata:
        return f": {item.metadata['shown']}" if item.metadata["shown"] else ""
    default = item.default
    if default is MISSING or default is None:
        return ": by model"
    if isinstance(default, bool):
        return " on" if default else ""
    return f" {default:g}" if isinstance(default, float) else f" {default}"


def _add_mode_flags(parser: argparse.ArgumentParser, modes: Mapping[str, Mode]) -> None:
    """One group per mode. A flag that several modes share is added with the first and named by the others."""
    seen: set[str] = set()
    for mode in modes.values():
        if mode.defaults or not fields(mode.config):
            continue
        shared = [item for item in fields(mode.config) if item.name in seen]
        description = mode.title + (f" ({mode.paper})" if mode.paper else "")
        if shared:
            also = ", ".join(
                f"{flag_of(mode.config, item.name)} (default{_default(item) or ' off'})" for item in shared
            )
            description += f". Also takes {also}"
        group = parser.add_argument_group(f"--mode {mode.name}", description)
        add_settings(group, mode.config, leave_out=seen)
        seen |= {item.name for item in fields(mode.config)}
