"""diffusers' pipelines on several processes: as one process computes them."""

from __future__ import annotations

from typing import Any

import pytest
from parallel_cases import Case, run_case, run_ranks

pytest.importorskip("diffusers")
pytestmark = pytest.mark.slow


def case(kind: str, mode: str, pipe: str = "vace", note: str = "", **more: Any) -> Case:
    name = "_".join(filter(None, (kind, mode, pipe, note)))
    return {"name": name, "kind": kind, "mode": mode, "library": "diffusers", "kind_of_pipe": pipe, **more}


PARTIAL = {"cache_thresh": 0.6, "margin_width": 1, "context_kv": "cached"}
SAMPLED = {**PARTIAL, "context_kv": "sampled"}
SKIPPING = {"cache_thresh": 0.9}
TWO = [
    each
    for kind in ("cfg", "sp")
    for each in (
        case(kind, "hetcache", note="cached", settings=PARTIAL, steps=12),
        case(kind, "hetcache", note="sampled", settings=SAMPLED, steps=12),
        case(kind, "hetcache", note="two_experts", settings=PARTIAL, steps=12, experts=2),
        case(kind, "easycache", settings={"easycache_thresh": 1.0, "easycache_first": 3}, steps=10),
        *(case(kind, mode) for mode in ("baseline", "pab", "adacache")),
        *(case(kind, "teacache", pipe, settings=SKIPPING) for pipe in ("t2v", "v2v", "i2v")),
    )
]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_ranks(2, TWO, tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize("case", TWO, ids=lambda case: case["name"])
def test_several_processes_compute_what_one_does(found: dict[str, Any], case: Case) -> None:
    alone, together = run_case(None, case), found[case["name"]]
    assert "error" not in together, together
    assert len(set(together["told"])) == 1, "the ranks have different videos"
    assert (together["video"] - alone["video"]).abs().max().item() <= (0.0 if case["kind"] == "cfg" else 1e-5)
    assert together["decisions"] == alone["decisions"]
