"""docs/record.md says of every key of a real record what it is, and names no key that no record has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from error_tables import TINY, smooth_tables
from long_runs import make_clip, make_mask

import inference
from hetcache.modes import MODES
from hetcache.run import exact

PAGE = Path(__file__).resolve().parents[2] / "docs" / "record.md"
ROW = re.compile(r"^\| `([^`]+)` \| ([^|]+) \| ([^|]*) \|$", re.MULTILINE)
DOCUMENTED = {
    key: (kind.strip(), meaning.strip()) for key, kind, meaning in ROW.findall(PAGE.read_text(encoding="utf-8"))
}
TYPES: dict[str, tuple[type, ...]] = {
    "integer": (int,),
    "number": (int, float),
    "string": (str,),
    "boolean": (bool,),
    "array": (list,),
    "any": (object,),
    "null": (type(None),),
}
OWN = {field.name for field in fields(MODES["hetcache"].config)}


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of what a row of the page can describe; `a[].b` for objects in arrays."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for item in value:
            yield from leaves(item, f"{path}[]")
    else:
        yield path, value


def row(path: str) -> str | None:
    """The documented key that describes `path`."""
    if path.startswith("config.") and path.removeprefix("config.") in OWN:
        return "config.NAME"
    inner = path.removeprefix("windows[].")  # a window's figures are described with the record's
    candidates = (path, re.sub(r"[^.]+$", "NAME", path), inner, re.sub(r"[^.]+$", "NAME", inner))
    return next((key for key in candidates if key in DOCUMENTED and (key != "config.NAME")), None)


def fits(value: Any, kind: str) -> bool:
    names = kind.split(" or ")
    if isinstance(value, bool):
        return "boolean" in names or "any" in names
    return any(isinstance(value, TYPES[name]) for name in names) or ("number" in names and value in ("inf", "-inf"))


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Of one window with --compare, of three windows of which two have nothing to edit, of nothing to edit, of a plan
    for a time."""
    folder = tmp_path_factory.mktemp("records")
    make_clip(folder)
    make_mask(folder / "some.mp4", range(8))
    make_mask(folder / "empty.mp4", range(0))
    small = "--height 48 --width 64 --model tiny --mode hetcache --steps 2 --window 9 --overlap 5".split()
    runs = {
        "compared": ("m.mp4", "--frames", "9", "--compare"),
        "long": ("some.mp4", "--frames", "all"),
        "nothing": ("empty.mp4", "--frames", "9"),
    }
    found = {}
    for name, (mask, *words) in runs.items():
        files = [f"--video={folder / 'v.mp4'}", f"--mask={folder / mask}", f"--output={folder / name}.mp4"]
        assert inference.main([*small, *files, *words]) == 0
        found[name] = json.loads((folder / f"{name}.json").read_text())
    with pytest.MonkeyPatch.context() as patch:
        smooth_tables(origin=TINY).save(folder / "tables")
        patch.setattr(exact, "tables_file", lambda calibration: folder / "tables")
        files = [f"--video={folder / 'v.mp4'}", f"--mask={folder / 'm.mp4'}", f"--output={folder / 'planned'}.mp4"]
        assert inference.main([*small, *files, "--frames", "9", "--seconds", "1000", "--compare"]) == 0
        found["planned"] = json.loads((folder / "planned.json").read_text())
    return found


@pytest.mark.parametrize("name", ["compared", "long", "nothing", "planned"])
def test_every_key_is_documented_with_its_type(name: str, records: dict[str, dict[str, Any]]) -> None:
    for path, value in leaves(records[name]):
        if value in ({}, []) and row(path) is None:
            continue  # an object or array without content
        key = row(path)
        assert key is not None, f"{path} is not in {PAGE.name}"
        assert fits(value, DOCUMENTED[key][0]), f"{path} is {value!r}, not {DOCUMENTED[key][0]}"


def test_no_documented_key_is_invented(records: dict[str, dict[str, Any]]) -> None:
    seen = {row(path) for record in records.values() for path, _ in leaves(record)}
    empty = {"notes.NAME"}  # hetcache with these flags has nothing to note
    elsewhere = {"hardware.gpu", "fell_back"}
    assert set(DOCUMENTED) - seen <= empty | elsewhere
    always = {key for key, (_, meaning) in DOCUMENTED.items() if not meaning.startswith("only")}
    for name in ("compared", "long"):
        assert always - {row(path) for path, _ in leaves(records[name])} <= empty
