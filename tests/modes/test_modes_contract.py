"""What every mode must keep, whatever its method: parametrised over MODES."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from replay import SKIPPING, FailsAt, Recording, build, context, record, replay
from torch.utils._python_dispatch import TorchDispatchMode

from hetcache.core.mode import Dial, Mode, NotPlannable
from hetcache.core.residual import StackResidual
from hetcache.core.settings import setting
from hetcache.core.vocabulary import Branch, Compute, Decision
from hetcache.modes import MODES
from hetcache.modes.planning import find_setting, plan_run

NUM_STEPS = 12
ACCELERATING = [name for name in MODES if name != "baseline"]
STATIC = [name for name, mode in MODES.items() if mode.plan is not None]
# The branch that runs first leads: it decides (or, in hetcache, gives the sampling evidence) for both.
LED = {"easycache", "seacache", "adacache", "adacache_slow", "adacache_teacache"} | {
    name for name in MODES if name.startswith("hetcache")
}


@pytest.fixture(scope="module")
def recording(pipe, call_kwargs, mask_THW) -> Recording:
    return record(pipe, call_kwargs, mask_THW, NUM_STEPS)


def run(recording, name, branches=tuple(Branch)):
    return replay(recording, build(name, recording, **SKIPPING.get(name, {})), branches)


def assert_equal(actual, expected):
    assert actual.keys() <= expected.keys()
    for key, value in actual.items():
        assert torch.equal(value, expected[key]), key


@pytest.fixture(scope="module")
def runs(recording):
    return {name: run(recording, name) for name in MODES}


@pytest.mark.parametrize("name", MODES)
def test_every_step_is_recorded_in_order_and_finite(recording, runs, name):
    outputs, session = runs[name]
    for branch in Branch:
        records = session.trace.of(branch)
        assert [r.step_index for r in records] == list(range(NUM_STEPS))
        assert records[0].compute is Compute.FULL
        assert [r.timestep for r in records] == pytest.approx(recording.timesteps.tolist())
        assert all(r.reason for r in records)
    assert all(torch.isfinite(v).all() for v in outputs.values())
    assert outputs[Branch.COND, 5].shape == recording.calls[Branch.COND, 5]["latents"].shape


@pytest.mark.parametrize("name", ACCELERATING)
def test_work_is_skipped_and_a_reused_step_runs_no_block(runs, name):
    _, session = runs[name]
    assert session.trace.accelerated
    assert session.reused_blocks() == 0
    full = [r for r in session.trace.records if r.compute is Compute.FULL][-1].flops
    assert all(r.flops < full for r in session.trace.records if r.compute is not Compute.FULL)
    assert session.cache_bytes > 0


@pytest.mark.parametrize("name", MODES)
def test_branches_are_isolated(recording, runs, name):
    interleaved, session = runs[name]
    assert_equal(run(recording, name, (Branch.COND,))[0], interleaved)
    if name in LED:
        assert session.trace.decisions(Branch.UNCOND) == session.trace.decisions(Branch.COND)
    else:
        assert_equal(run(recording, name, (Branch.UNCOND,))[0], interleaved)


@pytest.mark.parametrize("name", MODES)
def test_a_second_video_and_another_step_count_start_empty(pipe, call_kwargs, mask_THW, recording, runs, name):
    other = record(pipe, call_kwargs, mask_THW, NUM_STEPS - 3)
    first, _ = run(other, name)
    assert_equal(run(recording, name)[0], runs[name][0])
    assert_equal(run(other, name)[0], first)


@pytest.mark.parametrize("name", MODES)
def test_an_exception_in_mid_loop_restores_everything(recording, runs, name):
    pipe = recording.pipe
    before = (pipe.model_fn, pipe.unit_runner)
    make = build(name, recording, **SKIPPING.get(name, {}))
    made = []

    def failing(branch, schedule):
        made.append(make(branch, schedule))
        return FailsAt(made[-1], 7)

    with pytest.raises(ArithmeticError):
        replay(recording, failing)
    assert (pipe.model_fn, pipe.unit_runner) == before
    assert all(not getattr(manager, "store", ()) or manager.store.nbytes == 0 for manager in made)
    assert_equal(run(recording, name)[0], runs[name][0])


# What makes the host wait for the device: a value read by it, or a result whose size the data decides.
SYNCHRONISING = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten._unique2.default,
    torch.ops.aten.unique_dim.default,
    torch.ops.aten.repeat_interleave.Tensor,
    torch.ops.aten.equal.default,
    torch.ops.aten.bincount.default,
}


class CountReads(TorchDispatchMode):
    """Counts what synchronises the host with the device: item(), float(), bool(), boolean indexing and the like."""

    reads = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        boolean_index = func is torch.ops.aten.index.Tensor and any(
            index is not None and index.dtype is torch.bool for index in args[1]
        )
        self.reads += func in SYNCHRONISING or boolean_index
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x[0].item(),
        lambda x: bool(x[1] > 0),
        lambda x: x[x > 1],
        lambda x: x.unique(),
        lambda x: x.nonzero(),
    ],
)
def test_the_count_sees_each_way_to_synchronise(wait):
    with CountReads() as count:
        wait(torch.arange(4.0))
    assert count.reads == 1


HETCACHE_SETTINGS = [
    {"context_kv": kv, "partial_vace": vace, "context_ratio": 0.2}
    for kv in ("cached", "sampled")
    for vace in ("rows", "hints")
] + [{"forecast": order, "context_ratio": 0.2} for order in (1, 2)]


@pytest.mark.parametrize(
    "name, settings",
    [*((name, {}) for name in STATIC if name != "baseline"), *(("hetcache", each) for each in HETCACHE_SETTINGS)],
)
def test_static_modes_do_not_synchronise(recording, name, settings):
    """K-means, attention mass and sampling of HetCache included: its evidence is taken at full steps."""
    make = build(name, recording, **{**SKIPPING.get(name, {}), **settings})
    with CountReads() as with_mode:
        _, session = replay(recording, make)
    with CountReads() as without:
        replay(recording, build("baseline", recording))
    assert session.trace.accelerated
    assert with_mode.reads == without.reads


@pytest.mark.parametrize(
    "name, per_step", [("easycache", 1), ("seacache", 1), ("adacache", 1), ("dbcache", 2), ("fastcache", 2 * 6 * 2)]
)
def test_content_aware_modes_name_and_count_their_synchronisations(recording, name, per_step):
    """EasyCache, SeaCache and AdaCache read at most one value a step, DBCache a branch, FastCache two a block."""
    with CountReads() as without:
        replay(recording, build("baseline", recording))
    with CountReads() as with_mode:
        _, session = replay(recording, build(name, recording, **SKIPPING.get(name, {})))
    counted = sum(notes.get("host_syncs", 0) for notes in session.notes().values())
    assert 0 < counted <= per_step * NUM_STEPS
    if name != "fastcache":  # tolist of two values is one synchronisation but no scalar read
        assert with_mode.reads - without.reads == counted


@pytest.mark.parametrize("name", ["teacache", "hetcache", "pab_teacache"])
def test_vace_on_reuse_costs_a_third_and_changes_nothing(recording, runs, name):
    settings = {**SKIPPING[name], "vace_on_reuse": True}
    outputs, session = replay(recording, build(name, recording, **settings))
    assert_equal(outputs, runs[name][0])
    reused = sum(r.compute is Compute.REUSE for r in session.trace.records)
    assert session.reused_blocks() == reused * 2 > 0
    mode = MODES[name]
    plan = plan_run(mode, mode.config(**settings), context(recording), session.schedule, run_shape(recording))
    assert plan.flops_run == session.trace.work.flops


def test_hetcache_can_decide_from_the_output(recording):
    settings = {"signal": "output", "cache_thresh": 0.5, "last_full": True}
    outputs, session = replay(recording, build("hetcache", recording, **settings))
    decisions = session.trace.decisions(Branch.COND)
    assert decisions == session.trace.decisions(Branch.UNCOND)
    assert decisions[:2] == "FF" and decisions[-1] == "F" and "R" in decisions and "P" in decisions
    assert session.notes()["cond"]["host_syncs"] == NUM_STEPS - 2
    signals = [r.signal for r in session.trace.records if r.signal is not None]
    assert signals and all(math.isfinite(signal) for signal in signals)
    alone, _ = replay(recording, build("hetcache", recording, **settings), (Branch.COND,))
    assert_equal(alone, outputs)
    with pytest.raises(NotPlannable, match="--signal output"):
        mode = MODES["hetcache"]
        plan_run(mode, mode.config(**settings), context(recording), session.schedule, run_shape(recording))


def test_broadcast_attention_is_counted_as_not_run(runs):
    _, session = runs["pab"]
    broadcasts = {name: sum(n["broadcasts"][name] for n in session.notes().values()) for name in ("self_attn", "mlp")}
    work, total = session.trace.work, 2 * NUM_STEPS * 6
    assert work.sublayers["self_attn"] == total - broadcasts["self_attn"] < total
    assert work.sublayers["mlp"] == total and broadcasts["mlp"] == 0
    assert work.blocks == {"dit": 2 * NUM_STEPS * 4, "vace": 2 * NUM_STEPS * 2}


@pytest.mark.parametrize("name", STATIC)
def test_the_plan_is_what_the_run_does_and_costs(recording, runs, name):
    mode, (_, session) = MODES[name], runs[name]
    config = mode.config(**{**mode.defaults, **SKIPPING.get(name, {})})
    shape = run_shape(recording)
    plan = plan_run(mode, config, context(recording), session.schedule, shape)
    assert {b: plan.string(b) for b in Branch} == {b: session.trace.decisions(b) for b in Branch}
    assert plan.flops_run == session.trace.work.flops


@pytest.mark.parametrize("name", [name for name in STATIC if MODES[name].dial is not None])
def test_a_target_speedup_picks_the_smallest_setting_that_reaches_it(recording, runs, name):
    mode, schedule, shape = MODES[name], runs[name][1].schedule, run_shape(recording)
    config = mode.config(**mode.defaults)
    target = 1.1 if name.startswith("pab") else 1.5
    if name == "magcache":
        config = mode.config(magcache_max_skips=10)
    found, plan = find_setting(mode, config, target, context(recording), schedule, shape)
    assert target <= plan.speedup < target + 0.75
    with pytest.raises(ValueError, match="out of reach"):
        find_setting(mode, config, 1000.0, context(recording), schedule, shape)


@pytest.mark.parametrize("name", [name for name in MODES if name not in STATIC])
def test_content_aware_modes_say_that_they_cannot_be_planned(recording, runs, name):
    mode = MODES[name]
    with pytest.raises(NotPlannable, match=f"--mode {name} decides from the content"):
        find_setting(mode, mode.config(), 2.0, context(recording), runs[name][1].schedule, run_shape(recording))


def test_baseline_has_nothing_to_choose(recording, runs):
    mode = MODES["baseline"]
    with pytest.raises(NotPlannable, match="fewer --steps"):
        find_setting(mode, mode.config(), 2.0, context(recording), runs["baseline"][1].schedule, run_shape(recording))


@dataclass(frozen=True)
class EveryConfig:
    every: int = setting(2, "compute every so many steps")


class EveryManager(StackResidual):
    def __init__(self, config, decider, branch):
        super().__init__(decider, branch)
        self.config = config

    def decide(self, step, hidden):
        compute = Compute.REUSE if step.index % self.config.every else Compute.FULL
        return Decision(compute, "in turn")


def test_a_new_mode_is_one_class_and_one_entry(recording, capsys):
    from hetcache.cli import UsageError, build_parser, parse
    from hetcache.modes.composed import with_teacache

    toy = Mode("every", "every second step", "none", EveryConfig, cache=lambda config, _: partial(EveryManager, config))
    modes = {**MODES, "every": toy}
    _, session = replay(recording, build(toy, recording))
    assert session.trace.decisions(Branch.COND) == "FR" * (NUM_STEPS // 2)
    assert parse(["--mode", "every", "--every", "3"], modes).config == EveryConfig(3)
    assert "--mode every" in build_parser(modes).format_help()
    with pytest.raises(UsageError, match="--every is a setting of --mode every"):
        parse(["--mode", "hetcache", "--every", "3"], modes)
    _, session = replay(recording, build(with_teacache(toy), recording, cache_thresh=0.9))
    assert session.trace.counts(Branch.COND)["reuse"] > NUM_STEPS // 2


def plan_every(schedule, config, context, branch):
    return [Decision(Compute.REUSE if i % config.every else Compute.FULL, "in turn") for i in range(schedule.num_steps)]


def test_a_new_planned_mode_is_a_plan_and_a_record(recording, capsys):
    """Two places: the config with its plan, and the record. Plan, cost, target and run follow."""
    toy = Mode("every", "every second step", "none", EveryConfig, plan_every, dial=Dial("every", 12, 1, whole=True))
    _, session = replay(recording, build(toy, recording, every=3))
    assert session.trace.decisions(Branch.COND) == session.trace.decisions(Branch.UNCOND) == "FRR" * 4
    shape = run_shape(recording)
    plan = plan_run(toy, EveryConfig(3), context(recording), session.schedule, shape)
    assert plan.string(Branch.COND) == "FRR" * 4 and plan.flops_run == session.trace.work.flops
    found, _ = find_setting(toy, EveryConfig(), 3.5, context(recording), session.schedule, shape)
    assert found == EveryConfig(4)


def run_shape(recording):
    from diffsynth_patches.apply import patched
    from hetcache.core.session import CacheSession

    session = CacheSession(build("baseline", recording))
    with torch.no_grad(), patched(recording.pipe, session) as forward:
        next(session.steps(recording.timesteps))
        forward(**recording.calls[Branch.COND, 0])
    return forward.shape


def expected_cache_bytes(
    name: str, branch: Branch, tokens: int, latents: int, blocks: int, anchors: int = 0
) -> int | None:
    """docs/methods.md's formulas for the branch; None for modes that they do not bound exactly. `anchors` are the last
    two steps of each token."""
    lead = branch is Branch.COND
    return {
        "baseline": 0,
        "teacache": tokens,
        "magcache": tokens,
        "adacache": tokens * (2 if lead else 1),
        "seacache": tokens * (2 if lead else 1),
        "easycache": latents * (4 if lead else 1),
        "taylorseer": 2 * tokens,
        "dpcache": 2 * tokens,
        "spectrum": 8 * tokens,
        "dbcache": 2 * tokens,
        "pab": 2 * blocks * tokens,
        "pab_teacache": 2 * blocks * tokens + tokens,
        "fastcache": 2 * blocks * tokens,
        "hetcache": (2 + 4 * blocks) * tokens + anchors,
        "hetcache_teacache": (3 + 4 * blocks) * tokens + anchors,
    }.get(name)


BOUNDED = [name for name in MODES if expected_cache_bytes(name, Branch.COND, 1, 1, 1) is not None]


@pytest.mark.parametrize("name", BOUNDED)
def test_cache_bytes_equal_the_documented_formulas(recording, name):
    managers = {}
    make = build(name, recording, **SKIPPING.get(name, {}))

    def keep(branch, schedule):
        managers[branch] = make(branch, schedule)
        return managers[branch]

    replay(recording, keep)
    dim, latents = recording.pipe.dit.dim, recording.calls[Branch.COND, 0]["latents"]
    tokens = recording.classes.num_tokens * dim * latents.element_size()
    anchors = 2 * recording.classes.num_tokens * 4
    for branch, manager in managers.items():
        assert manager.cache_bytes == expected_cache_bytes(name, branch, tokens, latents.nbytes, 6, anchors), branch
