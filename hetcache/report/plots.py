"""The Pareto plot: denoising time against in-mask PSNR, as SVG images for wide and narrow screens."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hetcache.metrics.errors import optional_import
from hetcache.report.viewer import data_uri

OURS, OTHERS, STEPS, BASELINE = "#0b6e75", "#5b6875", "#c8501e", "#16202b"
OFFSETS = (
    (8, 0, "left", "center"),
    (-8, 0, "right", "center"),
    (0, 9, "center", "bottom"),
    (0, -9, "center", "top"),
    (8, 10, "left", "bottom"),
    (8, -10, "left", "top"),
    (-8, 10, "right", "bottom"),
    (-8, -10, "right", "top"),
)

LONGEST_LABEL = 30


@dataclass(frozen=True)
class Point:
    """A method: median denoising seconds with lowest and highest, PSNR in dB. `kind`: ours, steps or other."""

    name: str
    seconds: float
    low: float
    high: float
    psnr_db: float
    kind: str = "other"


def pareto_html(points: Sequence[Point], baseline_s: float | None) -> str:
    """Two images of the same plot, one of which CSS shows; empty without points. Needs matplotlib."""
    if not points:
        return ""
    wide, narrow = (
        data_uri("image/svg+xml", pareto_svg(points, baseline_s, size).encode()) for size in ((10.0, 5.2), (4.6, 4.8))
    )
    text = "denoising time against in-mask PSNR: " + ", ".join(
        f"{point.name} {point.seconds:.2f} s {point.psnr_db:.1f} dB" for point in points
    )
    return (
        '<p class="note">Up and to the left is better: PSNR inside the mask against the uncached output, over the time '
        "of the denoising loop. The line joins the methods that no other one beats in both.</p>"
        f'<img class="wide" alt="{text}" src="{wide}"><img class="narrow" alt="{text}" src="{narrow}">'
    )


def frontier(points: Sequence[Point]) -> list[Point]:
    """The points that no other one beats in time and PSNR, by rising time."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.seconds, -p.psnr_db)):
        if not best or point.psnr_db > best[-1].psnr_db:
            best.append(point)
    return best


def pareto_svg(points: Sequence[Point], baseline_s: float | None, size: tuple[float, float]) -> str:
    """`size` in inches. Raises MissingDependencyError without matplotlib."""
    figures = optional_import("matplotlib.figure", "matplotlib", "the report's plot")
    matplotlib = optional_import("matplotlib", "matplotlib", "the report's plot")
    agg = optional_import("matplotlib.backends.backend_agg", "matplotlib", "the report's plot")
    style = {"svg.fonttype": "none", "svg.hashsalt": "hetcache", "font.size": 10, "font.family": "sans-serif"}
    with matplotlib.rc_context(style):
        figure = figures.Figure(figsize=size, layout="constrained")
        agg.FigureCanvasAgg(figure)  # measures the labels that _place_labels moves
        axes = figure.add_subplot()
        _scatter(axes, points)
        if baseline_s is not None:
            axes.axvline(baseline_s, color=BASELINE, linewidth=1, linestyle=(0, (4, 3)))
            axes.annotate(
                "baseline",
                (baseline_s, 1),
                xycoords=("data", "axes fraction"),
                xytext=(-4, -4),
                textcoords="offset points",
                ha="right",
                va="top",
                rotation=90,
                color=BASELINE,
                fontsize=9,
            )
        axes.set_xlabel("denoising time, seconds")
        axes.set_ylabel("PSNR in mask, dB")
        axes.set_xlim(left=0)
        axes.margins(y=0.14)
        axes.grid(color="#e6ebf0", linewidth=0.8)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        _place_labels(figure, axes, points, baseline_s)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _scatter(axes: Any, points: Sequence[Point]) -> None:
    best = frontier(points)
    axes.plot([p.seconds for p in best], [p.psnr_db for p in best], color="#9fb4c4", linewidth=1.4, zorder=1)
    for point in points:
        colour = {"ours": OURS, "steps": STEPS}.get(point.kind, OTHERS)
        marker = {"ours": "D", "steps": "s"}.get(point.kind, "o")
        if point.high > point.low:
            axes.plot([point.low, point.high], [point.psnr_db] * 2, color=colour, linewidth=1.2, alpha=0.6, zorder=2)
        axes.scatter(
            [point.seconds],
            [point.psnr_db],
            s=46,
            color=colour,
            marker=marker,
            zorder=3,
            edgecolors="white",
            linewidths=0.8,
        )


def _place_labels(figure: Any, axes: Any, points: Sequence[Point], baseline_s: float | None) -> None:
    """Each name at the first of eight places around its point where it covers nothing, else at the first."""
    figure.canvas.draw()
    area = axes.get_window_extent()
    bars = []
    for point in points:
        (x0, y), (x1, _) = axes.transData.transform([(point.low, point.psnr_db), (point.high, point.psnr_db)])
        bars.append((x0, x1, y))
    lines = [] if baseline_s is None else [axes.transData.transform((baseline_s, 0))[0]]
    taken: list[Any] = []
    for point in sorted(points, key=lambda p: (p.kind != "ours", p.psnr_db)):
        colour = {"ours": OURS, "steps": STEPS}.get(point.kind, "#3b4753")
        chosen = None
        for dx, dy, ha, va in OFFSETS:
            label = _label(axes, point, (dx, dy, ha, va), colour)
            box = label.get_window_extent(figure.canvas.get_renderer())
            inside = area.x0 <= box.x0 and box.x1 <= area.x1 and area.y0 <= box.y0 and box.y1 <= area.y1
            free = inside and not any(box.overlaps(other) for other in taken)
            free = free and not any(box.x0 - 2 <= x <= box.x1 + 2 for x in lines)
            if free and not any(
                x0 - 3 <= box.x1 and box.x0 - 3 <= x1 and box.y0 - 2 <= y <= box.y1 + 2 for x0, x1, y in bars
            ):
                chosen = label
                break
            label.remove()
        if chosen is None:
            chosen = _label(axes, point, OFFSETS[0], colour)
        taken.append(chosen.get_window_extent(figure.canvas.get_renderer()))


def _label(axes: Any, point: Point, place: tuple[int, int, str, str], colour: str) -> Any:
    dx, dy, ha, va = place
    name = point.name if len(point.name) <= LONGEST_LABEL else point.name[: LONGEST_LABEL - 3] + "..."
    label = axes.annotate(
        name,
        (point.seconds, point.psnr_db),
        xytext=(dx, dy),
        textcoords="offset points",
        ha=ha,
        va=va,
        fontsize=9,
        color=colour,
        bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 0.6},
    )
    label.set_in_layout(False)  # a long name must not squeeze the axes
    return label
