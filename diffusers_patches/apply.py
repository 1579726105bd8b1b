"""patched(pipe, session): the only place that sets attributes on foreign objects, and it puts all of them back.

Public names alone are replaced, on the instances: the experts' `forward` and `cache_context`, the scheduler's `step`,
the pipeline's `encode_prompt` and `preprocess_conditions`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.utils import scale_lora_layers, unscale_lora_layers

from diffusers_patches.compat import check_pipeline, check_version
from diffusers_patches.denoiser import WanDenoiser
from diffusers_patches.hooks import through
from hetcache.core.denoiser import Call
from hetcache.core.flops import ModelShape
from hetcache.core.guidance import RankedGuidance
from hetcache.core.session import CacheSession, now_ms
from hetcache.core.step import CachedForward, static_schedule
from hetcache.core.vocabulary import Branch, Schedule
from hetcache.files import UserError

BRANCHES = {branch.value: branch for branch in Branch}


class Loop:
    """What the pipeline's loop says on its way: which expert runs which step, and for which branch."""

    def __init__(self, pipe: Any, session: CacheSession) -> None:
        self.session = session
        self.reference_frames = 0
        self._pipe = pipe
        self._scheduler = pipe.scheduler
        self._stages: list[tuple[Any, torch.Tensor]] = []
        self._named: Branch | None = None
        self._embeds: tuple[torch.Tensor | None, ...] = ()
        self.ranked = RankedGuidance(session.ranks) if session.ranks.size > 1 else None
        self._embedded_ms = 0.0

    def enter(self, transformer: Any, denoiser: WanDenoiser) -> None:
        """The session stands at this denoiser call's step; at an expert's first one its schedule is measured, because
        only then its weights are at hand."""
        session = self.session
        if not self._stages:
            self._stages = list(self._experts())
            session.stage_ms["vae_encode"] = now_ms() - self._embedded_ms
            session.begin(*(Schedule(tuple(float(t) for t in timesteps)) for _, timesteps in self._stages))
            session.advance()
        expert, timesteps = self._stages[session.stage]
        if expert is not transformer:
            raise RuntimeError("the pipeline called the expert of another step than the scheduler is at")
        if not session.schedules[session.stage].rel_l1:
            session.measured(static_schedule(denoiser, timesteps))

    def branch(self, context: torch.Tensor) -> Branch:
        """Of a call: as `cache_context` names it or, in a pipeline that does not, by whose embedding it is given."""
        if self._named is not None:
            return self._named
        for branch, embeds in zip(Branch, self._embeds, strict=False):
            if embeds is context:
                return branch
        raise UserError(
            f"{type(self._pipe).__name__} names no branch and this call's prompt_embeds were not made before its loop: "
            "leave them as they are in callback_on_step_end"
        )

    def cache_context(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @contextmanager
        def cache_context(name: str, *args: Any, **kwargs: Any) -> Iterator[None]:
            if name not in BRANCHES:
                raise UserError(f"the pipeline calls a branch {name!r}, and caching knows {' and '.join(BRANCHES)}")
            with original(name, *args, **kwargs):
                self._named = BRANCHES[name]
                try:
                    yield
                finally:
                    self._named = None

        return cache_context

    def step(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            stepped = original(*args, **kwargs)
            if self.session.step is not None:
                self.session.advance()
            return stepped

        return step

    def encode_prompt(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def encode_prompt(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
            if self.session.schedules:
                raise RuntimeError("this session has already run a video; disable it and enable a new one")
            start = now_ms()
            embeds, negative = original(*args, **kwargs)
            # As the pipeline casts them next, so that they are known again.
            dtype = (self._pipe.transformer if self._pipe.transformer is not None else self._pipe.transformer_2).dtype
            embeds = embeds.to(dtype)
            negative = None if negative is None else negative.to(dtype)
            negative = negative.clone() if negative is embeds else negative
            self._embeds = (embeds, negative)
            if self.ranked is not None:
                self.ranked.negative = negative
            self._embedded_ms = now_ms()
            self.session.stage_ms["text"] = self._embedded_ms - start
            return embeds, negative

        return encode_prompt

    def preprocess_conditions(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def preprocess_conditions(*args: Any, **kwargs: Any) -> Any:
            video, mask, reference_images = original(*args, **kwargs)
            self.reference_frames = len(reference_images[0])
            return video, mask, reference_images

        return preprocess_conditions

    def _experts(self) -> Iterator[tuple[Any, torch.Tensor]]:
        """(transformer, its timesteps), in the order in which they run."""
        pipe = self._pipe
        timesteps = self._scheduler.timesteps[-pipe.num_timesteps :]
        ratio = getattr(pipe.config, "boundary_ratio", None)
        if ratio is None:
            yield pipe.transformer, timesteps
            return
        is_high = timesteps >= ratio * self._scheduler.config.num_train_timesteps
        for transformer, chosen in ((pipe.transformer, is_high), (pipe.transformer_2, ~is_high)):
            if chosen.any():
                yield transformer, timesteps[chosen]


class CachedTransformer:
    """Stands in for an expert's `forward`: the same call, under the session's managers."""

    def __init__(self, transformer: Any, loop: Loop) -> None:
        self._transformer = transformer
        self._loop = loop
        self._denoiser = WanDenoiser(transformer)
        self._forward = CachedForward(self._denoiser, loop.session, loop.ranked)

    @property
    def shape(self) -> ModelShape | None:
        """The dimensions that the run's FLOPs depend on; None before its first step."""
        return self._forward.shape

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return through(self._transformer, self._compute, *args, **kwargs)

    def _compute(
        self,
        hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_hidden_states_image: torch.Tensor | None = None,
        control_hidden_states: torch.Tensor | None = None,
        control_hidden_states_scale: torch.Tensor | None = None,
        return_dict: bool = True,
        attention_kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Arguments and result of the library's own forward."""
        if hidden_states.shape[0] != 1:
            raise UserError(
                f"caching decides for one video at a time, and this call has {hidden_states.shape[0]}: "
                "call the pipeline once a video"
            )
        scales: tuple[float | torch.Tensor, ...] = (1.0,) * self._denoiser.num_hints
        if control_hidden_states_scale is not None:
            scales = torch.unbind(control_hidden_states_scale)
        lora_scale = (attention_kwargs or {}).get("scale", 1.0)
        scale_lora_layers(self._transformer, lora_scale)
        try:
            self._loop.enter(self._transformer, self._denoiser)
            velocity = self._forward(
                Call(
                    self._loop.branch(encoder_hidden_states),
                    hidden_states,
                    timestep,
                    encoder_hidden_states,
                    control_hidden_states,
                    scales,
                    encoder_hidden_states_image,
                    self._loop.reference_frames,
                )
            )
        finally:
            unscale_lora_layers(self._transformer, lora_scale)
        return Transformer2DModelOutput(sample=velocity) if return_dict else (velocity,)


@contextmanager
def patched(pipe: Any, session: CacheSession) -> Iterator[list[CachedTransformer]]:
    """Run `pipe(...)` under `session`; everything is put back on exit, also after an exception, and the session's
    cached tensors are dropped. The session's ranks all make the same call and share its work. Yields the experts'
    stand-ins.

    Raises RuntimeError for an untested diffusers, ValueError for a pipeline that caching does not support.
    """
    check_version()
    check_pipeline(pipe)
    loop, experts = Loop(pipe, session), []
    with ExitStack() as stack:
        stack.callback(session.release)
        for transformer in (pipe.transformer, getattr(pipe, "transformer_2", None)):
            if transformer is None:
                continue
            experts.append(CachedTransformer(transformer, loop))
            stack.enter_context(replaced(transformer, "forward", experts[-1]))
            stack.enter_context(replaced(transformer, "cache_context", loop.cache_context(transformer.cache_context)))
        stack.enter_context(replaced(pipe.scheduler, "step", loop.step(pipe.scheduler.step)))
        stack.enter_context(replaced(pipe, "encode_prompt", loop.encode_prompt(pipe.encode_prompt)))
        if hasattr(pipe, "preprocess_conditions"):
            counted = loop.preprocess_conditions(pipe.preprocess_conditions)
            stack.enter_context(replaced(pipe, "preprocess_conditions", counted))
        yield experts
        if loop.ranked is not None:
            loop.ranked.finish(session)


@contextmanager
def replaced(thing: Any, name: str, value: Any) -> Iterator[None]:
    """The instance's attribute is `value` inside. It is left alone on exit where somebody has replaced it since, as
    diffusers does with a forward when it puts its model offloading on anew behind a run."""
    missing = object()
    before = vars(thing).get(name, missing)
    setattr(thing, name, value)
    try:
        yield
    finally:
        if vars(thing).get(name) is value:
            if before is missing:
                delattr(thing, name)
            else:
                setattr(thing, name, before)
