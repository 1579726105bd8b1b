"""The page of a benchmark from its document and what the store kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hetcache.benchmark.cells import Case, Cell, Store
from hetcache.benchmark.methods import BASELINE, Method
from hetcache.benchmark.page_table import table_html
from hetcache.benchmark.rows import Row
from hetcache.benchmark.runner import Plan
from hetcache.benchmark.table import failures
from hetcache.media.masks import read_mask, resize_frames, resize_mask
from hetcache.media.read import probe, read_frames
from hetcache.report.page import Card, Page, TokenMapPart, render
from hetcache.report.plots import Point, pareto_html
from hetcache.report.timeline import Timeline, branch_timelines
from hetcache.report.tokens import latent_images
from hetcache.report.viewer import Viewer

MAX_VIEWERS = 3
"""Videos shown side by side: each costs the page megabytes. The table holds all of them."""

Frames = NDArray[np.uint8]


def benchmark_html(document: Mapping[str, Any], plan: Plan, store: Store) -> str:
    """The page. `document` is the JSON that `hetcache.benchmark.document` writes. Needs matplotlib."""
    rows: list[Row] = document["rows"]
    tables = [("Methods", table_html(rows))]
    for name, own in document["rows_by_video"].items():
        tables.append((f"Methods on {name}", table_html(own)))
    cells = _finished(plan, plan.cases[0], store)
    viewers = (
        []
        if document["random_weights"]
        else [viewer for case in plan.cases[:MAX_VIEWERS] if (viewer := _viewer(plan, case, store)) is not None]
    )
    return render(
        Page(
            title=document["title"],
            lead=document["lead"],
            cards=_cards(rows),
            warnings=[*document["warnings"], *failures(rows)],
            tables=tables,
            plot=pareto_html(
                _points(rows), next((row.get("denoise_s") for row in rows if row["mode"] == BASELINE), None)
            ),
            timelines=[("Steps", _timelines(cells, store))],
            token_maps=_token_maps(cells, store),
            viewers=viewers,
            environment=[(name, str(value)) for name, value in document["environment"].items()],
            commands=[(entry["method"], entry["command"]) for entry in document["commands"]],
        )
    )


def _cards(rows: list[Row]) -> list[Card]:
    cards = []
    for row in rows:
        if not row["runs"]:
            continue
        if row["method"] == BASELINE:
            cards.append(
                Card(f"{row['denoise_s']:.1f} s", "baseline, denoising", f"{row['end_to_end_s']:.1f} s end to end")
            )
        elif row["speedup"] and _kind(row) != "other" and not row["mode"].endswith("_teacache"):
            psnr = _in_mask_psnr(row)
            quality = f", {psnr:.1f} dB in mask" if psnr is not None else ""
            cards.append(
                Card(
                    f"{row['speedup']:.2f}x",
                    f"{row['method']}, denoising",
                    f"{row['end_to_end_speedup']:.2f}x end to end{quality}",
                )
            )
    return cards[:6]


def _points(rows: list[Row]) -> list[Point]:
    points = []
    for row in rows:
        psnr = _in_mask_psnr(row)
        if psnr is not None and np.isfinite(psnr):
            points.append(
                Point(row["method"], row["denoise_s"], row["denoise_min_s"], row["denoise_max_s"], psnr, _kind(row))
            )
    return points


def _kind(row: Row) -> str:
    if row["mode"].startswith("hetcache"):
        return "ours"
    return "steps" if row["mode"] == BASELINE and row["method"] != BASELINE else "other"


def _in_mask_psnr(row: Row) -> float | None:
    value = row.get("quality", {}).get("baseline", {}).get("in_mask", {}).get("psnr")
    return None if value is None else float(value)


def _finished(plan: Plan, case: Case, store: Store) -> list[Cell]:
    cells = [plan.settled(method, case, plan.seeds[0], store) for method in plan.methods]
    return [cell for cell in cells if store.run(cell, 0) is not None]


def _timelines(cells: list[Cell], store: Store) -> list[Timeline]:
    return [
        line
        for cell in cells
        if (record := store.run(cell, 0)) is not None
        for line in branch_timelines(cell.method.name, record)
    ]


def _token_maps(cells: list[Cell], store: Store) -> list[TokenMapPart]:
    found = []
    for cell in cells:
        record = store.run(cell, 0)
        if record is None or "token_map" not in record:
            continue
        config = record["config"]
        frames = read_frames(cell.case.video, count=config["frames"])
        images = latent_images(resize_frames(frames, config["height"], config["width"]), record["token_map"])
        found.append(TokenMapPart(cell.method.name, record["token_map"], images))
    # The best known first: HetCache's own maps, then those of compositions and other token methods.
    return sorted(found, key=lambda part: (not part.name.startswith("hetcache"), "_tea" in part.name))


def _viewer(plan: Plan, case: Case, store: Store) -> Viewer | None:
    """Source, mask, baseline, two methods of choice and what the first of them changed."""
    cells = _finished(plan, case, store)
    if not cells or cells[0].method.name != BASELINE or len(cells) < 2:
        return None
    record = store.run(cells[0], 0)
    assert record is not None
    config = record["config"]
    size = (config["height"], config["width"])
    source = read_frames(case.video, count=config["frames"])
    mask = read_mask(case.mask, count=config["frames"], size=source.shape[1:3])
    white = np.repeat(resize_mask(mask, *size)[..., None], 3, axis=3).astype(np.uint8) * 255
    tiles: list[tuple[str, Frames]] = [("source", resize_frames(source, *size)), ("mask", white)]
    tiles += [(cell.method.name, read_frames(store.video(cell))) for cell in cells]
    first, second = _shown_first([cell.method for cell in cells])
    panels: list[dict[str, Any]] = [
        {"tile": 0},
        {"tile": 1},
        {"tile": 2},
        {"choose": 2 + first},
        {"choose": 2 + second},
        {"difference": [3, 2]},
    ]
    return Viewer(case.name, probe(case.video).fps, tiles, panels)


def _shown_first(methods: list[Method]) -> tuple[int, int]:
    """Indices of the two methods to begin with: HetCache at its fastest, and fewer steps or the last one."""
    ours = [index for index, method in enumerate(methods) if method.mode.startswith("hetcache")]
    steps = [index for index, method in enumerate(methods) if index and method.mode == BASELINE]
    first = ours[-1] if ours else 1
    rest = [*steps, *(index for index in range(len(methods) - 1, 0, -1) if index != first), first]
    return first, rest[0]
