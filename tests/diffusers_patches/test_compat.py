"""What is refused, by name; and that everything is put back, also after an exception."""

from __future__ import annotations

import pytest
import torch
from baseline_runs import baseline
from diffusers_runs import build, cached, call

from diffusers_patches.apply import patched
from diffusers_patches.compat import check_version
from hetcache.core.session import CacheSession
from hetcache.core.vocabulary import CacheManager, Compute, Decision


@pytest.fixture(scope="module")
def pipe():
    return build()


def refused(pipe, match):
    before = attributes(pipe)
    with pytest.raises(ValueError, match=match), patched(pipe, CacheSession(baseline)):
        pass
    assert attributes(pipe) == before


def attributes(pipe):
    """What the adapter may not leave behind: on the pipeline, its scheduler and every module of its transformers."""
    modules = [
        m for t in (pipe.transformer, getattr(pipe, "transformer_2", None)) if t is not None for m in t.modules()
    ]
    things = [pipe, pipe.scheduler, *modules]
    watched = ("forward", "cache_context", "step", "encode_prompt", "preprocess_conditions")
    found = [{name: vars(thing)[name] for name in watched if name in vars(thing)} for thing in things]
    return found, [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules]


class Failing(CacheManager):
    def decide(self, step, hidden):
        if step.index == 2:
            raise ArithmeticError("in mid-loop")
        return Decision(Compute.FULL, "test")


@pytest.mark.parametrize("kind, experts", [("vace", 1), ("vace", 2), ("v2v", 1)])
def test_everything_is_restored_after_a_run_and_after_an_exception(kind, experts):
    pipe = build(kind, experts=experts)
    before, expected = attributes(pipe), call(pipe, steps=4)
    cached(pipe, baseline, steps=4)
    assert attributes(pipe) == before
    with pytest.raises(ArithmeticError):
        cached(pipe, lambda branch, schedule: Failing(), steps=4)
    assert attributes(pipe) == before
    assert torch.equal(call(pipe, steps=4), expected)


def test_unsupported_versions_are_refused():
    for version in ("0.37.1", "0.43.0", "1.0.0"):
        with pytest.raises(RuntimeError, match=f"diffusers {version} is not supported .tested: >= 0.38, < 0.43"):
            check_version(version)
    for version in ("0.38.0", "0.42.1", "0.42.0.dev0"):
        check_version(version)
    check_version()


@pytest.mark.parametrize("config", ["FirstBlockCacheConfig", "MagCacheConfig", "TaylorSeerCacheConfig"])
def test_other_caches_are_refused(pipe, config):
    import diffusers.hooks as hooks

    kwargs = {"MagCacheConfig": {"num_inference_steps": 6, "mag_ratios": [1.0] * 6}}
    pipe.transformer.enable_cache(getattr(hooks, config)(**kwargs.get(config, {})))
    try:
        refused(pipe, f"diffusers' {config.removesuffix('Config')} enabled: call pipe.transformer.disable_cache")
    finally:
        pipe.transformer.disable_cache()
    with patched(pipe, CacheSession(baseline)):
        pass


def test_a_hook_with_a_forward_of_its_own_is_refused(pipe):
    """Also where nobody said `enable_cache`."""
    from diffusers.hooks import HookRegistry, ModelHook

    class Stranger(ModelHook):
        def new_forward(self, module, *args, **kwargs):
            raise AssertionError

    registry = HookRegistry.check_if_exists_or_initialize(pipe.transformer.blocks[1])
    registry.register_hook(Stranger(), "stranger")
    try:
        refused(pipe, "WanTransformerBlock is replaced by Stranger")
    finally:
        registry.remove_hook("stranger")


def test_a_replaced_forward_and_a_second_session_are_refused(pipe):
    pipe.transformer.forward = lambda *args, **kwargs: None
    try:
        refused(pipe, "WanVACETransformer3DModel is replaced by .*lambda")
    finally:
        del pipe.transformer.forward
    with patched(pipe, CacheSession(baseline)):
        refused(pipe, "is replaced by diffusers_patches.apply.*session that was not disabled")


def test_whole_model_compile_is_refused():
    pipe = build("t2v")
    pipe.transformer.compile(backend="eager")
    refused(pipe, "compiled as a whole.*compile_repeated_blocks")
    pipe = build("t2v")
    pipe.transformer = torch.compile(pipe.transformer, backend="eager")
    refused(pipe, "compiled as a whole.*compile_repeated_blocks")


def test_per_token_timesteps_are_refused():
    pipe = build("t2v")
    pipe.register_to_config(expand_timesteps=True)
    refused(pipe, "expand_timesteps")


def test_context_parallelism_is_refused():
    pipe = build("t2v")
    pipe.transformer._parallel_config = object()
    refused(pipe, "context parallelism")


def test_other_attention_processors_are_refused():
    from diffusers.models.transformers.transformer_wan import WanAttnProcessor

    class Sparse(WanAttnProcessor):
        pass

    pipe = build("t2v")
    pipe.transformer.blocks[1].attn1.set_processor(Sparse())
    refused(pipe, "with a Sparse: caching knows WanAttnProcessor")


def test_other_pipelines_are_refused():
    class LTXPipeline:
        config = None

    refused_by_name = pytest.raises(ValueError, match="a LTXPipeline cannot be cached: supported are WanVACEPipeline")
    with refused_by_name, patched(LTXPipeline(), CacheSession(baseline)):
        pass


def test_several_videos_at_once_are_refused():
    pipe = build("t2v")
    embeds = {name: torch.randn(2, 7, 16) for name in ("prompt_embeds", "negative_prompt_embeds")}
    with pytest.raises(ValueError, match="one video at a time, and this call has 2"):
        cached(pipe, baseline, **embeds)


def test_a_session_serves_one_video(pipe):
    session = CacheSession(baseline)
    with patched(pipe, session):
        call(pipe, steps=2)
        with pytest.raises(RuntimeError, match="already run a video"):
            call(pipe, steps=2)


def test_video_to_video_knows_a_prompt_from_its_negative_when_they_are_one_tensor():
    pipe = build("v2v")
    embeds = torch.randn(1, 7, 16)
    expected = call(pipe, steps=4, prompt_embeds=embeds, negative_prompt_embeds=embeds)
    latents, session = cached(pipe, baseline, steps=4, prompt_embeds=embeds, negative_prompt_embeds=embeds)
    assert torch.equal(latents, expected)
    assert {record.branch.value for record in session.trace.records} == {"cond", "uncond"}
