"""HetCache: diffusion video editing made fast without retraining (arXiv 2603.24260).

`HetCache` and `TeaCache` are the modes' records, `enable_cache(pipe, mode, mask)` puts a mode on a DiffSynth pipeline,
`WanVideoPipeline` is DiffSynth's. Names load on first use, so `import hetcache` costs nothing.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = ["HetCache", "TeaCache", "WanVideoPipeline", "enable_cache"]

_WHERE = {
    "HetCache": ("hetcache.method.hetcache", "MODE"),
    "TeaCache": ("baselines.teacache", "MODE"),
    "WanVideoPipeline": ("diffsynth.pipelines.wan_video", "WanVideoPipeline"),
    "enable_cache": ("hetcache.run.enable", "enable_cache"),
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'hetcache' has no attribute {name!r}")
    module, attribute = _WHERE[name]
    return getattr(import_module(module), attribute)
