"""What leaving steps out costs, for every path through a schedule: the table that DPCache (arXiv 2602.22654) plans on.

A step t that is left out is forecast from the two computed before it, i < j < t, by the line through both:
p(i, j, t) = h_j + (h_j - h_i)(t - j) / (j - i). The table holds mean|p(i, j, t) - h_t| for all i < j < t of a schedule,
measured on uncached runs. A file has the one for one schedule, in half precision: 39 kB for 50 steps. numpy alone,
because plans are made without torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hetcache.core.conditions import same_schedule
from hetcache.core.tensor_file import read_tensor_file
from hetcache.files import UserError, atomic_output, to_json


class PathErrorsError(UserError):
    """A file that holds no such table."""


@dataclass(frozen=True)
class PathErrors:
    """`error_TTT[i, j, t]` for i < j < t, elsewhere 0, of the schedule with these `timesteps`. `facts` say what it was
    measured under: model, weights, library, sampler, shift (JSON values)."""

    timesteps: tuple[float, ...]
    error_TTT: NDArray[np.float64]
    facts: dict[str, Any]

    def is_for(self, timesteps: Sequence[float]) -> bool:
        return same_schedule(timesteps, self.timesteps)

    def describe(self) -> str:
        shift = self.facts.get("sigma_shift")
        return f"{len(self.timesteps)} steps" + (f" at shift {shift:g}" if shift is not None else "")


def save_path_errors(path: Path, table: PathErrors) -> None:
    """float16, relative to the largest error, as safetensors."""
    from safetensors.numpy import save_file

    packed = table.error_TTT[_triples(len(table.timesteps))]
    scale = float(packed.max(initial=0.0)) or 1.0
    meta = {"timesteps": list(table.timesteps), "scale": scale, **table.facts}
    with atomic_output(path) as temporary:
        save_file({"error": (packed / scale).astype(np.float16)}, temporary, metadata={"dpcache": to_json(meta, None)})


def load_path_errors(path: Path) -> PathErrors:
    """Raises PathErrorsError for a missing, broken or foreign file."""
    try:
        metadata, tensors = read_tensor_file(path)
        meta, packed = json.loads(metadata["dpcache"]), tensors["error"].astype(np.float64)
        timesteps, scale = tuple(map(float, meta.pop("timesteps"))), float(meta.pop("scale"))
        error_TTT = np.zeros((len(timesteps),) * 3)
        error_TTT[_triples(len(timesteps))] = packed * scale
    except (OSError, KeyError, TypeError, ValueError, IndexError) as error:
        raise PathErrorsError(f"{path.name} holds no path errors ({error})") from error
    if not np.isfinite(error_TTT).all() or (error_TTT < 0).any():
        raise PathErrorsError(f"{path.name} holds errors that are negative or not finite")
    return PathErrors(timesteps, error_TTT, meta)


def choose_table(
    files: Sequence[Path], origin: Mapping[str, Any], weights: str | None, timesteps: Sequence[float]
) -> PathErrors:
    """Of `files` the table for these timesteps, measured under `origin` and, where both say so, with these weights.
    Raises PathErrorsError, which says what there is."""
    others = []
    for file in files:
        table = load_path_errors(file)
        own = table.facts.get("weights")
        if any(table.facts.get(name) != value for name, value in origin.items()) or (
            own and weights and own != weights
        ):
            continue
        if table.is_for(timesteps):
            return table
        others.append(table.describe())
    have = f", only for {' and '.join(others)}" if others else ""
    raise PathErrorsError(f"no errors of paths, which DPCache plans with, for these {len(timesteps)} timesteps{have}")


def _triples(num_steps: int) -> tuple[NDArray[np.intp], ...]:
    """All i < j < t, t fastest."""
    i, j, t = np.ogrid[:num_steps, :num_steps, :num_steps]
    return np.nonzero((i < j) & (j < t))
