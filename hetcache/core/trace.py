"""What a run did, step by step, and the figures that its JSON record is made of."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from hetcache.core.flops import WorkMeter
from hetcache.core.vocabulary import Branch, Compute, TokenPlan


@dataclass(frozen=True)
class StepRecord:
    """One denoiser call: one step of one CFG branch."""

    step_index: int
    timestep: float
    branch: Branch
    compute: Compute
    reason: str
    signal: float | None
    threshold: float | None
    num_active: int
    flops: int
    dit_blocks: int
    vace_blocks: int


@dataclass
class Trace:
    """All step records of one video, in the order of the calls. `plans` maps the steps that computed only some
    tokens to the tokens of the first branch that ran (HetCache's branches share them). `num_tokens` is a full step's,
    `flops_uncached` what the same calls cost without a cache."""

    records: list[StepRecord] = field(default_factory=list)
    work: WorkMeter = field(default_factory=WorkMeter)
    plans: dict[int, TokenPlan] = field(default_factory=dict)
    num_tokens: int = 0
    flops_uncached: int = 0

    def append(
        self,
        record: StepRecord,
        meter: WorkMeter,
        plan: TokenPlan | None = None,
        num_tokens: int = 0,
        flops_uncached: int = 0,
    ) -> None:
        self.records.append(record)
        self.work.add(meter)
        self.num_tokens = num_tokens
        self.flops_uncached += flops_uncached
        if plan is not None:
            self.plans.setdefault(record.step_index, plan)

    def of(self, branch: Branch) -> list[StepRecord]:
        return [record for record in self.records if record.branch is branch]

    def decisions(self, branch: Branch) -> str:
        """One letter a step, e.g. `FRRPRRF`; empty when the branch did not run."""
        return "".join(record.compute.value for record in self.of(branch))

    def counts(self, branch: Branch) -> dict[str, int]:
        counted = Counter(record.compute for record in self.of(branch))
        return {compute.name.lower(): counted[compute] for compute in Compute}

    @property
    def accelerated(self) -> bool:
        """Did any step skip work?"""
        return any(record.compute is not Compute.FULL for record in self.records)

    def steps_json(self) -> list[dict[str, Any]]:
        return [
            {
                "step": record.step_index,
                "timestep": round(record.timestep, 4),
                "branch": record.branch.value,
                "compute": record.compute.name.lower(),
                "reason": record.reason,
                "signal": record.signal,
                "threshold": record.threshold,
                "tokens": record.num_active,
                "flops": record.flops,
                "blocks": {"dit": record.dit_blocks, "vace": record.vace_blocks},
            }
            for record in self.records
        ]
