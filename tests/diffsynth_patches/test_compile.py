"""--compile: the same results to rounding, one graph per region and row count, nothing left behind."""

from __future__ import annotations

import pytest
import torch
from hetcache_runs import hetcache_session

import diffsynth_patches.compiled as regions
from diffsynth_patches.apply import patched
from hetcache.core.vocabulary import Branch

try:
    regions.check_compiler("cpu")
except ValueError as error:
    pytest.skip(str(error), allow_module_level=True)

# Another order of the same float32 operations, on videos of order 1.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


def run(pipe, kwargs, session, **options):
    with torch.no_grad(), patched(pipe, session, **options):
        return pipe(**{**kwargs, "progress_bar_cmd": session.steps})


def num_graphs():
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.mark.slow
@pytest.mark.parametrize("context_kv", ["cached", "sampled"])
def test_compiled_runs_equal_eager_ones_to_rounding(pipe, call_kwargs, mask_THW, context_kv):
    sessions = [hetcache_session(mask_THW, "FPRPPF", context_kv=context_kv) for _ in range(2)]
    eager = run(pipe, call_kwargs, sessions[0])
    compiled = run(pipe, call_kwargs, sessions[1], compile_blocks=True)
    torch.testing.assert_close(compiled, eager, **TOLERANCE)
    assert sessions[1].trace.decisions(Branch.COND) == "FPRPPF"
    assert sessions[1].trace.work == sessions[0].trace.work
    assert sessions[1].cache_bytes == sessions[0].cache_bytes
    assert "compile_relative_error" not in sessions[0].notes()
    assert 0 <= sessions[1].notes()["compile_relative_error"] < 1e-5


@pytest.mark.slow
def test_layers_stacks_branches_and_videos_share_one_graph_per_region_and_size(pipe, call_kwargs, mask_THW):
    torch._dynamo.reset()
    before = num_graphs()
    run(pipe, call_kwargs, hetcache_session(mask_THW, "FPRPPF"), compile_blocks=True)
    assert num_graphs() - before == 2 * 4  # full and partial, four regions
    run(pipe, call_kwargs, hetcache_session(mask_THW, "FPRPPF"), compile_blocks=True)
    assert num_graphs() - before == 2 * 4


@pytest.mark.slow
def test_compiling_combines_with_one_batch_and_float32_rotation(pipe, call_kwargs, mask_THW):
    eager = run(pipe, call_kwargs, hetcache_session(mask_THW, "FPRPPF"))
    session = hetcache_session(mask_THW, "FPRPPF")
    everything = run(pipe, call_kwargs, session, compile_blocks=True, cfg_batch=True, fast_rope=True)
    torch.testing.assert_close(everything, eager, **TOLERANCE)


@pytest.mark.slow
def test_nothing_is_left_behind(pipe, call_kwargs, mask_THW):
    before = (pipe.model_fn, pipe.unit_runner, torch._dynamo.config.recompile_limit)
    expected = run(pipe, call_kwargs, hetcache_session(mask_THW, "FPRPPF"))
    run(pipe, call_kwargs, hetcache_session(mask_THW, "FPRPPF"), compile_blocks=True)
    assert before == (pipe.model_fn, pipe.unit_runner, torch._dynamo.config.recompile_limit)
    assert torch.equal(run(pipe, call_kwargs, hetcache_session(mask_THW, "FPRPPF")), expected)


def test_no_compiler_is_a_one_line_error(pipe, call_kwargs, mask_THW, monkeypatch):
    import torch._inductor.config
    from torch._inductor.cpp_builder import cpp_compiler_search

    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    cpp_compiler_search.cache_clear()
    before = (pipe.model_fn, pipe.unit_runner)
    with pytest.raises(ValueError, match="^--compile: no C\\+\\+ compiler was found[^\n]*$"):
        run(pipe, call_kwargs, hetcache_session(mask_THW, "FPRPPF"), compile_blocks=True)
    assert before == (pipe.model_fn, pipe.unit_runner)
