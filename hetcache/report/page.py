"""The page: its parts as values, and their HTML. Everything is inlined: no file beside it, no network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from hetcache.files import to_json
from hetcache.report.text import breakable
from hetcache.report.timeline import Timeline, timelines_html
from hetcache.report.viewer import Viewer, viewer_html

HERE = Path(__file__).parent

PAGE_MARK = '<meta name="generator" content="hetcache">'
"""In every page's head: tells one of this tool's from a person's own, which is not to be written over."""


@dataclass(frozen=True)
class Card:
    """One figure to see first."""

    figure: str
    label: str
    note: str = ""


@dataclass(frozen=True)
class TokenMapPart:
    """`tokens` as `hetcache.report.tokens.token_map` gives it; `images` a JPEG data URI for each latent frame."""

    name: str
    tokens: Mapping[str, Any]
    images: list[str]


@dataclass(frozen=True)
class Page:
    """A report. `tables` are (heading, HTML); `plot` an HTML fragment; an empty part is left out of the page."""

    title: str
    lead: str
    cards: list[Card] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    tables: list[tuple[str, str]] = field(default_factory=list)
    plot: str = ""
    timelines: list[tuple[str, list[Timeline]]] = field(default_factory=list)
    token_maps: list[TokenMapPart] = field(default_factory=list)
    viewers: list[Viewer] = field(default_factory=list)
    environment: list[tuple[str, str]] = field(default_factory=list)
    commands: list[tuple[str, str]] = field(default_factory=list)


def render(page: Page) -> str:
    """The whole HTML document."""
    parts = [
        _header(page),
        *(_section(heading, table, "table") for heading, table in page.tables),
        _section("Quality against time", page.plot, "plot") if page.plot else "",
        *(
            _section("Side by side" if len(page.viewers) == 1 else f"Side by side: {viewer.name}", viewer_html(viewer))
            for viewer in page.viewers
        ),
        *(_section(heading, timelines_html(lines)) for heading, lines in page.timelines if lines),
        _section("Tokens", _token_maps(page.token_maps)) if page.token_maps else "",
        _section("Environment", _facts(page.environment)) if page.environment else "",
        _section("Commands", _commands(page.commands)) if page.commands else "",
    ]
    style, script = (HERE / "page.css").read_text(), (HERE / "page.js").read_text()
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"{PAGE_MARK}\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(page.title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + f"\n</main>\n<script>\n{script}</script>\n</body>\n</html>\n"
    )


def _header(page: Page) -> str:
    cards = "".join(
        f'<div class="card"><b>{escape(card.figure)}</b><span>{breakable(card.label)}</span>'
        f"<small>{escape(card.note)}</small></div>"
        for card in page.cards
    )
    warnings = "".join(f'<p class="warning">{escape(line)}</p>' for line in page.warnings)
    return (
        f'<header>\n<h1>{escape(page.title)}</h1>\n<p class="lead">{escape(page.lead)}</p>\n{warnings}'
        + (f'<div class="cards">{cards}</div>' if cards else "")
        + "\n</header>"
    )


def _section(heading: str, body: str, kind: str = "") -> str:
    name = f' class="{kind}"' if kind else ""
    return f"<section{name}>\n<h2>{escape(heading)}</h2>\n{body}\n</section>"


def _token_maps(maps: list[TokenMapPart]) -> str:
    images = list(dict.fromkeys(image for part in maps for image in part.images))
    shown = [{**part.tokens, "images": [images.index(image) for image in part.images]} for part in maps]
    data = {"images": images, "maps": shown}
    choice = "".join(f'<option value="{index}">{escape(part.name)}</option>' for index, part in enumerate(maps))
    return (
        '<p class="note">Left: the classes of all tokens (16 x 16 pixels of one latent frame). Right: what a partial '
        "step computed; the dimmed tokens came from the cache.</p>"
        f'<div class="tokens" data-tokens>{_json(data)}'
        f'<div class="controls"><label>method <select data-method>{choice}</select></label>'
        '<label>step <input type="range" data-step min="0" value="0"><output data-step-name></output></label>'
        '<label>latent frame <input type="range" data-frame min="0" value="0"><output data-frame-name></output></label>'
        "</div>"
        '<div class="pair"><figure><canvas data-classes></canvas><figcaption>'
        '<i class="swatch generative"></i>generative <span data-count="2"></span>'
        '<i class="swatch margin"></i>margin <span data-count="1"></span>'
        '<i class="swatch context"></i>context <span data-count="0"></span></figcaption></figure>'
        "<figure><canvas data-computed></canvas><figcaption data-computed-counts></figcaption></figure></div></div>"
    )


def _facts(facts: list[tuple[str, str]]) -> str:
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts)
    return f'<dl class="facts">{rows}</dl>'


def _commands(commands: list[tuple[str, str]]) -> str:
    return "".join(
        f'<div class="command"><span>{breakable(name)}</span><code>{_unbroken(command)}</code>'
        '<button type="button" data-copy>copy</button></div>'
        for name, command in commands
    )


def _unbroken(command: str) -> str:
    """A command that wraps between its words only: browsers also break after the hyphens of a flag."""
    return " ".join(f"<i>{escape(word)}</i>" for word in command.split(" "))


def _json(value: Any) -> str:
    """JSON inside a script element; `<` is escaped, so that no text can end the element."""
    return f'<script type="application/json">{to_json(value, indent=None).replace("<", chr(92) + "u003c")}</script>'
