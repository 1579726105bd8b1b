"""Several processes compute one video: as one process does, for every mode and every kind of step, or say why not."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from parallel_cases import Case, make_pipe, run_case, run_ranks, start_ranks
from replay import SKIPPING

from diffsynth_patches.denoiser import model_shape
from hetcache.core.flops import cross_attention_flops, outside_flops
from hetcache.core.ranks import ALONE, Share, Team
from hetcache.core.vocabulary import Compute, Decision
from hetcache.files import UserError
from hetcache.modes import MODES

pytestmark = pytest.mark.slow
KV_AND_VACE = [(kv, vace) for kv in ("cached", "sampled") for vace in ("rows", "hints")]


def scripted(kind: str, kv: str = "cached", vace: str = "rows", **more: Any) -> Case:
    settings = {"context_kv": kv, "partial_vace": vace}
    name = "_".join([kind, kv, vace, *(f"{key}{value}" for key, value in more.items())])
    return {"name": name, "kind": kind, "mode": "scripted", "decisions": "FPRPPF", "settings": settings, **more}


def by_mode(kind: str, mode: str) -> Case:
    return {"name": f"{kind}_{mode}", "kind": kind, "mode": mode, "settings": SKIPPING.get(mode, {}), "steps": 8}


EXTRA = [
    {**by_mode("sp", "hetcache"), "name": "sp_vace_on_reuse", "settings": {"cache_thresh": 0.6, "vace_on_reuse": True}},
    {**by_mode("sp", "adacache"), "name": "sp_moreg", "settings": {"adacache_moreg": True}},
    {**by_mode("cfg", "hetcache"), "name": "cfg_output", "settings": {"signal": "output", "cache_thresh": 0.5}},
    {**by_mode("sp", "hetcache"), "name": "sp_output", "settings": {"signal": "output", "cache_thresh": 0.5}},
    {**by_mode("sp", "hetcache"), "name": "sp_whole", "settings": {"cache_thresh": 0.6, "whole_steps_only": True}},
]
ROWS_OF_THEIR_OWN = {"fastcache", "fastcache_computed", "fastcache_teacache", "dbcache"}
TWO = [
    *(scripted(kind, *each, **odd) for kind in ("cfg", "sp") for each in KV_AND_VACE for odd in ({}, {"odd": True})),
    *(
        by_mode(kind, mode)
        for kind in ("cfg", "sp")
        for mode in MODES
        if kind == "cfg" or mode not in ROWS_OF_THEIR_OWN
    ),
    *EXTRA,
]
REFUSED = [
    by_mode("sp", "fastcache"),
    by_mode("sp", "fastcache_teacache"),
    by_mode("sp", "dbcache"),
    scripted("sp", heads=3),
    {**by_mode("sp", "teacache"), "name": "disagree", "ranks": {"1": {"settings": {"cache_thresh": 0.1}}}},
    {**by_mode("cfg", "baseline"), "name": "another_step_count", "ranks": {"1": {"steps": 5}}, "steps": 4},
]
FOUR = [
    *(scripted(kind, heads=heads, **odd) for kind, heads in (("cfg+sp", 2), ("sp", 4)) for odd in ({}, {"odd": True})),
    *({**by_mode("cfg+sp", mode), "steps": 6} for mode in ("baseline", "hetcache", "easycache", "adacache", "pab")),
]
WRONG_NUMBER = [{**by_mode("cfg", "baseline"), "name": "cfg_of_four"}]


@pytest.fixture(scope="module")
def pipes() -> dict[int, Any]:
    return {heads: make_pipe(heads) for heads in (2, 4)}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return run_ranks(2, [*TWO, *REFUSED], tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return run_ranks(4, [*FOUR, *WRONG_NUMBER], tmp_path_factory.mktemp("four"))


def assert_as_one(pipes: dict[int, Any], case: Case, found: dict[str, Any], num_ranks: int) -> dict[str, Any]:
    alone = run_case(pipes[case.get("heads", 2)], case)
    assert "error" not in found, found
    assert len(set(found["told"])) == 1, "the ranks have different videos"
    difference = (found["video"] - alone["video"]).abs().max().item()
    assert difference <= (1e-5 if case.get("odd") and "sp" in case["kind"] else 0.0)
    assert found["decisions"] == alone["decisions"]
    shares = found["notes"]["parallel"]["flops_per_rank"]
    assert len(shares) == num_ranks and sum(shares) == found["flops"]
    assert max(shares) / min(shares) < 1.001
    return alone


@pytest.mark.parametrize("case", TWO, ids=lambda case: case["name"])
def test_two_processes_compute_what_one_does(pipes: dict[int, Any], two: dict[str, Any], case: Case) -> None:
    found = two[case["name"]]
    alone = assert_as_one(pipes, case, found, 2)
    if case["kind"] == "cfg":
        # The condition is embedded by both ranks.
        assert max(found["notes"]["parallel"]["flops_per_rank"]) / alone["flops"] < 0.52
        # A rank that follows measures beside the one that leads.
        measures = any("host_syncs" in notes for notes in alone["notes"].values())
        assert (
            found["cache_bytes"] >= alone["cache_bytes"] if measures else found["cache_bytes"] == alone["cache_bytes"]
        )
        told = {key: notes for key, notes in found["notes"].items() if key != "parallel" and notes}
        assert told.keys() == alone["notes"].keys()


@pytest.mark.parametrize("case", FOUR, ids=lambda case: case["name"])
def test_four_processes_compute_what_one_does(pipes: dict[int, Any], four: dict[str, Any], case: Case) -> None:
    assert_as_one(pipes, case, four[case["name"]], 4)


def test_what_two_cannot_compute_is_refused_by_name(two: dict[str, Any]) -> None:
    for name in ("sp_fastcache", "sp_fastcache_teacache"):
        assert "cannot be shared out" in two[name]["error"]
    assert "the model's 3 heads do not divide" in two["sp_cached_rows_heads3"]["error"]


def test_processes_that_disagree_are_told_so(two: dict[str, Any]) -> None:
    for message in two["disagree"]["told"]:
        assert "they do not compute the same run" in message and "rank 1 decides" in message


def test_a_wrong_number_of_processes_is_refused(four: dict[str, Any]) -> None:
    assert (
        four["cfg_of_four"]["told"] == ["--parallel cfg takes 2 processes, and 4 were started (--nproc-per-node)"] * 4
    )


@pytest.mark.parametrize("odd", [{}, {"odd": True}])
def test_partial_steps_are_even_with_the_mask_in_a_corner(
    two: dict[str, Any], pipes: dict[int, Any], odd: dict[str, bool]
) -> None:
    """Each rank computes half of the rows, rounded up; and embedding, head and the prompt's keys and values as well."""
    case = scripted("sp", **odd)
    pipe, found = pipes[2], two[case["name"]]
    alone = run_case(pipe, case)
    shares = found["notes"]["parallel"]["flops_per_rank"]
    assert max(shares) / (sum(shares) / 2) < 1.03
    shape = model_shape(pipe.dit, pipe.vace, 16)
    repeated = outside_flops(shape, 45 if odd else 72) + 6 * cross_attention_flops(0, shape.text_len, shape.dim)
    partial = [index for index, decision in enumerate(alone["decisions"]) if decision[2] == "P"]
    assert len(partial) == 6
    for index in partial:
        num_active = alone["decisions"][index][4]
        together = found["step_flops"][index] - 2 * repeated
        # One more row is a key more, too.
        assert together / (alone["step_flops"][index] - repeated) <= 2 * -(-num_active // 2) / num_active + 1e-9


def test_cached_keys_are_kept_by_heads(two: dict[str, Any]) -> None:
    cached, sampled = two["sp_cached_rows"], two["sp_sampled_rows"]
    per_rank = (
        cached["notes"]["parallel"]["cache_bytes_per_rank"][0] - sampled["notes"]["parallel"]["cache_bytes_per_rank"][0]
    )
    # K and V of 4 + 2 blocks, 72 tokens, 24 of 48 channels, two branches, float32.
    assert per_rank == 2 * 6 * 72 * 24 * 2 * 4


def test_a_process_that_does_not_answer_ends_the_others_in_time(tmp_path: Path) -> None:
    case = {**by_mode("cfg", "baseline"), "name": "asleep", "timeout": 3, "ranks": {"1": {"sleep": 120}}}
    waiting, asleep = start_ranks(2, [case], tmp_path)
    try:
        end = time.monotonic() + 60
        while not (tmp_path / "asleep.pt").exists() and time.monotonic() < end:
            assert waiting.poll() is None and asleep.poll() is None
            time.sleep(0.1)
        told = torch.load(tmp_path / "asleep.pt", weights_only=False)["error"]
    finally:
        for process in (waiting, asleep):
            process.kill()
            process.communicate()
    assert "rank 0 of 2 lost the others" in told and "--parallel-timeout 3 s" in told


def test_a_process_alone_exchanges_nothing() -> None:
    decision = Decision(Compute.FULL, "test")
    assert ALONE.agree(0, decision, True, torch.zeros(1)) is decision
    assert ALONE.share(7, None, torch.device("cpu")) is None
    assert ALONE.gather("x") == ["x"]


class Mirror(Team):
    """A rank of `sp_size` that is sent what it sends: enough to see which rows it takes."""

    def __init__(self, rank: int, sp_size: int) -> None:
        self.rank, self.size, self.sp_size = rank, sp_size, sp_size


@pytest.mark.parametrize("num_rows", [1, 2, 7, 8, 45, 72])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_rows_are_shared_out_evenly_and_all_of_them(num_rows: int, size: int) -> None:
    shares = [Mirror(rank, size).share(num_rows, None, torch.device("cpu")) for rank in range(size)]
    assert all(isinstance(share, Share) for share in shares)
    mine = [share.mine for share in shares if share is not None]
    assert {len(rows) for rows in mine} == {-(-num_rows // size)}
    assert torch.equal(torch.cat(mine)[:num_rows], torch.arange(num_rows))


def test_an_unknown_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import inference
    from hetcache.cli import parse
    from hetcache.run.command import run

    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="--parallel cfg: start it with torchrun"):
        run(parse(["--parallel", "cfg"]))
    assert inference.main(["--parallel", "cfg", "--cfg-scale", "1"]) == 2
