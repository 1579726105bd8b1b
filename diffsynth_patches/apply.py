"""patched(pipe, session): the only place that sets attributes on foreign objects, and it puts all of them back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from diffsynth_patches.compat import check_pipeline, check_version
from diffsynth_patches.forward import CachedForward, static_schedule
from hetcache.session import CacheSession, now_ms

STAGE_OF_UNIT = {
    "WanVideoUnit_PromptEmbedder": "text",
    "WanVideoUnit_VACE": "vae_encode",
    "WanVideoUnit_InputVideoEmbedder": "vae_encode",
}


class TimedUnits:
    """Stands in for `pipe.unit_runner`: same calls, with the time of text and VAE encoding added up."""

    def __init__(self, run: Callable[..., Any], stage_ms: dict[str, float]) -> None:
        self._run = run
        self._stage_ms = stage_ms

    def __call__(self, unit: Any, *args: Any, **kwargs: Any) -> Any:
        stage = STAGE_OF_UNIT.get(type(unit).__name__)
        if stage is None:
            return self._run(unit, *args, **kwargs)
        start = now_ms()
        result = self._run(unit, *args, **kwargs)
        self._stage_ms[stage] = self._stage_ms.get(stage, 0.0) + now_ms() - start
        return result


@contextmanager
def patched(pipe: Any, session: CacheSession, fast_rope: bool = False) -> Iterator[CachedForward]:
    """Run `pipe(...)` under `session`: replaces `pipe.model_fn` and `pipe.unit_runner`, restores both on exit,
    also after an exception, and drops the session's cached tensors. `fast_rope` rotates in float32, which is faster
    and no longer bit for bit upstream's.

    Raises RuntimeError for an untested diffsynth, ValueError for a pipeline that caching does not support.
    """
    check_version()
    check_pipeline(pipe)
    model_fn, unit_runner = pipe.model_fn, pipe.unit_runner
    forward = CachedForward(pipe, session, fast_rope)
    session.measure_schedule = lambda timesteps: static_schedule(pipe, timesteps)
    pipe.model_fn = forward
    pipe.unit_runner = TimedUnits(unit_runner, session.stage_ms)
    try:
        yield forward
    finally:
        pipe.model_fn = model_fn
        pipe.unit_runner = unit_runner
        session.release()
