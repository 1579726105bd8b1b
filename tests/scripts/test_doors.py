"""The scripts that docs name start modules of the repository, and nothing edits Python's path."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("hetcache", "baselines", "diffsynth_patches", "scripts", "tests")
DOORS = [
    path for path in sorted((ROOT / "scripts").glob("*.py")) if "through(" in path.read_text() and path.stem != "door"
]


@pytest.mark.parametrize("path", DOORS, ids=lambda path: path.stem)
def test_a_door_leads_to_a_command(path):
    (module,) = re.findall(r'through\("([\w.]+)"\)', path.read_text())
    target = ROOT / Path(*module.split("."))
    file = target / "__main__.py" if target.is_dir() else target.with_suffix(".py")
    assert '__name__ == "__main__"' in file.read_text()
    assert path.name in path.read_text().splitlines()[0]


def test_a_door_takes_flags_from_any_folder_and_gives_the_exit_code(tmp_path):
    script = [sys.executable, str(ROOT / "scripts" / "fetch_weights.py"), "no-such-weights"]
    done = subprocess.run(script, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2 and "unknown weights 'no-such-weights'" in done.stderr


def test_every_script_that_docs_name_is_there():
    documents = [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *(ROOT / "docs").glob("*.md"),
        ROOT / "docs/benchmarks/README.md",
    ]
    for document in documents:
        for name in re.findall(r"scripts/[\w/]+\.(?:py|sh)", document.read_text()):
            assert (ROOT / name).is_file(), f"{document.name} names {name}"


def test_nothing_edits_the_path():
    for path in [*(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")), *ROOT.glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            called = node.func.value if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else None
            for touched in (*targets, called):
                assert touched is None or not ast.unparse(touched).startswith("sys.path"), path
