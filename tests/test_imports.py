"""Imports point one way; the packages do not print; nothing but the patches knows DiffSynth."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("hetcache", "baselines", "diffsynth_patches", "diffusers_patches")
ADAPTERS = {"diffsynth_patches": "diffsynth", "diffusers_patches": "diffusers"}
LAYERS = {  # module -> what it may import of the project
    "hetcache.core.vocabulary": set(),
    "hetcache.core.drift": {"hetcache.core.vocabulary"},
    "hetcache.core.tokens": {"hetcache.core.vocabulary"},
    "hetcache.method.kmeans": set(),
    "hetcache.method.sampling": set(),
    "hetcache.core.store": set(),
    "hetcache.core.flops": set(),
}


FLOORS = (  # a room of the house may import itself and the floors below it
    {"files"},
    {"core", "media"},
    {"method", "baselines", "models", "metrics", "planner"},
    {"modes", "report", "evaluation"},
    {"run", "cli", "api", "masking"},
    {"batch", "benchmark", "calibrate", "queue"},
    {"app"},
)
ACROSS = {("media", "core"), ("run", "cli"), ("cli", "run"), ("run", "batch"), ("masking", "cli"), ("masking", "run")}
ADAPTERS_IMPORT = {"core", "media", "models", "files"}


def modules():
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield ".".join(path.relative_to(ROOT).with_suffix("").parts), path


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("name, path", list(modules()))
def test_direction(name, path):
    names = set(imported(path))
    tops = {n.split(".")[0] for n in names}
    for adapter, library in ADAPTERS.items():
        if not name.startswith(adapter):
            assert library not in tops
            assert adapter not in tops
    if name.startswith(("baselines", "hetcache.method")):
        own = {n for n in names if n.startswith(("hetcache.", "baselines."))}
        assert all(n.startswith(("hetcache.core", "hetcache.method", name)) for n in own)
        assert "hetcache.core.session" not in names
        assert not name.startswith("baselines") or not any(n.startswith("hetcache.method") for n in own)
    if name in LAYERS:
        own = {n for n in names if n.startswith(("hetcache.", "baselines"))}
        assert {n for n in own if (ROOT / Path(*n.split("."))).with_suffix(".py").exists()} <= LAYERS[name]


HEIGHT = {each: floor for floor, rooms in enumerate(FLOORS) for each in rooms}


def room(module):
    top, *rest = module.removesuffix(".__init__").split(".")
    if top in sys.stdlib_module_names:
        return ""
    return rest[0] if top == "hetcache" and rest else top


def test_every_room_has_its_floor():
    assert {room(name) for name, _ in modules()} <= {*HEIGHT, "hetcache", *ADAPTERS}


@pytest.mark.parametrize("name, path", list(modules()))
def test_nothing_reaches_up(name, path):
    """Core knows no media, report neither run nor benchmark, an adapter no mode."""
    own = room(name)
    for module in imported(path):
        other = room(module)
        if other == own or own == "hetcache" or other not in HEIGHT:
            continue
        if own in ADAPTERS:
            assert other in ADAPTERS_IMPORT, module
        else:
            assert HEIGHT[other] < HEIGHT[own] or (own, other) in ACROSS, module


@pytest.mark.parametrize("name, path", list(modules()))
def test_packages_do_not_print_nor_keep_globals(name, path):
    for node in ast.walk(ast.parse(path.read_text())):
        assert not isinstance(node, ast.Global)
        called = node.func if isinstance(node, ast.Call) else None
        assert not (isinstance(called, ast.Name) and called.id == "print")


def test_importing_the_modes_does_not_load_torch():
    """The command line reads their settings, and `--help` must not take seconds."""
    code = "import sys, hetcache.modes; assert not {'torch', 'diffsynth', 'diffusers', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_importing_hetcache_loads_nothing_heavy():
    code = "import sys, hetcache; assert not {'torch', 'diffsynth', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
