"""DBCache: its decisions against an oracle on a toy stack, and on a pipeline that a hit counts every hint once."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from replay import build, record, replay

from baselines.dbcache import BlockProbe, DbCacheConfig
from hetcache.core.vocabulary import Branch, Compute, Grid, Hidden, Step

LAYERS, HINTED = 6, (0, 2, 3)


class ToyWalk:
    """Six DiT blocks, block l adds (l + 1) x / 10 + drift, and VACE's three hints behind blocks 0, 2 and 3. `drift` is
    how this step differs from the others; it counts the blocks that run."""

    num_layers, num_vace_layers = LAYERS, len(HINTED)

    def __init__(self, x: float, drift: float, manager: BlockProbe | None = None) -> None:
        self.manager = manager
        self.x_BAD = torch.full((1, 1, 1), x, dtype=torch.float64)
        self.layer, self.drift = 0, drift
        self.ran: list[str] = []
        self.vace = 0

    def vace_to(self, layer):
        while self.vace < layer:
            self.ran.append(f"v{self.vace}")
            self._run("vace", self.vace, torch.full((1, 1, 1), 100.0, dtype=torch.float64), 1 + self.drift)
            self.vace += 1

    def dit_to(self, layer):
        while self.layer < layer:
            self.ran.append(f"d{self.layer}")
            added = (self.layer + 1) * self.x_BAD / 10 + self.drift
            self.x_BAD = self._run("dit", self.layer, self.x_BAD, added)
            if self.layer in HINTED:
                self.vace_to(3)
                self.x_BAD = self.x_BAD + 1000.0 * (self.layer + 1)
            self.layer += 1
        return self.x_BAD

    def _run(self, stack, layer, x_BAD, added):
        ops = SimpleNamespace(stack=stack, layer=layer, full=lambda x: x + added)
        return ops.full(x_BAD) if self.manager is None else self.manager.run_block(ops, x_BAD, None)

    def jump(self, layer, x_BAD):
        self.layer, self.x_BAD = layer, x_BAD


def tokens(walk: ToyWalk, layer: int) -> float:
    """What a step of the walk's input has before block `layer`."""
    return ToyWalk(walk.x_BAD.item(), walk.drift).dit_to(layer).item()


def oracle(config: DbCacheConfig, steps: list[tuple[float, float]]) -> list[tuple[bool, float]]:
    """(hit, tokens behind the last block) of every step, from its input and drift, written out."""
    done, probe, middle, run = [], None, None, 0
    for index, (x, drift) in enumerate(steps):
        walk = ToyWalk(x, drift)
        front, end = config.dbcache_front or 1, LAYERS - config.dbcache_back
        start = tokens(walk, front)
        new = start - (1000.0 * front if front - 1 in HINTED else 0.0) - x
        if config.dbcache_probe == "vace":
            new, start = 1 + drift, x
        limit = config.dbcache_max_run
        may = index >= config.dbcache_warmup and (limit is None or run < limit)
        hit = may and abs(new - probe) / abs(probe) < config.dbcache_thresh
        if hit:
            out, run = start + middle, run + 1
        else:
            out, run = tokens(walk, end), 0
            probe, middle = new, out - start
        rest = ToyWalk(out, drift)
        rest.layer = end
        done.append((hit, rest.dit_to(LAYERS).item()))
    return done


CONFIGS = [
    DbCacheConfig(0.5, dbcache_front=1, dbcache_warmup=2),
    DbCacheConfig(0.1, dbcache_front=2, dbcache_back=2, dbcache_warmup=1),
    DbCacheConfig(0.3, dbcache_front=3, dbcache_back=1, dbcache_warmup=2, dbcache_max_run=2),
    DbCacheConfig(0.3, dbcache_probe="vace", dbcache_warmup=2),
    DbCacheConfig(0.0, dbcache_warmup=1),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_it_decides_and_computes_as_the_oracle(config):
    rng = np.random.default_rng(4)
    steps = [(50 + x, 40 * drift) for x, drift in zip(rng.normal(size=24).cumsum(), rng.random(24), strict=True)]
    manager, empty, hits = BlockProbe(config), torch.zeros(1), 0
    for index, ((x, drift), (hit, expected)) in enumerate(zip(steps, oracle(config, steps), strict=True)):
        walk, step = ToyWalk(x, drift, manager), Step(index, 24, 0.0)
        h = Hidden(walk.x_BAD, empty, empty, empty, empty, Grid(1, 1, 1))
        decision = manager.decide(step, h)
        out = manager.run_stack(walk, step, h, decision).item()
        done = manager.outcome(decision)
        assert (done.compute is Compute.BLOCKS) == hit and out == pytest.approx(expected)
        hits += hit
        if not hit:
            assert len(walk.ran) == LAYERS + 3
        elif config.dbcache_probe == "vace":
            assert walk.ran == ["v0"]
        else:
            ends = [*range(config.dbcache_front or 1), *range(LAYERS - config.dbcache_back, LAYERS)]
            assert [each for each in walk.ran if each[0] == "d"] == [f"d{layer}" for layer in ends]
            assert len(walk.ran) == len(ends) + 3
    assert manager.notes()["hits"] == hits and (hits > 3 or config.dbcache_thresh == 0.0)
    assert manager.cache_bytes == 2 * 8
    manager.release()
    assert manager.store.nbytes == 0


@pytest.fixture(scope="module")
def standing(pipe, call_kwargs, mask_THW):
    """Calls that are the same at every step: what was computed at the first is right at all."""
    recording = record(pipe, call_kwargs, mask_THW, 6)
    calls = {(branch, index): recording.calls[branch, 2] for branch, index in recording.calls}
    return replace(recording, calls=calls)


@pytest.mark.parametrize(
    "settings, dit, vace",
    [
        ({"dbcache_front": 1}, 1, 2),
        ({"dbcache_front": 2, "dbcache_back": 1}, 3, 2),
        ({"dbcache_front": 1, "dbcache_back": 2, "dbcache_order": 2}, 3, 2),
        ({"dbcache_probe": "vace"}, 0, 1),
    ],
)
def test_a_hit_counts_every_hint_once(standing, settings, dit, vace):
    outputs, session = replay(standing, build("dbcache", standing, dbcache_warmup=2, **settings))
    assert session.trace.decisions(Branch.COND) == session.trace.decisions(Branch.UNCOND) == "FFBBBB"
    for branch in Branch:
        for index in range(2, 6):
            torch.testing.assert_close(outputs[branch, index], outputs[branch, 0], rtol=1e-5, atol=1e-5)
    for one in session.trace.records:
        if one.compute is Compute.BLOCKS:
            assert (one.dit_blocks, one.vace_blocks) == (dit, vace)
            assert one.signal == 0.0 and one.reason.startswith("r < threshold")


def test_branches_decide_each_for_itself_and_a_miss_is_a_full_step(pipe, call_kwargs, mask_THW):
    recording = record(pipe, call_kwargs, mask_THW, 8)
    expected, _ = replay(recording, build("baseline", recording))
    outputs, session = replay(recording, build("dbcache", recording, dbcache_thresh=0.0))
    assert all(torch.equal(outputs[key], expected[key]) for key in expected)
    assert session.trace.decisions(Branch.COND) == "F" * 8
    _, session = replay(recording, build("dbcache", recording, dbcache_thresh=0.0, dbcache_warmup=3))
    records = session.trace.of(Branch.UNCOND)
    assert [r.reason for r in records] == ["first steps"] * 3 + ["r >= threshold"] * 5
    assert all(r.signal > 0 and r.threshold == 0.0 for r in records[3:])


def test_an_order_forecasts_what_is_skipped(pipe, call_kwargs, mask_THW):
    recording = record(pipe, call_kwargs, mask_THW, 8)
    settings = {"dbcache_thresh": 0.9, "dbcache_warmup": 3}
    runs = [replay(recording, build("dbcache", recording, dbcache_order=order, **settings)) for order in (0, 1)]
    assert runs[0][1].trace.decisions(Branch.COND) == runs[1][1].trace.decisions(Branch.COND)
    assert not torch.equal(runs[0][0][Branch.COND, 7], runs[1][0][Branch.COND, 7])
    assert runs[1][1].cache_bytes == runs[0][1].cache_bytes * 3 // 2


@pytest.mark.parametrize("num_layers, front", [(30, 8), (40, 8), (8, 2), (2, 1)])
def test_the_front_is_scaled_to_a_shallow_model(num_layers, front):
    assert DbCacheConfig().front(num_layers) == front


def test_a_model_with_nothing_to_skip_is_refused(standing):
    with pytest.raises(ValueError, match="leave none of the model's 4 DiT blocks to skip; give 3 together at most"):
        replay(standing, build("dbcache", standing, dbcache_front=3, dbcache_back=1))


@pytest.mark.parametrize(
    "bad, message",
    [
        ({"dbcache_thresh": -0.1}, "--dbcache-thresh must not be negative"),
        ({"dbcache_probe": "first"}, "--dbcache-probe must be dit or vace"),
        ({"dbcache_front": 0}, "--dbcache-front must be at least 1"),
        ({"dbcache_back": -1}, "--dbcache-back must be at least 0"),
        ({"dbcache_warmup": 0}, "--dbcache-warmup must be at least 1"),
        ({"dbcache_max_run": -1}, "--dbcache-max-run must be at least 0"),
        ({"dbcache_order": 3}, "--dbcache-order must be 0 or 1 or 2"),
        ({"dbcache_probe": "vace", "dbcache_back": 1}, "belong to --dbcache-probe dit"),
    ],
)
def test_bad_settings_name_their_flag(bad, message):
    with pytest.raises(ValueError, match=message):
        DbCacheConfig(**bad)
