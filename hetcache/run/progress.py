"""One progress bar for the denoising loop: the decision of the current step and the time left."""

from __future__ import annotations

import sys
from types import TracebackType

from tqdm import tqdm

from hetcache.core.trace import StepRecord
from hetcache.core.vocabulary import Compute, Step
from hetcache.report.timeline import NAMES

TOLD = {compute: NAMES[compute.name.lower()] for compute in Compute}


class StepBar:
    """Context manager around one run; pass `observe` as the session's observer. Without a label it shows nothing."""

    def __init__(self, num_steps: int, label: str) -> None:
        self._bar = tqdm(
            total=num_steps,
            desc=label,
            unit="step",
            disable=not label,
            file=sys.stderr,
            dynamic_ncols=True,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {n}/{total} [{elapsed}<{remaining}] {postfix}",
        )
        self._counts = dict.fromkeys(Compute, 0)

    def observe(self, step: Step, records: list[StepRecord]) -> None:
        if records:
            self._counts[records[0].compute] += 1
            counts = ", ".join(f"{count} {TOLD[compute]}" for compute, count in self._counts.items() if count)
            self._bar.set_postfix_str(f"now {TOLD[records[0].compute]} ({counts})", refresh=False)
        self._bar.update(1)

    def __enter__(self) -> StepBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
