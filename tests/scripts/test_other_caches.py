"""The script that puts other caches beside ours: what it says of ours and of theirs, on a pipeline smaller still."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from scripts.measure import other_caches


@pytest.fixture(scope="module")
def pipe():
    return other_caches.build(SimpleNamespace(heads=1, layers=3))


@pytest.fixture(scope="module")
def uncached(pipe):
    with torch.no_grad():
        flops = other_caches.observe(pipe, "flops").flops
    assert len(set(flops[1:])) == 1
    return {"flops": flops[1], "ms": 1.0, "nbytes": 0}


def row(pipe, uncached, name, monkeypatch):
    monkeypatch.setattr(other_caches, "REPEATS", 1)
    with torch.no_grad():
        return other_caches.measure(pipe, other_caches.methods()[name], uncached)


@pytest.mark.parametrize("name", ["hetcache, reused", "easycache (here)"])
def test_our_reused_step_runs_no_block_and_adds_no_hint(pipe, uncached, monkeypatch, name):
    found = row(pipe, uncached, name, monkeypatch)
    assert found["vace_blocks"] == 0 and found["flops"] < 0.1
    assert found["change_in_hints"] < 1e-5 and found["relative_change_of_velocity"] < 1e-5


def test_an_uncached_step_is_the_measure(pipe, uncached, monkeypatch):
    """TaylorSeer's own patterns name no module of Wan: nothing is cached, and the script says so."""
    found = row(pipe, uncached, "TaylorSeer, its own modules", monkeypatch)
    assert found["vace_blocks"] == 2 and found["flops"] == 1.0
    assert found["relative_change_of_velocity"] == 0.0
    assert "| uncached | 0 | no | 0 | 100.0% | " in other_caches.page({"uncached": found}, FACTS, "command")


FACTS = {"what": "small.", "where": "here.", "vace_blocks": 2}
