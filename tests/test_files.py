"""The one atomic writer, JSON policy, digest and message of `hetcache.files`."""

from __future__ import annotations

import ast
import hashlib
import json
import math
import sys
from pathlib import Path

import pytest

from hetcache import files
from hetcache.files import UserError, digest, to_json, write_json, write_text

ROOT = Path(__file__).resolve().parent.parent
SOURCES = [
    path for name in ("hetcache", "baselines", "diffsynth_patches") for path in sorted((ROOT / name).rglob("*.py"))
]


def strict(text: str) -> object:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("indent", [None, 1, 2])
def test_no_number_makes_invalid_json(indent: int | None) -> None:
    value = {1: [math.inf, (-math.inf, 0.5)], "none": {"deep": math.nan}, "set": {"b", "a"}, "path": Path("a/b")}
    wanted = {"1": ["inf", ["-inf", 0.5]], "none": {"deep": None}, "set": ["a", "b"], "path": "a/b"}
    assert strict(to_json(value, indent)) == wanted


def test_what_json_cannot_hold_is_an_error_and_not_text(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"thing": object()})
    assert not list(tmp_path.iterdir())


def test_text_is_utf8_and_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "page.html"
    write_text(path, "Größe 5 µm")
    assert path.read_bytes() == "Größe 5 µm".encode()

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_text(path, "another")
    assert path.read_bytes() == "Größe 5 µm".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_digest_of_text_bytes_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "two").write_bytes(b"2" * (3 << 20))
    (tmp_path / "one").write_bytes(b"1")
    whole = hashlib.sha256(b"a" + b"0" + b"1" + b"two" + b"2" * (3 << 20)).hexdigest()
    assert digest("a", b"0", tmp_path / "one", tmp_path / "b") == whole
    assert digest("ab") == digest(b"a", "b") != digest("ba")


def test_a_users_message_is_one_line() -> None:
    assert str(UserError("no file 'a\nb\x1b[31m'")) == "no file 'a?b?[31m'"
    assert issubclass(UserError, ValueError)


def test_files_needs_the_standard_library_alone() -> None:
    tree = ast.parse(Path(files.__file__).read_text(encoding="utf-8"))
    tops = {alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    tops |= {str(node.module).split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert tops <= sys.stdlib_module_names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_there_are_no_twins(path: Path) -> None:
    """Another hash helper or JSON writer would be another policy."""
    if path == Path(files.__file__):
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names |= {
        alias.name for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names
    }
    assert not names & {"hashlib", "dumps", "dump"}
