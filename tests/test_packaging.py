"""The wheel works where nothing of the checkout is, and the requirements name what is imported."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import hetcache

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("hetcache", "baselines", "diffsynth_patches", "diffusers_patches")
SOURCES = (
    *PACKAGES,
    "data",
    "setup.py",
    "pyproject.toml",
    "requirements.txt",
    "requirements-app.txt",
    "requirements-diffusers.txt",
    "requirements-ray.txt",
    "README.md",
    "LICENSE",
)
DOORS = ("inference.py", "evaluation.py")
NOT_IMPORTED = {"scikit-learn": "the oracle of k-means, and named by the project's brief", "imageio": "named by it too"}

# Runs at the start of every Python of the new environment and notes each file of the checkout that is opened.
WATCH = """
import os, sys
CHECKOUT, ENVIRONMENT, LOG = {checkout!r}, {environment!r}, {log!r}
def watch(event, arguments):
    words = [arguments[0]] if event == "open" else arguments[1] if event == "subprocess.Popen" else []
    for word in words if isinstance(words, list) else [words]:
        name = os.fsdecode(word) if isinstance(word, (str, bytes, os.PathLike)) else ""
        name = name.removeprefix("file:")
        if name.startswith(CHECKOUT + os.sep) and not name.startswith(ENVIRONMENT + os.sep):
            with os.fdopen(os.open(LOG, os.O_CREAT | os.O_APPEND | os.O_WRONLY), "w") as log:
                log.write(event + " " + name + "\\n")
sys.addaudithook(watch)
"""


@dataclass(frozen=True)
class Installed:
    """A new environment with the wheel in it and the third-party packages of this one."""

    wheel: Path
    bin: Path
    log: Path
    folder: Path

    def run(self, name: str, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        environment |= {"CUDA_VISIBLE_DEVICES": "", "HETCACHE_CACHE": str(self.folder / "cache")}
        command = [str(self.bin / name), *words]
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=300, check=False
        )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    pip = ["-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [sys.executable, *pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder, source]
    subprocess.run(build, check=True, timeout=300)
    shutil.rmtree(source)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", folder / "env"], check=True, timeout=300)
    programs = folder / "env" / ("Scripts" if os.name == "nt" else "bin")
    subprocess.run([programs / "python", *pip, "install", "--no-deps", "--no-index", wheel], check=True, timeout=300)
    ask = [programs / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(ask, check=True, capture_output=True, text=True, timeout=60).stdout.strip())
    (site / "outer.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    log = folder / "opened.txt"
    watch = WATCH.format(checkout=str(ROOT), environment=sys.prefix, log=str(log))
    (site / "sitecustomize.py").write_text(watch)
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    yield Installed(wheel, programs, log, elsewhere)


@pytest.mark.slow
def test_the_wheel_runs_in_another_folder(installed: Installed) -> None:
    done = installed.run("hetcache", "--help")
    assert done.returncode == 0, done.stderr
    assert "--mode" in done.stdout
    done = installed.run("hetcache", "--steps", "1", "--frames", "5", "--output", "edit.mp4")
    assert done.returncode == 0, done.stderr
    assert json.loads((installed.folder / "edit.json").read_text())["model"] == "tiny"
    pair = ("--pred", "edit.mp4", "--reference", "edit.mp4")
    done = installed.run("hetcache-eval", "quality", *pair, "--metrics", "psnr", "--output", "quality.json")
    assert done.returncode == 0, done.stderr
    assert json.loads((installed.folder / "quality.json").read_text())["aggregate"]["reference"]["all"]["psnr"] == "inf"
    assert not installed.log.exists(), installed.log.read_text()


@pytest.mark.slow
def test_the_watcher_sees_the_checkout(installed: Installed, tmp_path: Path) -> None:
    """Else the test above could not fail."""
    seen = Installed(installed.wheel, installed.bin, installed.log, tmp_path)
    done = seen.run(
        "hetcache", "--plan", "--video", str(ROOT / "data/real.mp4"), "--mask", str(ROOT / "data/masks.mp4")
    )
    assert done.returncode == 0, done.stderr
    lines = installed.log.read_text()
    installed.log.unlink()
    assert "real.mp4" in lines


@pytest.mark.slow
def test_the_wheel_holds_all_it_needs_and_claims_no_more_names(installed: Installed) -> None:
    with zipfile.ZipFile(installed.wheel) as archive:
        names = archive.namelist()
    info = next(name.split("/")[0] for name in names if ".dist-info/" in name)
    assert {name.split("/")[0] for name in names} == {*PACKAGES, info}
    tracked = {
        f"hetcache/data/{path.relative_to(ROOT / 'data')}" for path in (ROOT / "data").rglob("*") if path.is_file()
    }
    tracked |= {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert tracked <= set(names), sorted(tracked - set(names))


def test_the_changelog_names_this_version() -> None:
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert headings[1] == hetcache.__version__


def imported(*names: str, but: str = "") -> set[str]:
    """Top names of other people's packages that files and folders of the repository import, but for one folder."""
    own = {path.stem for folder in ("", "tests", "scripts") for path in (ROOT / folder).iterdir()}
    own |= {path.stem for folder in ("tests", "scripts") for path in (ROOT / folder).rglob("*.py")}
    found: set[str] = set()
    for name in names:
        for path in [ROOT / name] if name.endswith(".py") else sorted((ROOT / name).rglob("*.py")):
            if but and path.is_relative_to(ROOT / but):
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    found |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    found.add(node.module.split(".")[0])
                elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "optional_import":
                    first = node.args[0]
                    found |= {first.value.split(".")[0]} if isinstance(first, ast.Constant) else set()
    return found - own - set(sys.stdlib_module_names)


def required(name: str) -> set[str]:
    lines = [line.strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines()]
    words = [re.match(r"[A-Za-z0-9._-]+", line) for line in lines if line and not line.startswith(("#", "-"))]
    return {word.group().lower().replace("_", "-") for word in words if word}


def distributions(modules: set[str], declared: set[str]) -> set[str]:
    """What brings the modules; the declared one where several could (OpenCV has four)."""
    known = packages_distributions()
    missing = {module for module in modules if module not in known}
    assert not missing, f"imported but not installed: {missing}"
    found = {module: [name.lower().replace("_", "-") for name in known[module]] for module in modules}
    return {next((name for name in names if name in declared), names[0]) for names in found.values()}


def test_requirements_are_the_imports_of_the_packages() -> None:
    declared = required("requirements.txt")
    extra = required("requirements-diffusers.txt") | required("requirements-ray.txt")
    used = distributions(imported(*PACKAGES, *DOORS, but="hetcache/app"), declared | extra)
    assert declared - set(NOT_IMPORTED) == used - set(NOT_IMPORTED) - extra
    assert extra - {"accelerate", "ftfy"} == {"diffusers", "ray"}  # what diffusers' Wan loads without saying so


def test_the_extras_versions_are_those_that_the_adapter_lets_through() -> None:
    from diffusers_patches.compat import TESTED_VERSIONS

    low, high = (".".join(map(str, bound)) for bound in TESTED_VERSIONS)
    assert f"diffusers>={low},<{high}" in (ROOT / "requirements-diffusers.txt").read_text(encoding="utf-8").splitlines()


def test_the_page_s_requirements_are_what_it_imports_besides() -> None:
    declared = required("requirements-app.txt")
    assert distributions(imported("hetcache/app"), declared) - required("requirements.txt") == declared


def test_scripts_and_tests_import_nothing_undeclared() -> None:
    declared = set().union(*(required(path.name) for path in ROOT.glob("requirements*.txt")))
    assert distributions(imported(*PACKAGES, *DOORS, "scripts", "tests"), declared) <= declared
