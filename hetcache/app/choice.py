"""What is chosen on the page becomes a `Request` as the command line would make it, and the command line itself."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from hetcache.cli import RaisingParser, parse, words_of_request
from hetcache.core.options import Memory, Sampling, Speed, VramOptions
from hetcache.core.settings import flag_of, kind_of
from hetcache.media.options import InputOptions
from hetcache.media.sizes import largest_4k_plus_1
from hetcache.models import MODELS, choose_model, model_info
from hetcache.models.options import ModelOptions
from hetcache.modes import MODES
from hetcache.run.options import Length, Output, Request, Size

SPEEDS = {
    "Exact: every step in full": "baseline",
    "Careful": "hetcache_slow",
    "Balanced": "hetcache",
    "Fast": "hetcache_fast",
}
OWN_SPEED = "As the slider says"
DEFAULT_SPEED = "Balanced"
REMOVE, DESCRIBE = "Remove it", "Put something else there"
ADVANCED: tuple[tuple[str, type], ...] = (
    ("Model", ModelOptions),
    ("Size", Size),
    ("Length", Length),
    ("Sampling", Sampling),
    ("Input and mask", InputOptions),
    ("Speed of a step", Speed),
    ("Memory", Memory),
    ("Video memory", VramOptions),
    ("Output", Output),
    ("HetCache", MODES["hetcache"].config),
)
"""The groups of advanced settings: the very dataclasses of the command line."""

NOT_HERE = {
    "prompt": "asked above",
    "frames": "asked above",
    "target_speedup": "the slider",
    "revision": "fetches what the server's owner did not choose",
    "huggingface": "the same",
    "output": "the job's own folder",
    "resume": "the queue's affair",
    "plan": "shown above",
    "report": "always made where it can be",
    "debug": "for the terminal",
    "parallel": "needs torchrun",
    "parallel_timeout": "the same",
}
"""Settings that the page does not offer, and why."""


@dataclass(frozen=True)
class Choice:
    """What is on screen. `extras` are advanced settings by flag: True and False for switches, else text; what is at its
    default is absent."""

    what: str = REMOVE
    prompt: str = ""
    speed: str = DEFAULT_SPEED
    speedup: float = 1.0
    whole: bool = False
    extras: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Setting:
    """One advanced setting. `kind` is bool, str, int or float, `choices` its values or None."""

    flag: str
    help: str
    kind: Any
    choices: tuple[Any, ...] | None
    default: Any
    shown: str


def advanced() -> list[tuple[str, list[Setting]]]:
    """The groups of settings with what is offered of each."""
    groups = []
    for title, config in ADVANCED:
        offered = [_setting(config, item) for item in fields(config) if item.name not in NOT_HERE]
        groups.append((title, offered))
    return groups


def _setting(config: type, item: Field[Any]) -> Setting:
    kind, choices, _ = kind_of(config, item)
    if item.name == "model":
        # A folder of the server is not for a browser to name.
        choices = ("auto", *MODELS)
    shown = item.metadata.get("shown") or ("" if item.default is None else str(item.default))
    return Setting(flag_of(config, item.name), item.metadata["help"], kind, choices, item.default, shown)


def request_of(choice: Choice, clip: Path | None, mask: Path, num_frames: int) -> Request:
    """What the command line would be given for this choice. `clip` None is the example. Raises ValueError as the
    command line does."""
    own = {setting.flag: setting for _, group in advanced() for setting in group}
    extras: dict[str, Any] = {}
    for flag, value in choice.extras.items():
        choices = own[flag].choices if flag in own else ()
        if choices is not None and value not in choices:
            raise ValueError(f"{flag} {value}: is not offered on this page")
        extras[flag] = value
    mode = SPEEDS.get(choice.speed, "hetcache")
    words = [] if clip is None else ["--video", str(clip)]
    words += ["--mask", str(mask), "--mode", mode]
    if choice.what == REMOVE:
        words += ["--task", "remove"]
    for flag, value in extras.items():
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        else:
            words.append(f"{flag}={value}")
    if choice.what == DESCRIBE and choice.prompt.strip():
        words.append(f"--prompt={choice.prompt.strip()}")
    if choice.speed == OWN_SPEED:
        words.append(f"--target-speedup={choice.speedup:g}")
    window = window_of(str(extras.get("--model", "auto")))
    frames = "all" if choice.whole else str(first_frames(num_frames, window))
    words += ["--frames", frames]
    if (not choice.whole or num_frames <= window) and not {"--window", "--overlap"} & set(extras):
        words.append("--report")
    request = parse(words, kind=RaisingParser)
    return parse(words_of_request(request), kind=RaisingParser)


def first_frames(num_frames: int, window: int) -> int:
    """How many frames one window of the model takes of a clip."""
    return largest_4k_plus_1(min(num_frames, window))


def window_of(model: str) -> int:
    """Frames that a model sees at once."""
    import torch

    return model_info(choose_model(model, torch.cuda.is_available())[0]).window


def command_line(request: Request) -> str:
    """What to type for this request."""
    return shlex.join(["python", "inference.py", *words_of_request(request)])
