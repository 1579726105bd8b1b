"""--cfg-batch: both branches as one batch give what two calls give, with the same record of the work."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hetcache_runs import hetcache_session
from replay import SKIPPING, Recording, build, context, record

from diffsynth_patches.apply import patched
from hetcache.core.session import CacheSession
from hetcache.core.vocabulary import Branch, CacheManager, Compute, Decision
from hetcache.method.forecast import anchor_bytes
from hetcache.modes import MODES
from hetcache.modes.planning import check_cfg_batch

NUM_STEPS = 12
BATCHABLE = [name for name, mode in MODES.items() if mode.plan is not None and mode.batches]


@pytest.fixture(scope="module")
def recording(pipe, call_kwargs, mask_THW) -> Recording:
    return record(pipe, call_kwargs, mask_THW, NUM_STEPS)


def run(pipe, kwargs, session, cfg_batch):
    """(video, velocities by branch and step): what the pipeline is given at every denoiser call."""
    velocities = {}
    with patched(pipe, session, cfg_batch=cfg_batch) as forward:

        def spy(**call):
            velocity = forward(**call)
            velocities[call["positive"], session.step.index] = velocity.clone()
            return velocity

        pipe.model_fn = spy
        video = pipe(**{**kwargs, "progress_bar_cmd": session.steps})
    return video, velocities


def assert_same_run(pipe, kwargs, make_session, shared_bytes=()):
    """Batched against one call per branch: results to rounding, the account of the work exactly."""
    sessions = [make_session(), make_session()]
    (video, velocities), (batched_video, batched) = (
        run(pipe, kwargs, session, cfg_batch) for session, cfg_batch in zip(sessions, (False, True), strict=True)
    )
    torch.testing.assert_close(batched_video, video, rtol=1e-4, atol=1e-4)
    assert batched.keys() == velocities.keys()
    for key, velocity in velocities.items():
        torch.testing.assert_close(batched[key], velocity, rtol=1e-4, atol=1e-4)
    one, pair = (session.trace for session in sessions)
    assert pair.work == one.work
    for branch in Branch:
        assert pair.decisions(branch) == one.decisions(branch)
        for mine, theirs in zip(pair.of(branch), one.of(branch), strict=True):
            same = dataclasses.replace(mine, flops=theirs.flops, signal=theirs.signal)
            assert same == theirs
            assert mine.flops == theirs.flops or mine.step_index == 0
    assert [r.flops for r in pair.of(Branch.COND)] == [r.flops for r in pair.of(Branch.UNCOND)]
    # Which step computed a row last is known once for both branches.
    assert sessions[0].cache_bytes - sessions[1].cache_bytes in (0, *shared_bytes)
    return sessions[1]


@pytest.mark.parametrize("partial_vace", ["rows", "hints"])
@pytest.mark.parametrize("context_kv", ["cached", "sampled"])
def test_full_partial_and_reused_steps_equal_two_calls(pipe, call_kwargs, mask_THW, context_kv, partial_vace):
    settings = {"context_kv": context_kv, "partial_vace": partial_vace, "context_ratio": 0.2}
    session = assert_same_run(pipe, call_kwargs, lambda: hetcache_session(mask_THW, "FPRPRF", **settings))
    assert session.trace.decisions(Branch.UNCOND) == "FPRPRF"


@pytest.mark.parametrize("name", BATCHABLE)
def test_every_mode_with_a_plan_equals_two_calls(pipe, call_kwargs, recording, name):
    settings = SKIPPING.get(name, {})
    order = getattr(MODES[name].config(), "forecast", 0)
    session = assert_same_run(
        pipe,
        {**call_kwargs, "num_inference_steps": NUM_STEPS},
        lambda: CacheSession(build(name, recording, **settings)),
        [anchor_bytes(order, context(recording).num_tokens)],
    )
    assert session.trace.accelerated == (name != "baseline")


def test_the_two_branches_differ(pipe, call_kwargs, mask_THW):
    """Or the tests above would pass with one branch handed out twice."""
    _, velocities = run(pipe, call_kwargs, hetcache_session(mask_THW, "FPRPRF"), True)
    assert all(not torch.allclose(velocities[True, i], velocities[False, i], atol=1e-3) for i in range(6))


def test_everything_is_restored_after_a_run_and_after_an_exception(pipe, call_kwargs, mask_THW):
    class Failing(CacheManager):
        def decide(self, step, hidden):
            if step.index == 2:
                raise ArithmeticError("in mid-loop")
            return Decision(Compute.FULL, "test")

    before = (pipe.model_fn, pipe.unit_runner)
    first, _ = run(pipe, call_kwargs, hetcache_session(mask_THW, "FPRPRF"), True)
    with pytest.raises(ArithmeticError):
        run(pipe, call_kwargs, CacheSession(lambda branch, schedule: Failing()), True)
    assert (pipe.model_fn, pipe.unit_runner) == before
    again, _ = run(pipe, call_kwargs, hetcache_session(mask_THW, "FPRPRF"), True)
    assert torch.equal(first, again)


def test_an_unconditional_call_without_its_conditional_one_is_an_error(pipe, call_kwargs):
    session = CacheSession(build_baseline)
    with patched(pipe, session, cfg_batch=True) as forward:
        pipe.model_fn = lambda **call: forward(**{**call, "positive": False})
        with pytest.raises(RuntimeError, match="before the conditional one"):
            pipe(**{**call_kwargs, "progress_bar_cmd": session.steps})


def build_baseline(branch, schedule):
    return MODES["baseline"].build(MODES["baseline"].config(), None)(branch, schedule)


@pytest.mark.parametrize("name", BATCHABLE)
def test_modes_with_a_plan_are_accepted(recording, name):
    mode = MODES[name]
    check_cfg_batch(mode, mode.config(**mode.defaults), context(recording), schedule_of(recording))


@pytest.mark.parametrize("name", [name for name, mode in MODES.items() if mode.plan is None])
def test_content_aware_modes_are_refused(recording, name):
    mode = MODES[name]
    with pytest.raises(ValueError, match=f"--cfg-batch: --mode {name} decides from the content"):
        check_cfg_batch(mode, mode.config(), context(recording), schedule_of(recording))


def test_branches_with_tokens_of_their_own_are_refused(recording):
    mode = MODES["hetcache_paper"]
    with pytest.raises(ValueError, match="--cfg-batch: in --mode hetcache_paper each branch chooses tokens of its own"):
        check_cfg_batch(mode, mode.config(), context(recording), schedule_of(recording))


def test_a_content_aware_signal_is_refused(recording):
    mode = MODES["hetcache"]
    with pytest.raises(ValueError, match="--cfg-batch: --signal output"):
        check_cfg_batch(mode, mode.config(signal="output"), context(recording), schedule_of(recording))


def test_branches_that_decide_otherwise_are_refused(recording):
    calibration = dataclasses.replace(
        context(recording).calibration(),
        magcache={"cond": (1.0, *[0.999] * 11), "uncond": (1.0, *[0.9] * 11)},
    )
    mode, run_context = MODES["magcache"], dataclasses.replace(context(recording), calibration=lambda: calibration)
    with pytest.raises(ValueError, match="--cfg-batch: --mode magcache decides otherwise"):
        check_cfg_batch(mode, mode.config(), run_context, schedule_of(recording))


def schedule_of(recording):
    from diffsynth_patches.denoiser import static_schedule

    return static_schedule(recording.pipe, recording.timesteps)
