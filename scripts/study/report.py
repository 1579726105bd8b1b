"""The study's report: Markdown to be read, JSON for a program, a plot with bands for each length."""

from __future__ import annotations

import io
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from hetcache.files import write_json, write_text
from hetcache.metrics.errors import optional_import
from scripts.study.curves import FIGURES, SPEEDUPS, Curves, Figure, mean_at
from scripts.study.gather import Runs, ours_of, summary
from scripts.study.study import Study

COLOURS = ("#0b6e75", "#c8501e", "#5b6875", "#8a4fb0", "#b58900", "#3a7d2c", "#c2477a", "#2f5fb3", "#7a5230", "#111111")

BANDS = 6

TIMES = "Times are in the JSON for what they are worth: runs follow each other, on a machine that may be shared."


def write_report(study: Study, command: str, publish: Path | None) -> list[Path]:
    """Write study.md, study.json and a plot per length to the study's folder and, under dated names, to `publish`.
    Returns the files. Raises ValueError while no clip and seed is finished."""
    lengths = [runs for frames in sorted(study.asked.lengths) if (runs := Runs(study, frames)).blocks]
    if not lengths:
        raise ValueError(f"--output {study.asked.output}: no clip and seed is finished with all of these curves yet")
    figures = {
        "command": command,
        **study.facts(),
        "origin": {case.name: study.origin(case) for case in study.cases},
        "curves": {sweep.name: {"methods": sweep.words, "note": sweep.note} for sweep in study.asked.sweeps},
        "lengths": [summary(runs) for runs in lengths],
    }
    written = []
    stem = f"{date.today()}-{study.facts()['model']}-{study.asked.size[1]}x{study.asked.size[0]}"
    for folder, name in ((study.asked.output, "study"), *(() if publish is None else ((publish, stem),))):
        folder.mkdir(parents=True, exist_ok=True)
        plots = {runs.frames: f"{name}-{runs.frames}-frames.svg" for runs in lengths}
        for runs in lengths:
            write_text(folder / plots[runs.frames], plot_svg(runs))
        write_text(folder / f"{name}.md", page(figures, plots))
        write_json(folder / f"{name}.json", figures)
        written += [folder / f"{name}.md", folder / f"{name}.json", *(folder / plot for plot in plots.values())]
    return written


def page(figures: dict[str, Any], plots: dict[int, str]) -> str:
    """Markdown of the whole report."""
    width, height = figures["size"][1], figures["size"][0]
    lines = [
        f"# Many clips: curves of every method, {figures['model']} at {width}x{height}",
        "",
        f"Made by `{figures['command']}` on {figures['hardware']['cpu']}, {figures['hardware']['threads']} thread.",
        f"{figures['steps']} steps, guidance {figures['settings']['cfg_scale']:g}, shift "
        f"{figures['settings']['sigma_shift']:g}. Every method is swept over its dial; a curve's value at a speed-up "
        "is read off between two measured points, by the logarithms of speed-up and LPIPS, and never beyond them. "
        "Speed-ups are ratios of FLOPs to the uncached run. Quality is of raw outputs against the uncached run of the "
        "same clip and seed, in the mask. Means are over clips (seeds of a clip averaged first); in brackets the "
        f"middle 95 % of drawing clips again, which for this few clips is narrow rather than wide. {TIMES}",
        "",
        *_clips(figures),
        *_curve_words(figures),
    ]
    for length in figures["lengths"]:
        lines += _length(length, plots[length["frames"]])
    return "\n".join(lines) + "\n"


def _clips(figures: dict[str, Any]) -> list[str]:
    lines = ["| clip | where it is from | mask |", "|---|---|---|"]
    where = {
        "generated": "generated, `scripts/study/clips.py`",
        "example": "`data/real.mp4`",
        "own": "own folder (of the published report: DAVIS 2017, which is not ours to hand on)",
    }
    masked: dict[str, float] = {}
    for length in figures["lengths"]:
        masked |= length["masked"]
    lines += [f"| {name} | {where[figures['origin'][name]]} | {share:.1%} |" for name, share in masked.items()]
    return [*lines, ""]


def _curve_words(figures: dict[str, Any]) -> list[str]:
    lines = ["| curve | its points | |", "|---|---|---|"]
    for name, curve in figures["curves"].items():
        lines.append(f"| {name} | {', '.join(f'`{word}`' for word in curve['methods'])} | {curve['note']} |")
    return [*lines, ""]


def _length(length: dict[str, Any], plot: str) -> list[str]:
    blocks = length["blocks"]
    clips, seeds = len({clip for clip, _ in blocks}), sorted({seed for _, seed in blocks})
    lines = [f"## {length['frames']} frames", ""]
    lines.append(
        f"{clips} clips, seeds {', '.join(map(str, seeds))}: {len(blocks)} of {length['began']} blocks of clip and "
        "seed that were begun are finished in all of these curves."
    )
    if length["unfinished"]:
        counts = ", ".join(f"{name} ({count})" for name, count in length["unfinished"].items())
        lines.append(f"Left out, because finished in less than half of them: {counts}.")
    lines += ["", f"![curves of {length['frames']} frames]({plot})", ""]
    for figure in FIGURES:
        found = length[figure.key]
        lines += [f"**{figure.title}**" + ("" if figure.higher_is_better else ", lower is better"), ""]
        lines += [_head("method"), _rule()]
        for name, by_speed in found["mean"].items():
            cells = [_mean(by_speed[f"{speedup:g}"], figure) for speedup in SPEEDUPS]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        lines.append("")
        if "standing" not in found:
            continue
        lines += [f"HetCache ahead in {figure.title.split()[0]}: mean difference (more is better), blocks ahead", ""]
        lines += [_head("HetCache against"), _rule()]
        for name, by_speed in found["against"].items():
            lines.append(f"| {name} | {' | '.join(_duel(by_speed[f'{s:g}'], figure) for s in SPEEDUPS)} |")
        cells = [_standing(found["standing"][f"{speedup:g}"]) for speedup in SPEEDUPS]
        lines += [f"| **every other method** | {' | '.join(cells)} |", ""]
    return lines


def _head(first: str) -> str:
    return f"| {first} | " + " | ".join(f"{speedup:g}x" for speedup in SPEEDUPS) + " |"


def _rule() -> str:
    return "|---" * (len(SPEEDUPS) + 1) + "|"


def _mean(reach: dict[str, Any], figure: Figure) -> str:
    found = reach["estimate"]
    if found is None:
        return f"out of range ({reach['reached']} of {reach['blocks']} reach it)"
    digits = figure.decimals
    return f"{found['mean']:.{digits}f} [{found['low']:.{digits}f}, {found['high']:.{digits}f}]"


def _duel(met: dict[str, Any] | None, figure: Figure) -> str:
    if met is None:
        return "out of range"
    gap, digits = met["difference"], figure.decimals
    return (
        f"{gap['mean']:+.{digits}f} [{gap['low']:+.{digits}f}, {gap['high']:+.{digits}f}], "
        f"{met['ahead']} of {met['blocks']}"
    )


def _standing(stood: dict[str, Any] | None) -> str:
    if stood is None:
        return "out of range"
    best = ", ".join(f"{name} {count}" for name, count in sorted(stood["best"].items(), key=lambda item: -item[1]))
    return f"{stood['ahead']} of {stood['blocks']}" + (f" (else {best})" if best else "")


def plot_svg(runs: Runs) -> str:
    """Both figures over the speed-up: means over clips with bands, where every block's curve is. Needs matplotlib."""
    figures = optional_import("matplotlib.figure", "matplotlib", "the study's plot")
    matplotlib = optional_import("matplotlib", "matplotlib", "the study's plot")
    style = {"svg.fonttype": "none", "svg.hashsalt": "hetcache", "font.size": 10, "font.family": "sans-serif"}
    with matplotlib.rc_context(style):
        drawing = figures.Figure(figsize=(12, 4.8), layout="constrained")
        for axes, figure in zip(drawing.subplots(1, len(FIGURES)), FIGURES, strict=True):
            _draw(axes, runs.curves, figure)
            axes.set_xscale("log")
            axes.set_xticks(SPEEDUPS, [f"{speedup:g}x" for speedup in SPEEDUPS])
            axes.minorticks_off()
            axes.set(xlabel="speed-up (FLOPs)", ylabel=figure.title)
            axes.grid(alpha=0.25)
            if not figure.higher_is_better:
                axes.set_yscale("log")
        lines, names = drawing.axes[0].get_legend_handles_labels()
        drawing.legend(lines, names, loc="outside right center", fontsize=8, frameon=False)
        text = io.StringIO()
        drawing.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def _draw(axes: Any, curves: Curves, figure: Figure) -> None:
    """Solid lines are ours, the thickest is the default; bands of more curves than `BANDS` would hide each other."""
    ours = ours_of(curves)
    for number, name in enumerate(curves):
        colour = COLOURS[number % len(COLOURS)]
        reached = [(float(s), mean_at(curves[name], float(s), figure).estimate) for s in np.geomspace(1.8, 14, 40)]
        known = [(speed, found) for speed, found in reached if found is not None]
        if not known:
            continue
        speeds = [speed for speed, _ in known]
        dashes = "-" if name in ours else "--" if number < len(COLOURS) else ":"
        style = {"linewidth": 2.8 if name in ours[:1] else 1.4, "linestyle": dashes}
        axes.plot(speeds, [found.mean for _, found in known], color=colour, label=name, **style)
        if len(curves) <= BANDS or name in ours[:1]:
            low, high = [found.low for _, found in known], [found.high for _, found in known]
            axes.fill_between(speeds, low, high, color=colour, alpha=0.12, linewidth=0)
