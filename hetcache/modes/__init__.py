"""The modes of `--mode`, one line each; what a mode is stands at the end of its own file."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from baselines import (
    adacache,
    baseline,
    dbcache,
    dpcache,
    easycache,
    fastcache,
    magcache,
    pab,
    seacache,
    spectrum,
    taylorseer,
    teacache,
)
from hetcache.core.mode import Mode
from hetcache.method import hetcache, paper
from hetcache.modes.composed import with_teacache


def preset(name: str, base: Mode, **defaults: Any) -> Mode:
    """A mode under its own name with changed defaults; its flags are the base's and still win."""
    settings = ", ".join(f"{key} {value}" for key, value in defaults.items())
    return replace(base, name=name, title=f"{base.title} ({settings})", defaults=defaults)


# A preset named slow or fast is so in fact: a lower threshold reuses less. The paper's table names them the other way
# round.
MODES: dict[str, Mode] = {
    mode.name: mode
    for mode in (
        baseline.MODE,
        teacache.MODE,
        pab.MODE,
        adacache.MODE,
        fastcache.MODE,
        magcache.MODE,
        easycache.MODE,
        taylorseer.MODE,
        dpcache.MODE,
        spectrum.MODE,
        dbcache.MODE,
        seacache.MODE,
        hetcache.MODE,
        paper.MODE,
        with_teacache(pab.MODE),
        with_teacache(adacache.MODE),
        with_teacache(fastcache.MODE),
        with_teacache(hetcache.TOKENS),
        preset("teacache_slow", teacache.MODE, teacache_point="slow"),
        preset("teacache_fast", teacache.MODE, teacache_point="fast"),
        preset("pab_3_7", pab.MODE, pab_self_range=3, pab_cross_range=7),
        preset("pab_5_9", pab.MODE, pab_self_range=5, pab_cross_range=9),
        preset("adacache_slow", adacache.MODE, adacache_codebook="slow"),
        preset("fastcache_computed", fastcache.MODE, fastcache_reference="computed", fastcache_estimate="residual"),
        preset("hetcache_slow", hetcache.MODE, cache_thresh=0.03),
        preset("hetcache_fast", hetcache.MODE, cache_thresh=0.08),
    )
}
