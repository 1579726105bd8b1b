"""The command line of `inference.py`: the paper's flags, one argument group per mode made from its config."""

from __future__ import annotations

import argparse
import types
import typing
from dataclasses import MISSING, Field, fields
from typing import Any, NoReturn

from hetcache.cli_flags import add_input_flags, add_model_flags, add_output_flags, finite
from hetcache.core.mode import Mode
from hetcache.files import DATA, UserError
from hetcache.modes import MODES

EPILOG = """examples:
  python inference.py --mode hetcache
  python inference.py --mode hetcache --compare
  python inference.py --mode hetcache --video clip.mp4 --mask mask.mp4 --frames 33 --steps 50 --cache-thresh 0.05
  python inference.py --mode hetcache --video long.mp4 --mask mask.mp4 --frames all --output long_edit.mp4
  python inference.py --mode hetcache --video clip.mp4 --outpaint 64,0,64,0
  python inference.py --mode baseline --steps 25 --output half.mp4
"""


class UsageError(UserError):
    """A command line that cannot be run, with the remedy in its message."""


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line: the usage of all modes' flags would bury it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (--help explains the flags)\n")


def build_parser(modes: dict[str, Mode] = MODES) -> argparse.ArgumentParser:
    parser = OneLineParser(
        "inference.py",
        usage="inference.py [--mode MODE] [--video VIDEO --mask MASK] [flags below]",
        description="Fill the masked part of a video with Wan2.1-VACE, with or without caching.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--mode", default="hetcache", metavar="MODE", help=f"how to compute (default hetcache): {', '.join(modes)}"
    )
    add_input_flags(parser)
    add_model_flags(parser)
    add_output_flags(parser)
    _add_mode_flags(parser, modes)
    return parser


def parse(argv: list[str] | None = None, modes: dict[str, Mode] = MODES) -> tuple[argparse.Namespace, Any]:
    """(arguments, mode config). Raises UsageError for an unknown mode, a flag of another mode or a bad value;
    argparse itself exits with code 2 for what it can tell alone."""
    args = build_parser(modes).parse_args(argv)
    if args.video is None:
        args.video = DATA / "real.mp4"
        if args.mask is None and args.outpaint is None:
            args.mask = DATA / "masks.mp4"
    mode = modes.get(args.mode)
    if mode is None:
        raise UsageError(f"unknown --mode {args.mode!r}: choose from {', '.join(modes)}")
    return args, mode_config(args, mode, modes)


def mode_config(args: argparse.Namespace, mode: Mode, modes: dict[str, Mode] = MODES) -> Any:
    """The mode's config from the flags that were given. Raises UsageError."""
    own = {field.name for field in fields(mode.config)}
    every = {field.name for other in modes.values() for field in fields(other.config)}
    given = {name: value for name, value in vars(args).items() if name in every}
    for name in given:
        if name not in own:
            owners = [other.name for other in modes.values() if name in {f.name for f in fields(other.config)}]
            raise UsageError(f"{flag(name)} is a setting of --mode {' or '.join(owners)}, not of {mode.name}")
    try:
        return mode.config(**{**dict(mode.defaults), **given})
    except ValueError as error:
        raise UsageError(str(error)) from error


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _add_mode_flags(parser: argparse.ArgumentParser, modes: dict[str, Mode]) -> None:
    """One group per mode. A flag that several modes share is added with the first and named by the others."""
    seen: dict[str, str] = {}
    for mode in modes.values():
        if mode.defaults or not fields(mode.config):
            continue
        shared = [f for f in fields(mode.config) if f.name in seen]
        description = mode.title + (f" ({mode.paper})" if mode.paper else "")
        if shared:
            also = ", ".join(f"{flag(f.name)} (default {_shown(f)})" for f in shared)
            description += f". Also takes {also}"
        group = parser.add_argument_group(f"--mode {mode.name}", description)
        for field in fields(mode.config):
            if field.name not in seen:
                seen[field.name] = mode.name
                _add_field(group, mode.config, field)


def _add_field(group: Any, config: type, field: Field[Any]) -> None:
    kind = typing.get_type_hints(config)[field.name]
    text = f"{field.metadata['help']} (default {_shown(field)})".replace("%", "%%")
    if kind is bool:
        group.add_argument(
            flag(field.name), action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text
        )
        return
    if isinstance(kind, types.UnionType):
        kind = next(option for option in typing.get_args(kind) if option is not type(None))
    choices = field.metadata.get("choices")
    group.add_argument(
        flag(field.name),
        type=finite if kind is float else kind,
        choices=choices,
        default=argparse.SUPPRESS,
        help=text,
        metavar=None if choices else kind.__name__.upper(),
    )


def _shown(field: Field[Any]) -> str:
    if "shown" in field.metadata:
        return str(field.metadata["shown"])
    default = field.default
    if default is MISSING or default is None:
        return "by model"
    if isinstance(default, bool):
        return "on" if default else "off"
    return str(default)
