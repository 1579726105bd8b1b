"""How well `hetcache-mask` follows a thing: mean Jaccard on clips whose every mask is known.

    python -m scripts.measure.mask_jaccard FOLDER --json masks.json

FOLDER holds pairs NAME.mp4 and NAME_mask.mp4. Each clip is tracked twice: from the first frame's true mask, and from
the box around it alone. Jaccard is intersection over union as DAVIS counts it (region similarity J): the mean over the
frames of a clip without the first, then over the clips. What is measured already is read from the JSON, so that a
measurement that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hetcache.files import write_json
from hetcache.masking.command import choose_engine
from hetcache.masking.make import make_mask
from hetcache.masking.options import EngineOptions
from hetcache.masking.prompts import Box, Mark, Painted
from hetcache.masking.track import WEAK
from hetcache.media.masks import read_mask
from hetcache.media.read import count_frames, probe

GIVEN = ("mask", "box")


def jaccard(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Intersection over union; 1 where both are empty."""
    union = (mask | truth).sum()
    return float((mask & truth).sum() / union) if union else 1.0


def first_mark(given: str, truth: NDArray[np.bool_]) -> Mark:
    if given == "mask":
        return Painted(truth)
    rows, columns = np.flatnonzero(truth.any(1)), np.flatnonzero(truth.any(0))
    return Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def measure(clip: Path, mask: Path, given: str, options: EngineOptions) -> dict[str, Any]:
    """Of one clip: the mean, by frame, and whether the confidence says where it is bad."""
    info = probe(clip)
    truth_THW = read_mask(mask, count_frames(clip, decode=True), (info.height, info.width))
    start = time.perf_counter()
    track = make_mask(clip, [first_mark(given, truth_THW[0])], choose_engine(options))
    seconds = time.perf_counter() - start
    scores = [jaccard(mask, truth) for mask, truth in zip(track, truth_THW, strict=True)][1:]
    return {
        "frames": len(track),
        "size": f"{info.width}x{info.height}",
        "jaccard": round(float(np.mean(scores)), 4),
        "last": round(float(np.mean(scores[-5:])), 4),
        "seconds_per_frame": round(seconds / len(track), 3),
        "by_frame": [round(score, 4) for score in scores],
        "confidence": [round(value, 4) for value in track.confidence[1:]],
    }


def table(found: dict[str, dict[str, Any]]) -> str:
    """In Markdown: a row a clip, and their means."""
    clips = list(dict.fromkeys(key.split("/")[0] for key in found))
    lines = [
        "| clip | frames | from the mask | its last 5 frames | from the box | s a frame |",
        "|---|---|---|---|---|---|",
    ]
    for clip in clips:
        mask, box = found[f"{clip}/mask"], found[f"{clip}/box"]
        row = (clip, mask["frames"], *(f"{v:.3f}" for v in (mask["jaccard"], mask["last"], box["jaccard"])))
        lines.append(f"| {' | '.join(map(str, row))} | {mask['seconds_per_frame']:.2f} |")
    means = [
        np.mean([found[f"{clip}/{given}"][key] for clip in clips])
        for given, key in (("mask", "jaccard"), ("mask", "last"), ("box", "jaccard"), ("mask", "seconds_per_frame"))
    ]
    lines.append("| **mean** | | **{:.3f}** | {:.3f} | **{:.3f}** | {:.2f} |".format(*means))
    return "\n".join(lines)


def told(found: dict[str, dict[str, Any]]) -> str:
    """What the confidence is worth, over all frames."""
    scores = np.concatenate([each["by_frame"] for each in found.values()])
    sure = np.concatenate([each["confidence"] for each in found.values()])
    weak = sure < WEAK
    ranks = [np.argsort(np.argsort(values)) for values in (scores, sure)]
    return (
        f"frames named as weak: {weak.mean():.1%}, of mean Jaccard {np.mean(scores[weak]) if weak.any() else 0:.3f};"
        f" the others {scores[~weak].mean():.3f}; rank correlation of confidence and Jaccard "
        f"{np.corrcoef(*ranks)[0, 1]:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="pairs NAME.mp4 and NAME_mask.mp4")
    parser.add_argument("--clips", nargs="+", help="names to measure (default: all)")
    parser.add_argument("--json", type=Path, help="what is measured, read and written clip by clip")
    parser.add_argument("--engine", choices=("flow", "sam2"), default="flow")
    parser.add_argument("--sam2", help="SAM 2's weights")
    args = parser.parse_args()
    options = EngineOptions(engine=args.engine, sam2=args.sam2)
    found: dict[str, dict[str, Any]] = json.loads(args.json.read_text()) if args.json and args.json.exists() else {}
    names = args.clips or sorted(path.stem.removesuffix("_mask") for path in args.folder.glob("*_mask.*"))
    for name in names:
        for given in GIVEN:
            if f"{name}/{given}" not in found:
                clip, mask = args.folder / f"{name}.mp4", args.folder / f"{name}_mask.mp4"
                found[f"{name}/{given}"] = measure(clip, mask, given, options)
                if args.json:
                    write_json(args.json, found)
    print(table(found))
    print(told(found))


if __name__ == "__main__":
    main()
