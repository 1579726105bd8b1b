"""The hooks that diffusers and accelerate put around a module's forward, for a caller that does without that forward.

Offloading brings weights in before a forward and takes them away behind it. The caching forward replaces the
transformer's own and computes blocks by their parts: both would pass the hooks by. Read here: diffusers'
`_diffusers_hook._fn_refs` and accelerate's `_hf_hook`. Both are private names; each kind of hook has its test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


def chain(module: torch.nn.Module) -> list[tuple[Callable[..., Any], Callable[..., Any]]]:
    """(before, after) of each hook, the outermost first."""
    registry, accelerate = getattr(module, "_diffusers_hook", None), getattr(module, "_hf_hook", None)
    hooks = [(ref.pre_forward, ref.post_forward) for ref in reversed(registry._fn_refs if registry is not None else ())]
    return hooks if accelerate is None else [*hooks, (accelerate.pre_forward, accelerate.post_forward)]


def through(module: torch.nn.Module, compute: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`compute(*args, **kwargs)` inside the module's hooks, as its forward would be."""
    hooks = chain(module)
    for before, _ in hooks:
        args, kwargs = before(module, *args, **kwargs)
    output = compute(*args, **kwargs)
    for _, after in reversed(hooks):
        output = after(module, output)
    return output


@contextmanager
def entered(module: torch.nn.Module) -> Iterator[None]:
    """The module's weights are at hand inside. Not to be nested on one module: leaving the inner context offloads the
    outer one's weights."""
    hooks = chain(module)
    for before, _ in hooks:
        before(module)
    try:
        yield
    finally:
        for _, after in reversed(hooks):
            after(module, None)


def replacing(module: torch.nn.Module) -> list[str]:
    """Names of what computes something else than the module's own forward: hooks that bring a forward of their own, as
    caches do, and a forward that somebody put in its place."""
    registry = getattr(module, "_diffusers_hook", None)
    hooks = registry.hooks.values() if registry is not None else ()
    found = [type(hook).__name__ for hook in hooks if hasattr(hook, "new_forward")]
    own = vars(module).get("forward")
    hooked = chain(module) or getattr(own, "__func__", None) is type(module).forward
    if own is not None and not hooked:
        found.append(f"{getattr(own, '__module__', type(own).__module__)}.{getattr(own, '__qualname__', '')}")
    return found
