"""Runs of the tests of several processes: what a case is, and how one process runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hetcache_runs import hetcache_session
from pipeline_calls import pipe_kwargs
from replay import toy_calibration
from toys import toy_config

from diffsynth_patches.apply import patched
from hetcache.core.mode import RunContext
from hetcache.core.ranks import ALONE, Ranks
from hetcache.core.session import CacheSession
from hetcache.files import digest
from hetcache.modes import MODES

Case = dict[str, Any]
EVEN, ODD = (9, 64, 96), (9, 48, 80)  # 72 tokens, 45 tokens


def make_pipe(num_heads: int) -> Any:
    from diffsynth_patches.tiny import build_tiny_pipeline

    pipe = build_tiny_pipeline(toy_config(dim=24 * num_heads, num_heads=num_heads), seed=1)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(2)
        for module in (pipe.dit, pipe.vace):
            for parameter in module.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return pipe


def clip_of(size: tuple[int, int, int]) -> tuple[Any, Any]:
    """(frames, mask in the upper left corner)."""
    frames, height, width = size
    mask = np.zeros(size, dtype=bool)
    mask[:, : height // 2, : width // 3] = True
    rng = np.random.default_rng(0)
    return rng.integers(0, 255, (frames, height, width, 3), dtype=np.uint8), mask


def session_of(case: Case, mask_THW: Any) -> CacheSession:
    settings = case.get("settings", {})
    if case["mode"] == "scripted":
        return hetcache_session(mask_THW, case["decisions"], **{"context_ratio": 0.2, **settings})
    mode = MODES[case["mode"]]
    config = mode.config(**{**dict(mode.defaults), **settings})
    return CacheSession(mode.build(config, RunContext.of(torch.from_numpy(mask_THW), toy_calibration, 1)))


def run_case(pipe: Any, case: Case, ranks: Ranks = ALONE) -> dict[str, Any]:
    """What the run gave, and what it says of itself."""
    if case.get("library") == "diffusers":
        return run_diffusers(pipe, case, ranks)
    frames_THWC, mask_THW = clip_of(ODD if case.get("odd") else EVEN)
    session = session_of(case, mask_THW)
    kwargs = pipe_kwargs(frames_THWC, mask_THW, num_inference_steps=case.get("steps", 6))
    if "sleep" in case:
        session.check_budget = lambda: time.sleep(case["sleep"])  # type: ignore[method-assign]
    session.ranks = ranks
    with patched(pipe, session):
        video = pipe(**{**kwargs, "progress_bar_cmd": session.steps})
    return told(session, video)


def run_diffusers(pipe: Any, case: Case, ranks: Ranks) -> dict[str, Any]:
    from diffusers_runs import build, built, call

    from diffusers_patches.apply import patched as patched_diffusers

    pipe = build(case["kind_of_pipe"], experts=case.get("experts", 1))
    make = built(case["mode"], **case.get("settings", {}))
    session = CacheSession(make, make_stage=lambda: built(case["mode"], **case.get("settings", {})), ranks=ranks)
    with patched_diffusers(pipe, session):
        video = call(pipe, steps=case.get("steps", 6))
    return told(session, video)


def told(session: CacheSession, video: torch.Tensor) -> dict[str, Any]:
    records = session.trace.records
    return {
        "video": video,
        "digest": digest(video.contiguous().numpy().tobytes()),
        "decisions": [(r.step_index, r.branch.value, r.compute.value, r.reason, r.num_active) for r in records],
        "flops": session.trace.work.flops,
        "step_flops": [r.flops for r in records],
        "cache_bytes": session.cache_bytes,
        "notes": session.notes(),
    }


def start_ranks(size: int, cases: Sequence[Case], folder: Path) -> list[subprocess.Popen[str]]:
    """`size` processes that run tests/parallel_worker.py together."""
    (folder / "cases.json").write_text(json.dumps(list(cases)))
    script = Path(__file__).with_name("parallel_worker.py")
    paths = os.pathsep.join([str(script.parent.parent), str(script.parent)])
    common = {**os.environ, "PYTHONPATH": paths, "WORLD_SIZE": str(size), "RENDEZVOUS": str(folder / "rendezvous")}
    common |= {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return [
        subprocess.Popen(
            [sys.executable, str(script), str(folder / "cases.json"), str(folder)],
            env={**common, "RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def run_ranks(size: int, cases: Sequence[Case], folder: Path) -> dict[str, dict[str, Any]]:
    """By case, what rank 0 got."""
    processes = start_ranks(size, cases, folder)
    try:
        ended = [process.communicate(timeout=200)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * size, "\n".join(ended)
    return {case["name"]: torch.load(folder / f"{case['name']}.pt", weights_only=False) for case in cases}
