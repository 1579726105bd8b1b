"""A strip per method: one column a step, as high as its share of a full step's FLOPs, coloured by what it did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from hetcache.report.text import breakable

WIDTH, HEIGHT = 1000.0, 40.0
SLIVER = 0.06
"""The least height of a column: a reused step must be seen, too."""
NAMES = {"full": "full", "partial": "partial", "blocks": "by blocks", "reuse": "reused"}


@dataclass(frozen=True)
class Timeline:
    """`steps` of one CFG branch as in a run's record; `full_flops` those of one full step of that branch."""

    name: str
    note: str
    steps: Sequence[Mapping[str, Any]]
    full_flops: float


def branch_timelines(name: str, record: Mapping[str, Any]) -> list[Timeline]:
    """A run's timelines: one, or two where the branches of guidance decided differently."""
    steps = record["steps"]
    full = record["flops"]["uncached"] / max(len(steps), 1)
    found = []
    decisions = {branch: letters for branch, letters in record["decisions"].items() if letters}
    same = len(set(decisions.values())) == 1
    for branch, letters in decisions.items():
        counts = " ".join(f"{letters.count(letter)}{letter}" for letter in "FPBR" if letter in letters)
        own = [step for step in steps if step["branch"] == branch]
        found.append(Timeline(name if same else f"{name} ({branch})", counts, own, full))
        if same:
            break
    return found


def timelines_html(timelines: Sequence[Timeline]) -> str:
    rows = "".join(
        f'<div class="line"><span class="name">{breakable(line.name)}</span>{_strip(line)}'
        f'<span class="counts">{escape(line.note)}</span></div>'
        for line in timelines
    )
    return (
        "<p class=\"note\">One column a step, from noise to picture. Its height is the step's share of a full step's "
        "FLOPs; hover for the decision and its reason. "
        '<span class="legend"><i class="swatch full"></i>full <i class="swatch partial"></i>partial '
        '<i class="swatch reuse"></i>reused</span></p>'
        f'<div class="timelines">{rows}</div>'
    )


def _strip(line: Timeline) -> str:
    width = WIDTH / max(len(line.steps), 1)
    gap = min(width * 0.12, 3.0)
    columns = []
    for index, step in enumerate(line.steps):
        share = min(max(step["flops"] / line.full_flops if line.full_flops else 0.0, SLIVER), 1.0)
        height = HEIGHT * share
        columns.append(
            f'<g><rect class="track" x="{index * width:.2f}" y="0" width="{width - gap:.2f}" height="{HEIGHT:g}"/>'
            f'<rect class="{step["compute"]}" x="{index * width:.2f}" y="{HEIGHT - height:.2f}" '
            f'width="{width - gap:.2f}" height="{height:.2f}"/><title>{escape(_words(step, share))}</title></g>'
        )
    label = f"{line.name}: {line.note}"
    return (
        f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(label)}">{"".join(columns)}</svg>'
    )


def _words(step: Mapping[str, Any], share: float) -> str:
    text = f"step {step['step'] + 1}, t = {step['timestep']:g}: {NAMES[step['compute']]}, {step['reason']}"
    if step["signal"] is not None and step["threshold"] is not None:
        text += f" ({step['signal']:.4g} against {step['threshold']:.4g})"
    return f"{text}; {step['tokens']} tokens, {share:.0%} of a full step"
