"""What a small mask costs in a large picture: the example at 480 and at 1080 rows, its mask grown to 5 % of the pixels.

    python -m scripts.measure.focus_cost --out results/focus

Runs inference.py once for each of CASES and prints tokens, wall-clock and processor time (with that of ffmpeg, so that
other work on the machine matters less) and the ratio to the first. The picture at 1080 rows is scaled up: what counts
here is its number of pixels.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import inference
from hetcache.files import DATA
from hetcache.media.masks import dilate_mask, read_mask
from hetcache.media.read import read_frames
from hetcache.media.write import write_video

SHARE = 0.05
SIZES = {480: (480, 832), 1080: (1080, 1872)}
CASES = (
    (480, ("--focus-area", "native")),
    (1080, ("--focus-area", "native")),
    (480, ("--focus-area", "mask")),
    (1080, ("--focus-area", "mask")),
    (480, ("--focus", "off")),
    (480, ("--focus", "off", "--height", "480", "--width", "832")),
)


def make(folder: Path, rows: int, count: int) -> tuple[Path, Path]:
    """The clip and its mask at so many rows."""
    height, width = SIZES[rows]
    clip, masks = folder / f"{rows}.mp4", folder / f"{rows}_mask"
    if masks.is_dir() and len(list(masks.iterdir())) == count:
        return clip, masks
    frames_THWC = read_frames(DATA / "real.mp4", count=count)
    mask_THW = read_mask(DATA / "masks.mp4", count, frames_THWC.shape[1:3])
    grown = next(mask for px in range(64) if (mask := dilate_mask(mask_THW, px)).mean() >= SHARE)
    scaled = [cv2.resize(frame, (width, height), interpolation=cv2.INTER_CUBIC) for frame in frames_THWC]
    write_video(clip, np.stack(scaled), 10)
    masks.mkdir(exist_ok=True)
    for index, mask in enumerate(grown):
        resized = cv2.resize(mask.astype(np.uint8) * 255, (width, height), interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(masks / f"{index:05d}.png"), resized)
    return clip, masks


def run(words: list[Any]) -> None:
    if inference.main([str(word) for word in words]) != 0:
        raise SystemExit(1)


def processor_s() -> float:
    """Of this process and of those that it started and that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for clips and results")
    parser.add_argument("--frames", type=int, default=17)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--mode", default="hetcache")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    lines = [
        "| rows | flags | box | model | tokens | denoise s | whole s | processor s | to the first |",
        "|---" * 9 + "|",
    ]
    first = 0.0
    for index, (rows, words) in enumerate(CASES):
        clip, masks = make(args.out, rows, args.frames)
        output = args.out / f"{index}.mp4"
        command = ["--video", clip, "--mask", masks, "--frames", args.frames, "--model", "tiny", "--mode", args.mode]
        command += ["--output", output, *words, "--steps"]
        if index == 0:
            run([*command, 1])  # the libraries are loaded with the first run
        start = processor_s()
        run([*command, args.steps])
        record = json.loads(output.with_suffix(".json").read_text())
        config, times = record["config"], record["timing_s"]
        spent = processor_s() - start
        first = first or spent
        box = "whole" if config["focus_box"] is None else "{3}x{2}".format(*config["focus_box"])
        size, ratio = f"{config['width']}x{config['height']}", spent / first
        lines.append(
            f"| {rows} | `{' '.join(words)}` | {box} | {size} | {record['tokens']['total']} | {times['denoise']:.1f} | "
            f"{times['total']:.1f} | {spent:.1f} | {ratio:.2f}x |"
        )
    print("\n".join(lines))


if __name__ == "__main__":
    main()
