"""What a benchmark compares: modes with their settings, and the uncached model at fewer steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from hetcache.core.mode import Mode
from hetcache.core.settings import finite, kind_of, reader_of
from hetcache.modes import MODES

STEPS = "steps"
EXACT = "exact"
BASELINE = "baseline"
EXACT_MODE = "hetcache"
"""The mode whose steps can be planned exactly."""


@dataclass(frozen=True)
class Method:
    """One row of the table; `name` is what `parse_method` reads. `settings` are the config fields that were set by
    hand; `num_steps` None means the benchmark's; `matches` names the method whose FLOPs decide `num_steps` (see
    `match_steps`). `exact` is the speed-up for which the steps are planned exactly, in each run for itself."""

    name: str
    mode: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    num_steps: int | None = None
    matches: str | None = None
    exact: float | None = None

    def config(self, modes: Mapping[str, Mode] = MODES) -> Any:
        """The mode's config. Raises ValueError for settings that it refuses."""
        mode = modes[self.mode]
        return mode.config(**{**dict(mode.defaults), **self.settings})

    def setting(self, modes: Mapping[str, Mode] = MODES) -> str:
        """What differs from the defaults of the mode's config, for a person."""
        if self.num_steps is not None:
            return f"{self.num_steps} steps"
        if self.exact is not None:
            return f"the exact plan for {self.exact:g}x"
        values = {**dict(modes[self.mode].defaults), **self.settings}
        shown = ", ".join(f"{name.replace('_', ' ')} {_shown(value)}" for name, value in values.items())
        outside = modes[self.mode].outside(self.config(modes))
        return f"{shown} (outside the authors' range: {outside})" if outside else shown

    def flags(self) -> list[str]:
        """The flags of `inference.py` that this method adds."""
        words = ["--mode", self.mode]
        if self.exact is not None:
            words += ["--target-speedup", f"{self.exact:g}", "--planner", "exact"]
        for name, value in self.settings.items():
            flag = name.replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{flag}" if value else f"--no-{flag}")
            else:
                words += [f"--{flag}", str(value)]
        return words


def default_methods(modes: Mapping[str, Mode] = MODES) -> list[Method]:
    """Every registered mode but the compositions and presets that change nothing (TeaCache's slow one is its default),
    and the uncached model at the steps that the fastest HetCache preset's FLOPs pay for."""
    configs: dict[str, Any] = {}
    for name in modes:
        config = Method(name, name).config(modes)
        if not name.endswith("_teacache") and config not in configs.values():
            configs[name] = config
    names = list(configs)
    methods = [Method(name, name) for name in names]
    target = "hetcache_fast" if "hetcache_fast" in names else "hetcache"
    if target in names:
        methods.append(parse_method(f"{STEPS}:{target}", modes))
    return methods


def parse_method(text: str, modes: Mapping[str, Mode] = MODES) -> Method:
    """`MODE`, `MODE:field=value,field=value`, `steps:K`, `steps:METHOD` or `exact:X`. Raises ValueError with the
    remedy."""
    name, _, rest = text.partition(":")
    if name == STEPS:
        if rest.isdigit() and int(rest) > 0:
            return Method(text, BASELINE, num_steps=int(rest))
        if not rest or rest.partition(":")[0] not in modes:
            raise ValueError(f"--modes {text}: give a number of steps or a method, such as steps:25, steps:hetcache")
        return Method(text, BASELINE, matches=rest)
    if name == EXACT:
        return Method(text, EXACT_MODE, exact=_speedup(text, rest))
    if name not in modes:
        raise ValueError(f"--modes {text}: unknown mode {name!r}, choose from {', '.join(modes)}, steps:K or exact:X")
    settings = dict(_assignment(pair, modes[name]) for pair in rest.split(",") if pair)
    method = Method(text, name, settings)
    method.config(modes)
    return method


def parse_methods(texts: list[str], modes: Mapping[str, Mode] = MODES) -> list[Method]:
    """Methods in order, the baseline first (every ratio is taken against it) and each once. `default` stands for
    `default_methods`, `all` for every registered mode."""
    methods = [Method(BASELINE, BASELINE)]
    for text in texts:
        if text == "default":
            found = default_methods(modes)
        elif text == "all":
            found = [Method(name, name) for name in modes]
        else:
            found = [parse_method(text, modes)]
        methods += [method for method in found if method.name not in {known.name for known in methods}]
    names = {method.name for method in methods}
    for method in methods:
        if method.matches is not None and method.matches not in names:
            raise ValueError(f"--modes steps:{method.matches}: {method.matches} is not among the methods, add it")
    # A matched number of steps is known only after its method has run.
    return sorted(methods, key=lambda method: method.matches is not None)


def match_steps(method: Method, num_steps: int, flops_ratio: float) -> Method:
    """The method with the number of full steps that cost no less than a run of 1 / `flops_ratio` of the work.

    FLOPs and not seconds: the number must not depend on the machine's mood, or a resumed run would differ."""
    return replace(method, num_steps=max(1, math.ceil(num_steps / flops_ratio - 1e-9)))


def _speedup(text: str, number: str) -> float:
    try:
        speedup = finite(number)
    except ValueError:
        speedup = 0.0
    if speedup < 1:
        raise ValueError(f"--modes {text}: give the speed-up that is planned for, at least 1, such as exact:5")
    return speedup


def _assignment(pair: str, mode: Mode) -> tuple[str, Any]:
    name, equals, text = pair.partition("=")
    name = name.strip().replace("-", "_")
    known = [item.name for item in fields(mode.config)]
    if not equals or name not in known:
        raise ValueError(f"--modes {mode.name}:{pair}: settings are {', '.join(known) or 'none'}, as name=value")
    item = next(item for item in fields(mode.config) if item.name == name)
    kind = kind_of(mode.config, item)[0]
    if kind is bool:
        if text not in ("on", "off", "true", "false"):
            raise ValueError(f"--modes {mode.name}:{pair}: {name} is on or off")
        return name, text in ("on", "true")
    try:
        return name, reader_of(mode.config, item)(text)
    except ValueError as error:
        number = "; give a finite number" if kind is float else ""
        raise ValueError(f"--modes {mode.name}:{pair}: {text!r} is not {kind.__name__}{number}") from error


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)
