"""Pipeline libraries by name: `Backend` loads a model, its `Pipeline` plans and edits. The rest knows no library.

A backend is one class and one line in `BACKENDS`, whose key is the library's own package; it is imported when it is
first used.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from hetcache.core.calibration import CalibrationNeed
from hetcache.core.flops import ModelShape
from hetcache.core.mode import ManagerFactory
from hetcache.core.options import EditSettings, VramOptions
from hetcache.core.session import CacheSession, Observer
from hetcache.core.vocabulary import Schedule
from hetcache.files import UserError
from hetcache.media.clip import Clip
from hetcache.media.fill import fill_under_mask
from hetcache.media.propagate import propagate_fill
from hetcache.models import ModelInfo

BACKENDS: dict[str, str] = {
    "diffsynth": "diffsynth_patches.backend:BACKEND",
    "diffusers": "diffusers_patches.backend:BACKEND",
}

# Estimate for Wan's VAE: four frames of the decoder's widest full-resolution layer, in bf16, with its copies.
VAE_BYTES_PER_PIXEL = 12 * 1024


@dataclass(frozen=True)
class EditResult:
    """`frames_THWC`: raw output at the model's size. `session` keeps the trace and the stage times."""

    frames_THWC: NDArray[np.uint8]
    session: CacheSession
    shape: ModelShape
    peak_memory_gib: float
    device: str
    dtype: str


@dataclass(frozen=True)
class LoadOptions:
    """How a model is loaded. With `prompts` the pipeline may know these alone; `random_weights` builds the model's true
    dimensions (of `Backend.random_models`) without reading weights."""

    device: str
    dtype: torch.dtype
    prompts: Sequence[str] = ()
    vram: VramOptions = VramOptions()
    revision: str | None = None
    huggingface: bool = False
    random_weights: bool = False


class Pipeline(Protocol):
    """A loaded model on its device."""

    device: str

    def shape(self, settings: EditSettings) -> ModelShape:
        """The dimensions that the FLOPs of an edit depend on, without running a step."""
        ...

    def schedule(self, settings: EditSettings) -> Schedule:
        """The timesteps of an edit with their static signals, without running a step."""
        ...

    def edit(
        self, clip: Clip, make_manager: ManagerFactory, settings: EditSettings, observer: Observer | None = None
    ) -> EditResult:
        """Edit `clip` under the managers of one mode. The stage times are in `result.session.stage_ms`."""
        ...

    def taking_turns(self, wait: Callable[[], None]) -> Pipeline | None:
        """Another pipeline of the same weights, whose edits call `wait` before the first step and after every one: one
        of several whose edits are under way at a time, of which only one computes. None where the library has no such
        pipeline."""
        ...


class Backend(Protocol):
    """A pipeline library."""

    @property
    def random_models(self) -> Sequence[str]:
        """Models whose true dimensions can be built with random weights."""
        ...

    def load(self, model: str, options: LoadOptions) -> Pipeline:
        """The pipeline of a model's name or folder. Raises ValueError or OSError, one line with the remedy."""
        ...

    def check_compile(self, device: str) -> None:
        """Raises ValueError where `--compile` cannot work."""
        ...

    def patched(self, pipe: Any, session: CacheSession) -> AbstractContextManager[Any]:
        """Run a pipeline object of the library itself under `session` inside the context; everything is put back."""
        ...

    def num_experts(self, pipe: Any) -> int:
        """How many models a pipeline object of the library changes between in its loop: each has a schedule of its own,
        at whose first step nothing is cached."""
        ...

    def calibration(self, pipe: Any, model_id: str | None = None) -> CalibrationNeed:
        """Which calibration a pipeline object of the library needs: of `model_id`, or of the model that it is."""
        ...


def model_input(clip: Clip, info: ModelInfo, settings: EditSettings) -> NDArray[np.uint8]:
    """The frames [T, H, W, 3] that condition the model: what lies under the mask is replaced, by what the clip brings
    for it, else as the settings ask or as the model was trained (`auto`), unless they let it see the original."""
    if not settings.apply_mask_to_input:
        return clip.frames_THWC
    if clip.filled is not None:
        return clip.filled.frames_THWC
    fill = info.fill if settings.fill == "auto" else settings.fill
    if fill == "propagate":
        return propagate_fill(clip.frames_THWC, clip.mask_THW).frames_THWC
    return fill_under_mask(clip.frames_THWC, clip.mask_THW, fill)


def must_tile(choice: str, height: int, width: int, device: str) -> bool:
    """Whether Wan's autoencoder works in tiles at this size: as asked (`on`, `off`), or `auto` by free memory."""
    if choice != "auto":
        return choice == "on"
    if not device.startswith("cuda"):
        return False
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return height * width * VAE_BYTES_PER_PIXEL > free_bytes


def backend(name: str) -> Backend:
    """The backend of that name, imported now. Raises UserError for a name that is not in `BACKENDS`."""
    if name not in BACKENDS:
        raise UserError(f"unknown backend {name!r}: choose from {', '.join(BACKENDS)}")
    module, attribute = BACKENDS[name].split(":")
    try:
        with _without_pytree_notices():
            found: Backend = getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise UserError(f"{name} is not installed: pip install 'hetcache[{name}]'") from error
    return found


@contextmanager
def _without_pytree_notices() -> Iterator[None]:
    """transformers imports torchao where it is installed, and torch tells of that package's enums in two long lines,
    about which nobody who runs an edit can do anything."""
    logger = logging.getLogger("torch.utils._pytree")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def backend_of(pipe: Any) -> Backend:
    """The backend of a pipeline object, told by the package that its class comes from. Raises UserError."""
    packages = [kind.__module__.split(".")[0] for kind in type(pipe).__mro__]
    name = next((package for package in packages if package in BACKENDS), None)
    if name is None:
        raise UserError(
            f"a {type(pipe).__module__}.{type(pipe).__qualname__} cannot be cached: give a pipeline of "
            f"{' or '.join(BACKENDS)}"
        )
    return backend(name)
