"""The benchmark's table as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby

from hetcache.benchmark.rows import Row
from hetcache.benchmark.table import Column, columns

TEXT = ("method", "setting")


def table_html(rows: Sequence[Row]) -> str:
    """A scrolling table whose first column stays, and what its columns mean. A column without a value is dropped."""
    shown = [column for column in columns() if column.name in TEXT or any(column.text(row) != "-" for row in rows)]
    starts = _group_starts(shown)
    groups = "".join(
        f'<th colspan="{len(list(members))}" class="first-of-group">{escape(group)}</th>'
        for group, members in groupby(shown[2:], key=lambda column: column.group)
    )
    head = "".join(
        f'<th class="{_classes(column, index, starts)}" title="{escape(column.meaning)}">{escape(column.name)}</th>'
        for index, column in enumerate(shown)
    )
    body = "".join(_row(row, shown, starts) for row in rows)
    return (
        '<div class="scroll"><table>\n<thead><tr class="groups"><th class="corner"></th><th></th>'
        f"{groups}</tr><tr>{head}</tr></thead>\n<tbody>{body}</tbody>\n</table></div>\n{_meanings(shown)}"
    )


def _row(row: Row, shown: Sequence[Column], starts: set[int]) -> str:
    name = f"<th>{escape(str(row['method']))}</th>"
    if not row["runs"]:
        return (f'<tr class="failed">{name}<td class="text setting">{escape(row["setting"])}</td>'
                f'<td colspan="{len(shown) - 2}">failed: {escape(str(row.get("failed", "")))}</td></tr>')
    cells = "".join(
        f'<td class="{_classes(column, index, starts)}">{escape(column.text(row))}</td>'
        for index, column in enumerate(shown) if index
    )
    ours = ' class="ours"' if str(row["mode"]).startswith("hetcache") else ""
    return f"<tr{ours}>{name}{cells}</tr>"


def _classes(column: Column, index: int, starts: set[int]) -> str:
    names = []
    if index == 0:
        names.append("corner")
    if column.name in TEXT:
        names.append("text")
    if column.name == "setting":
        names.append("setting")
    if index in starts:
        names.append("first-of-group")
    return " ".join(names)


def _group_starts(shown: Sequence[Column]) -> set[int]:
    return {index for index in range(2, len(shown)) if shown[index].group != shown[index - 1].group}


def _meanings(shown: Sequence[Column]) -> str:
    items = "".join(
        f"<dt>{escape(' '.join(part for part in (column.group, column.name) if part))}</dt>"
        f"<dd>{escape(column.meaning)}</dd>"
        for column in shown
    )
    return f"<details><summary>What the columns mean</summary><dl>{items}</dl></details>"
