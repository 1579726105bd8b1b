"""Links and paths in the documents lead somewhere, and the table of floors is the one that tests hold."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_imports import FLOORS

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "data").glob("*.md")])
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page: Path) -> None:
    if page.name != "CHANGELOG.md":  # that tells what was
        folders = "tests|scripts|hetcache|diffsynth_patches|baselines"
        named = re.findall(rf"(?<![\w/.])((?:{folders})/[a-z0-9_./-]+\.(?:py|sh))", page.read_text(encoding="utf-8"))
        assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_page_is_in_the_index() -> None:
    linked = re.findall(r"\]\(([^)#\s]+)\)", (ROOT / "docs" / "README.md").read_text(encoding="utf-8"))
    assert {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"} <= set(linked)


def test_paths_of_the_architecture_exist() -> None:
    paths = [word for word in re.findall(r"`([\w./-]+)`", ARCHITECTURE) if "/" in word]
    assert len(paths) > 30
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_table_of_floors_is_the_tests_own() -> None:
    rows = re.findall(r"^\| (\d) \| ([^|]+) \|", ARCHITECTURE, re.MULTILINE)
    documented = {int(floor): set(re.findall(r"`(\w+)`", rooms)) for floor, rooms in rows}
    there = {path.stem for path in (ROOT / "hetcache").iterdir()} | {"baselines"}
    assert documented == {floor: rooms & there for floor, rooms in enumerate(FLOORS)}
