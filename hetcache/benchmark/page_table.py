"""The benchmark's table as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby

from hetcache.benchmark.rows import Row
from hetcache.benchmark.table import NONE, Column, columns
from hetcache.report.text import breakable

FOLDED = ("setting", "range")
"""Columns that stand in small type below the one before them."""


def table_html(rows: Sequence[Row]) -> str:
    """A scrolling table whose first column stays, and what its columns mean. A column without a value is dropped."""
    shown = [column for column in columns() if any(column.text(row) != NONE for row in rows)]
    heads = [column for column in shown if column.name not in FOLDED]
    starts = {index for index in range(1, len(heads)) if heads[index].group != heads[index - 1].group}
    groups = "".join(
        f'<th colspan="{len(list(members))}" class="start">{escape(group)}</th>'
        for group, members in groupby(heads[1:], key=lambda column: column.group)
    )
    names = "".join(
        f'<th{_start(index, starts)} title="{escape(column.meaning)}">{escape(column.name)}</th>'
        for index, column in enumerate(heads)
        if index
    )
    body = "".join(_row(row, shown, starts) for row in rows)
    return (
        '<div class="scroll"><table>\n<thead><tr class="groups"><th class="corner" rowspan="2">method</th>'
        f"{groups}</tr><tr>{names}</tr></thead>\n<tbody>{body}</tbody>\n</table></div>\n{_meanings(shown)}"
    )


def _row(row: Row, shown: Sequence[Column], starts: set[int]) -> str:
    cells: list[tuple[str, str]] = []
    for column in shown:
        if column.name in FOLDED:
            small = column.text(row)
            told = small == NONE or (column.name == "setting" and _in_name(row))
            cells[-1] = (cells[-1][0], "" if told else small)
        else:
            cells.append((column.text(row), ""))
    texts = [breakable(text) + (f"<small>{escape(small)}</small>" if small else "") for text, small in cells]
    if not row["runs"]:
        message = f"failed: {escape(str(row.get('failed', '')))}"
        return f'<tr class="failed"><th>{texts[0]}</th><td colspan="{len(texts) - 1}"><div>{message}</div></td></tr>'
    ours = ' class="ours"' if str(row["mode"]).startswith("hetcache") else ""
    body = "".join(f"<td{_start(index, starts)}>{text}</td>" for index, text in enumerate(texts) if index)
    return f"<tr{ours}><th>{texts[0]}</th>{body}</tr>"


def _in_name(row: Row) -> bool:
    """Does the method's name already say its setting, as in hetcache:cache_thresh=0.1, steps:25 and exact:5?"""
    return any(sign in row["method"] for sign in ("=", "exact:")) or row["method"] == f"steps:{row['steps'][0]}"


def _start(index: int, starts: set[int]) -> str:
    return ' class="start"' if index in starts else ""


def _meanings(shown: Sequence[Column]) -> str:
    items = "".join(
        f"<dt>{escape(' '.join(part for part in (column.group, column.name) if part))}</dt>"
        f"<dd>{escape(column.meaning)}</dd>"
        for column in shown
    )
    return f"<details><summary>What the columns mean</summary><dl>{items}</dl></details>"
