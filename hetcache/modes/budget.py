"""The memory budget of a cache: what a mode gives up, in its own order, before it keeps more than it may."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from hetcache.core.flops import ModelShape
from hetcache.core.mode import Mode
from hetcache.files import UserError

GIB = 2**30


def fit_to_budget(
    mode: Mode,
    config: Any,
    budget_gib: float,
    shape: ModelShape,
    num_tokens: int,
    bytes_per_value: int,
    num_branches: int,
    unasked: str = "",
) -> tuple[Any, list[str]]:
    """(config, what was given up and why) such that all branches together keep at most `budget_gib`. `unasked` is what
    the budget comes from where nobody gave `--cache-budget-gib`.

    A mode that cannot do with less memory is returned as it is: the session stops it when it passes the budget.
    Raises ValueError when even the last resort needs more.
    """
    if mode.cache_bytes is None:
        return config, []

    def needed_gib(candidate: Any) -> float:
        assert mode.cache_bytes is not None
        return num_branches * mode.cache_bytes(candidate, shape, num_tokens, bytes_per_value) / GIB

    limit = f"{unasked}, {budget_gib:.4g} GiB" if unasked else f"--cache-budget-gib {budget_gib:g}"
    reasons: list[str] = []
    for given_up, smaller in mode.lighter(config):
        needed = needed_gib(config)
        if needed <= budget_gib:
            return config, reasons
        if smaller != config:
            reasons.append(f"{given_up} ({needed:.4g} GiB would be over {limit})")
            config = smaller
    needed = needed_gib(config)
    if needed > budget_gib:
        raise ValueError(
            f"{limit}: --mode {mode.name} keeps {needed:.4g} GiB here at the least; give "
            f"{'--cache-budget-gib' if unasked else 'it'} that much, or use fewer --frames or a smaller "
            "--height and --width"
        )
    return config, reasons


def as_before(mode: Mode, config: Any, settings: Mapping[str, Any]) -> Any:
    """The config, or what it can give up, that a record's `settings` are of: they may differ in nothing that a budget
    changes. Raises UserError where none is."""
    candidates = [config, *(smaller for _, smaller in mode.lighter(config))]
    facts = [asdict(candidate) for candidate in candidates]
    names = [name for name, value in facts[0].items() if any(other[name] != value for other in facts)]
    for candidate, values in zip(candidates, facts, strict=True):
        if all(name in settings and settings[name] == values[name] for name in names):
            return candidate
    raise UserError(
        f"--resume: the finished windows have other settings of {', '.join(names)} than --mode {mode.name} would take "
        "now: delete their folder to start over"
    )
