"""No acceleration: every step of both branches is computed in full, bit for bit as unpatched DiffSynth does."""

from __future__ import annotations

from dataclasses import dataclass

from hetcache.core.vocabulary import CacheManager, Compute, Decision, Hidden, Step


@dataclass(frozen=True)
class BaselineConfig:
    """`--mode baseline` has no settings; fewer `--steps` is the plain way to make it faster."""


class BaselineManager(CacheManager):
    def decide(self, step: Step, hidden: Hidden) -> Decision:
        return Decision(Compute.FULL, "no cache")
