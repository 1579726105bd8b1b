"""Removal where the truth is known: masks that move over clips and cover no object, so that the source is the answer.

    python -m scripts.measure.removal_protocol --clips FOLDER --out results/removal [--movers]

FOLDER holds NAME.mp4 and, where a clip shows moving objects, NAME_mask.mp4: the moving hole stays off those and, where
the camera stands still, off all that differs from the temporal median. With `--movers` it goes all of its way, whoever
walks there, uncovered, before and after; what counts then is the part of the hole in which nothing moves at that time.

Compared, inside the hole and against the source: `cv2.inpaint` (Telea), the push-pull fill, what other frames show
alone, and the runs of inference.py listed in RUNS (`--methods` names some). Every result is kept, so that an
interrupted run goes on; `--minutes` stops it in time. Prints the table so far; `removal.md` (`removal-movers.md`) in
--out has it.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import islice, product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

import inference
from hetcache.files import write_json, write_text
from hetcache.media.fill import fill_under_mask
from hetcache.media.masks import dilate_mask, read_mask
from hetcache.media.motion import estimate_motion
from hetcache.media.propagate import propagate_fill
from hetcache.media.read import iter_frames, read_frames
from hetcache.metrics.lpips import Lpips, load_lpips

Frames = NDArray[np.uint8]
Mask = NDArray[np.bool_]

# Parts of the picture's height and width; where the hole's middle is, from -1 to 1 about the middle of its way.
HOLE = 0.2, 0.12
MOTIONS: dict[str, Callable[[float], tuple[float, float]]] = {
    "across": lambda t: (0.0, 0.36 * (2 * t - 1)),
    "diagonal": lambda t: (0.3 * (2 * t - 1), 0.35 * (1 - 2 * t)),
    "circle": lambda t: (0.3 * math.sin(2 * math.pi * t), 0.3 * math.cos(2 * math.pi * t)),
    "drift": lambda t: (0.0, 0.08 * (2 * t - 1)),
}
# Tried in turn until the hole touches no object: how much of its way it goes, and where the middle of that is.
EXTENTS = (1.0, 0.75, 0.5, 0.35)
MIDDLES = sorted(
    ((0.1 + 0.05 * y, 0.1 + 0.05 * x) for y in range(17) for x in range(17)),
    key=lambda middle: (middle[0] - 0.5) ** 2 + (middle[1] - 0.5) ** 2,
)
RUNS = {
    "before": ["--focus", "off", "--fill", "push_pull", "--no-match-colour"],
    "now": [],
    "now, --keep-seen": ["--keep-seen"],
}
# Grey levels from the temporal median of so many frames, above which a pixel moves.
MOVES, FOR_MEDIAN = 24, 81
OTHER_FRAMES = "other frames alone"
CLASSICAL = ("cv2.inpaint", "push-pull", OTHER_FRAMES)
METHODS = (*CLASSICAL, *RUNS)


def moving_hole(objects_THW: Mask, motion: str) -> Mask | None:
    """[T, H, W]: a box that moves over the picture and touches no object; None where there is no way for it."""
    count, height, width = objects_THW.shape
    rows, columns = round(HOLE[0] * height), round(HOLE[1] * width)
    for extent, middle in product(EXTENTS, MIDDLES):
        hole_THW = np.zeros_like(objects_THW)
        for index in range(count):
            offset = MOTIONS[motion](index / max(count - 1, 1))
            y, x = (
                round((part + extent * step) * side)
                for part, step, side in zip(middle, offset, (height, width), strict=True)
            )
            top, left = y - rows // 2, x - columns // 2
            inside = top >= 0 and left >= 0 and top + rows <= height and left + columns <= width
            if not inside or objects_THW[index, top : top + rows, left : left + columns].any():
                break
            hole_THW[index, top : top + rows, left : left + columns] = True
        else:
            return hole_THW
    return None


def hole_and_counted(objects_THW: Mask, motion: str, over_movers: bool) -> tuple[Mask, Mask] | None:
    """(the hole, the part of it that is measured); None where there is none."""
    if not over_movers:
        hole_THW = moving_hole(objects_THW, motion)
        return None if hole_THW is None else (hole_THW, hole_THW)
    hole_THW = moving_hole(np.zeros_like(objects_THW), motion)
    if hole_THW is None or not (hole_THW & ~objects_THW).any():
        return None
    return hole_THW, hole_THW & ~objects_THW


def psnr_db(result_THWC: Frames, truth_THWC: Frames, mask_THW: Mask) -> float:
    error = result_THWC[mask_THW].astype(np.float32) - truth_THWC[mask_THW]
    return float(10 * np.log10(255**2 / max(float(np.square(error).mean()), 1e-6)))


def classical(name: str, frames_THWC: Frames, hole_THW: Mask) -> Frames:
    """The result of one of CLASSICAL."""
    if name == "push-pull":
        return fill_under_mask(frames_THWC, hole_THW, "push_pull")
    if name == OTHER_FRAMES:
        return propagate_fill(frames_THWC, hole_THW).frames_THWC
    pairs = zip(frames_THWC, hole_THW, strict=True)
    return np.stack([cv2.inpaint(frame, hole.astype(np.uint8), 5, cv2.INPAINT_TELEA) for frame, hole in pairs])


def run(words: list[str], clip: Path, hole_THW: Mask, steps: int, folder: Path) -> Frames:
    """The output of inference.py for the clip under the hole."""
    mask, output = folder / "hole", folder / "edit.mp4"
    write_masks(mask, hole_THW)
    command = ["--video", clip, "--mask", mask, "--frames", len(hole_THW), "--steps", steps, "--model", "tiny"]
    code = inference.main([*map(str, command), "--mode", "hetcache", "--output", str(output), *words])
    if code != 0:
        raise SystemExit(f"{clip}: inference.py ended with {code}")
    return read_frames(output)


def write_masks(folder: Path, mask_THW: Mask) -> None:
    """One picture a frame, in place of those of an earlier clip."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for index, mask in enumerate(mask_THW):
        cv2.imwrite(str(folder / f"{index:05d}.png"), mask.astype(np.uint8) * 255)


def camera(frames_THWC: Frames, objects_THW: Mask) -> str:
    """still or moving: by the way of the picture's middle over the clip, in parts of its width."""
    height, width = frames_THWC.shape[1:3]
    motion, middle = estimate_motion(frames_THWC, objects_THW), np.array([width / 2, height / 2, 1])
    way = 0.0
    for step in motion.steps:
        moved = middle if step is None else step @ middle
        way += float(np.hypot(*(moved[:2] / moved[2] - middle[:2])))
    return "still" if way < 0.01 * width else "moving"


@lru_cache(maxsize=4)
def read_clip(clip: Path, count: int) -> tuple[Frames, Mask, str]:
    """(frames, where moving objects and their outlines are, kind of camera)."""
    frames_THWC = read_frames(clip, count=count)
    objects_THW = np.zeros(frames_THWC.shape[:3], np.bool_)
    mask = clip.with_name(f"{clip.stem}_mask.mp4")
    if mask.is_file():
        objects_THW = dilate_mask(read_mask(mask, count, frames_THWC.shape[1:3]), 8)
    kind = camera(frames_THWC, objects_THW)
    if kind == "still":
        objects_THW |= dilate_mask(movers(np.stack([*islice(iter_frames(clip), FOR_MEDIAN)]))[:count], 8)
    return frames_THWC, objects_THW, kind


def movers(frames_THWC: Frames) -> Mask:
    """[T, H, W]: what a camera that stands still sees move, without specks of under 3 pixels."""
    still_HWC = np.median(frames_THWC, axis=0)
    moving = [(np.abs(frame - still_HWC).max(2) > MOVES).astype(np.uint8) for frame in frames_THWC]
    return np.stack([cv2.morphologyEx(each, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) > 0 for each in moving])


def measured(args: argparse.Namespace, meter: Lpips, clip: Path, motion: str, method: str) -> dict[str, Any] | None:
    """One cell; None where the hole finds no way."""
    frames_THWC, objects_THW, kind = read_clip(clip, args.frames)
    found = hole_and_counted(objects_THW, motion, args.movers)
    if found is None:
        return None
    hole_THW, counted_THW = found
    if method in RUNS:
        result_THWC = run(RUNS[method], clip, hole_THW, args.steps, args.out)
    else:
        result_THWC = classical(method, frames_THWC, hole_THW)
    lpips = meter.distances(result_THWC, frames_THWC, {"hole": counted_THW})["hole"]
    figures = {"psnr_db": psnr_db(result_THWC, frames_THWC, counted_THW), "lpips": float(np.nanmean(lpips))}
    return {"clip": clip.stem, "camera": kind, "motion": motion, "method": method, **figures}


def cells(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Every finished cell, after measuring those that are missing until the time is up; motion by motion, so that an
    unfinished table has all clips."""
    meter = load_lpips("alex", args.lpips)
    args.out.mkdir(parents=True, exist_ok=True)
    stop = time.monotonic() + 60 * args.minutes
    clips = sorted(path for path in args.clips.glob("*.mp4") if not path.stem.endswith("_mask"))
    found, suffix = [], "-movers" if args.movers else ""
    for motion, clip, method in product(args.motions, clips, args.methods):
        file = args.out / f"{clip.stem}-{motion}-{method.replace(' ', '_')}-{args.frames}-{args.steps}{suffix}.json"
        if not file.is_file() and time.monotonic() < stop:
            write_json(file, measured(args, meter, clip, motion, method))
        if file.is_file() and (cell := json.loads(file.read_text())) is not None:
            found.append(cell)
    return found


def table(found: list[dict[str, Any]], methods: Sequence[str] = METHODS) -> str:
    """Markdown: averages by method and camera, then every clip; and where a method that knows other frames, or a run,
    is how far below push-pull. Rows that lack one of `methods` do not count."""
    ways = sorted({(cell["clip"], cell["motion"]) for cell in found})
    by = {(cell["clip"], cell["motion"], cell["method"]): cell for cell in found}
    whole = [way for way in ways if all((*way, method) in by for method in methods)]

    def mean(rows: list[tuple[str, str]], method: str) -> str:
        if not rows:
            return "-"
        values = [by[(*row, method)] for row in rows]
        return f"{np.mean([v['psnr_db'] for v in values]):.2f} / {np.mean([v['lpips'] for v in values]):.3f}"

    lines = ["PSNR in dB / LPIPS, both inside the hole.", "", f"| | {' | '.join(methods)} |"]
    lines.append("|---|" + "---|" * len(methods))
    kinds = {row: by[(*row, methods[0])]["camera"] for row in whole}
    for name, rows in (
        ("**all**", whole),
        *((f"{kind} camera", [row for row in whole if kinds[row] == kind]) for kind in ("still", "moving")),
        *((motion, [row for row in whole if row[1] == motion]) for motion in MOTIONS),
        *((clip, [row for row in whole if row[0] == clip]) for clip in sorted({clip for clip, _ in whole})),
    ):
        lines.append(f"| {name} ({len(rows)}) | {' | '.join(mean(rows, method) for method in methods)} |")
    for method in (each for each in (OTHER_FRAMES, *RUNS) if {each, "push-pull"} <= {*methods}):
        gaps = {row: by[(*row, method)]["psnr_db"] - by[(*row, "push-pull")]["psnr_db"] for row in whole}
        if gaps:
            worst = min(gaps, key=lambda row: gaps[row])
            below = sum(gap < -0.5 for gap in gaps.values())
            lines.append(
                f"\n`{method}` against push-pull: at worst {gaps[worst]:+.2f} dB ({worst[0]}, {worst[1]}); more than "
                f"0.5 dB below it in {below} of {len(gaps)}."
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, required=True, help="folder of clips, see above")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--frames", type=int, default=17, help="of each clip, 4k+1 (default 17)")
    parser.add_argument("--steps", type=int, default=50, help="denoising steps (default 50)")
    parser.add_argument(
        "--motions", nargs="+", choices=MOTIONS, default=list(MOTIONS), help="of the hole (default all)"
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, help="columns (default all)")
    parser.add_argument("--movers", action="store_true", help="let the hole go where others walk, see above")
    parser.add_argument("--minutes", type=float, default=1e6, help="begin nothing new after so many")
    parser.add_argument("--lpips", metavar="FILE", help="the AlexNet weights, else those that were fetched")
    args = parser.parse_args()
    text = table(cells(args), args.methods)
    write_text(args.out / ("removal-movers.md" if args.movers else "removal.md"), text)
    print(text)


if __name__ == "__main__":
    main()
