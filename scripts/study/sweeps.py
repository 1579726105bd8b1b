"""Which settings of which method make its curve: its dial from about 1.9x to beyond 12x, where it goes so far.

Found once with `--plan --target-speedup` for methods with a plan, else by trying, on the example; never by looking at
quality. A curve is written as its methods, in the benchmark's words (`hetcache.benchmark.methods`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from hetcache.benchmark.methods import Method, parse_method
from hetcache.core.mode import Mode
from hetcache.modes import MODES

DUAL = "decision_rule=dual,max_partial_run=8,last_full=on,sigma_weight=0"
NOISE = "decision_rule=forecast,max_partial_run=50,last_full=off,sigma_weight=0.75"
"""HetCache's rule before it looked at what is left to do."""


@dataclass(frozen=True)
class Sweep:
    """`words` are the points of the curve `name`; `note` says what a reader has to know of them."""

    name: str
    words: tuple[str, ...]
    note: str = ""

    def from_point(self, number: int) -> Sweep:
        """Without the points before that one (from 1), where enough are left for a curve."""
        return replace(self, words=self.words[number - 1 :]) if len(self.words) - number >= 3 else self

    def methods(self, modes: Mapping[str, Mode] = MODES) -> list[Method]:
        return [parse_method(word, modes) for word in self.words]


def dial(name: str, mode: str, field: str, values: Iterable[object], fixed: str = "", note: str = "") -> Sweep:
    """The curve of one setting; `fixed` are others, as `name=value,`."""
    return Sweep(name, tuple(f"{mode}:{fixed}{field}={value}" for value in values), note)


SWEEPS = (
    Sweep("steps", tuple(f"steps:{count}" for count in (26, 17, 10, 6, 4)), "no cache, fewer steps"),
    dial("teacache", "teacache", "cache_thresh", (0.028, 0.05, 0.096, 0.2, 0.45)),
    dial(
        *("magcache", "magcache", "magcache_thresh", (0.0224, 0.07, 0.2, 0.6, 2.0)),
        "magcache_max_skips=40,magcache_retention=0.04,",
        "beyond about 3x outside the range that its authors use (K 40 and R 0.04 instead of 3 and 0.2)",
    ),
    dial(
        *("easycache", "easycache", "easycache_thresh", (0.01, 0.025, 0.06, 0.15, 0.5)),
        "easycache_first=3,",
        "beyond about 4x outside the range that its authors use (3 first steps computed instead of 10)",
    ),
    Sweep("adacache", tuple(f"adacache:adacache_codebook={book}" for book in ("slow", "fast", "100"))),
    dial(
        *("taylorseer", "taylorseer", "taylorseer_thresh", (0.03, 0.055, 0.105, 0.22, 0.45)),
        "taylorseer_plan=drift,",
        "whole stack, first order, on the steps of the calibrated change: a plan of ours, stronger than the next",
    ),
    dial(
        *("taylorseer_2", "taylorseer", "taylorseer_thresh", (0.03, 0.055, 0.105, 0.22, 0.45)),
        "taylorseer_plan=drift,taylorseer_order=2,",
        "the same at second order",
    ),
    dial(
        *("taylorseer_interval", "taylorseer", "taylorseer_interval", (2, 3, 5, 8, 13)),
        note="whole stack, first order, every N-th step as published",
    ),
    dial("dpcache", "dpcache", "dpcache_budget", (26, 16, 10, 6, 4), note="its table is of two clips of 33 frames"),
    dial(
        *("spectrum", "spectrum", "spectrum_alpha", (0.05, 0.2, 0.75, 3, 16)),
        "spectrum_first=3,",
        "beyond about 6x outside the range that its authors use (3 first steps computed instead of 5)",
    ),
    dial(
        *("dbcache", "dbcache", "dbcache_thresh", (0.03, 0.08, 0.2, 0.5, 1.5)),
        "dbcache_probe=vace,dbcache_warmup=4,",
        "with VACE's first block for a probe, which saves more than the published probe can",
    ),
    dial(
        *("hetcache", "hetcache", "cache_thresh", (0.0088, 0.017, 0.04, 0.085, 0.19, 0.3, 0.6)),
        f"{DUAL},context_kv=forecast,forecast=1,",
        "its defaults, spelled out: first-order forecast of what is not computed, keys and values included",
    ),
    Sweep(
        "hetcache_exact",
        tuple(f"exact:{speedup}" for speedup in (1.9, 3, 5, 8, 12.5)),
        "the exact plan for that speed-up, by error tables of ten other clips",
    ),
    dial(
        *("hetcache_noise", "hetcache", "cache_thresh", (0.0006, 0.002, 0.01, 0.03, 0.08, 0.2, 0.6)),
        f"{NOISE},context_kv=forecast,forecast=2,",
        "second-order forecast and the rule that looks at the noise that is left",
    ),
    dial(
        *("hetcache_sampled", "hetcache", "cache_thresh", (0.0072, 0.0165, 0.035, 0.075, 0.17, 0.3)),
        f"{DUAL},context_kv=sampled,forecast=0,",
        "no forecast, and no keys but those of computed tokens: HetCache before it forecast",
    ),
    dial("hetcache_paper", "hetcache_paper", "cache_thresh", (0.0165, 0.028, 0.05, 0.085, 0.17, 0.3)),
)


def known_sweeps(modes: Mapping[str, Mode] = MODES) -> dict[str, Sweep]:
    """The curves whose modes and settings this version has, by name."""
    return {sweep.name: sweep for sweep in SWEEPS if _is_known(sweep, modes)}


def _is_known(sweep: Sweep, modes: Mapping[str, Mode]) -> bool:
    try:
        sweep.methods(modes)
    except ValueError:
        return False
    return True


def chosen_sweeps(names: Iterable[str], modes: Mapping[str, Mode] = MODES) -> list[Sweep]:
    """Those of `names`, or all that are known. Raises ValueError for a name that is not."""
    known = known_sweeps(modes)
    for name in names:
        if name not in known:
            raise ValueError(f"--curves {name}: unknown, choose from {', '.join(known)}")
    return [known[name] for name in names] or list(known.values())
