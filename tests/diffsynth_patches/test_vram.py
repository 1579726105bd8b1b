"""Under DiffSynth's VRAM management blocks are wrapped and copied at every call: same results, nothing lost."""

from __future__ import annotations

import copy

import pytest
import torch
from baseline_runs import baseline, run
from diffsynth.configs import VRAM_MANAGEMENT_MODULE_MAPS
from diffsynth.core.vram.layers import AutoWrappedModule, enable_vram_management
from diffsynth.models.model_loader import ModelPool
from hetcache_runs import hetcache_session

from diffsynth_patches.apply import patched
from hetcache.core.session import CacheSession
from hetcache.core.vocabulary import Branch


@pytest.fixture
def managed_pipe(pipe):
    """The fixture pipeline with its DiT and VACE resting in float16 and computing in float32, all on the CPU."""
    managed = copy.copy(pipe)
    managed._modules = dict(pipe._modules)
    config = {
        "offload_dtype": torch.float16,
        "offload_device": "cpu",
        "onload_dtype": torch.float16,
        "onload_device": "cpu",
        "preparing_dtype": torch.float16,
        "preparing_device": "cpu",
        "computation_dtype": torch.float32,
        "computation_device": "cpu",
    }
    pool = ModelPool()
    for name in ("dit", "vace"):
        model = copy.deepcopy(getattr(pipe, name))
        path = f"{type(model).__module__}.{type(model).__name__}"
        module_map = {
            pool.import_model_class(a): pool.import_model_class(b) for a, b in VRAM_MANAGEMENT_MODULE_MAPS[path].items()
        }
        setattr(managed, name, enable_vram_management(model.half(), module_map, config))
    assert any(isinstance(m, AutoWrappedModule) for m in managed.dit.modules())
    return managed


def test_baseline_equals_the_unpatched_managed_pipeline(managed_pipe, call_kwargs):
    expected = managed_pipe(**call_kwargs)
    actual, _ = run(managed_pipe, call_kwargs, baseline)
    assert torch.equal(actual, expected)


def test_hetcache_keeps_its_state(managed_pipe, call_kwargs, mask_THW):
    everything = {"context_ratio": 1.0, "margin_ratio": 1.0}
    session = hetcache_session(mask_THW, "FPRPRF", **everything)
    reference = hetcache_session(mask_THW, "FFRFRF", **everything)
    outputs = []
    for each in (session, reference):
        with patched(managed_pipe, each):
            outputs.append(managed_pipe(**{**call_kwargs, "progress_bar_cmd": each.steps}))
    assert isinstance(session, CacheSession)
    assert session.trace.decisions(Branch.COND) == "FPRPRF"
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-4)
