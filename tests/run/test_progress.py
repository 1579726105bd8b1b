"""The bar of the denoising loop: what was done so far, and no word of what never was."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hetcache.core.vocabulary import Compute, Step
from hetcache.run.progress import StepBar


def told(capsys: pytest.CaptureFixture[str], *computed: Compute) -> str:
    with StepBar(len(computed), "clip") as bar:
        for index, compute in enumerate(computed):
            record: Any = SimpleNamespace(compute=compute)
            bar.observe(Step(index, len(computed), 0.0), [record, record])
    return capsys.readouterr().err.rstrip().splitlines()[-1]


def test_the_bar_counts_what_was_done(capsys: pytest.CaptureFixture[str]) -> None:
    line = told(capsys, Compute.FULL, Compute.FULL, Compute.REUSE)
    assert "3/3" in line and line.endswith("now reused (2 full, 1 reused)")
    assert told(capsys, Compute.FULL, Compute.BLOCKS).endswith("now by blocks (1 full, 1 by blocks)")
