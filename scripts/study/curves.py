"""Curves of quality over speed-up, and what many of them say together. Numbers in, numbers out.

A curve is one method on one clip and seed: its measured points, joined by straight lines over the logarithm of the
speed-up (of PSNR, which is a logarithm itself, and of the logarithm of LPIPS). Nothing is said outside the measured
range. Seeds of a clip are no independent clips: they are averaged, and intervals come from drawing clips.
"""

from __future__ import annotations

import math
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

SPEEDUPS = (2.0, 3.0, 5.0, 8.0, 12.0)
DRAWS = 4000
IDENTICAL_DB = 100.0
LEAST = 1e-6
"""What stands for the PSNR of identical pixels, which is infinite, and for their LPIPS, which has no logarithm."""

Block = tuple[str, int]
"""(clip, seed)"""


@dataclass(frozen=True)
class Figure:
    """A figure of quality: its key in the records, its name and unit, which way is better, and whether its logarithm
    is what goes evenly from point to point."""

    key: str
    title: str
    higher_is_better: bool
    decimals: int
    by_log: bool = False

    def better(self, one: float, other: float) -> bool:
        return one > other if self.higher_is_better else one < other


PSNR = Figure("psnr", "PSNR in the mask, dB", True, 2)
LPIPS = Figure("lpips", "LPIPS in the mask", False, 5, by_log=True)
FIGURES = (PSNR, LPIPS)


@dataclass(frozen=True)
class Point:
    """One run: its speed-up and {figure's key: value}."""

    speedup: float
    values: Mapping[str, float]


Curves = Mapping[str, Mapping[Block, Sequence[Point]]]
"""{method: {block: points}}; every method has the same blocks."""


def at(points: Sequence[Point], speedup: float, figure: Figure) -> float | None:
    """The curve's value at a speed-up; None outside the measured range."""
    by_speed: dict[float, list[float]] = defaultdict(list)
    for point in points:
        value = min(point.values[figure.key], IDENTICAL_DB)
        by_speed[point.speedup].append(math.log(max(value, LEAST)) if figure.by_log else value)
    speeds = sorted(by_speed)
    if not speeds or not speeds[0] <= speedup <= speeds[-1]:
        return None
    values = [sum(by_speed[speed]) / len(by_speed[speed]) for speed in speeds]
    value = float(np.interp(math.log(speedup), np.log(speeds), values))
    return math.exp(value) if figure.by_log else value


def by_clip(values: Mapping[Block, float]) -> dict[str, float]:
    """The mean over the seeds of each clip."""
    found: dict[str, list[float]] = defaultdict(list)
    for (clip, _), value in values.items():
        found[clip].append(value)
    return {clip: sum(seeds) / len(seeds) for clip, seeds in found.items()}


@dataclass(frozen=True)
class Estimate:
    """A mean over clips, with the middle 95 % of what drawing as many clips again and again gives. Of one clip, the
    interval is a point and says nothing."""

    mean: float
    low: float
    high: float
    clips: int


def estimate(values: Mapping[Block, float], name: str = "") -> Estimate:
    """Of values by block; the draws depend on `name` and the number of clips alone."""
    clips = np.array([value for _, value in sorted(by_clip(values).items())])
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    drawn = clips[rng.integers(0, len(clips), (DRAWS, len(clips)))].mean(axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Estimate(float(clips.mean()), float(low), float(high), len(clips))


@dataclass(frozen=True)
class Reach:
    """How many blocks' curves reach a speed-up, and the mean where all do."""

    reached: int
    blocks: int
    estimate: Estimate | None


def mean_at(curves: Mapping[Block, Sequence[Point]], speedup: float, figure: Figure) -> Reach:
    """A method's mean at a speed-up, if no block's curve ends before it: means over other clips are no comparison."""
    values = {block: at(points, speedup, figure) for block, points in curves.items()}
    known = {block: value for block, value in values.items() if value is not None}
    whole = estimate(known, figure.key) if known and len(known) == len(values) else None
    return Reach(len(known), len(values), whole)


@dataclass(frozen=True)
class Duel:
    """Ours against another on the blocks that both reach: the mean of the differences, oriented so that more is better
    for ours, and the share of blocks in which ours is ahead."""

    difference: Estimate
    ahead: int
    blocks: int


def duel(curves: Curves, ours: str, other: str, speedup: float, figure: Figure) -> Duel | None:
    """None where no block is reached by both."""
    sign = 1 if figure.higher_is_better else -1
    gaps: dict[Block, float] = {}
    for block, points in curves[ours].items():
        one, two = at(points, speedup, figure), at(curves[other][block], speedup, figure)
        if one is not None and two is not None:
            gaps[block] = sign * (one - two)
    if not gaps:
        return None
    return Duel(estimate(gaps, f"{figure.key}, difference"), sum(gap > 0 for gap in gaps.values()), len(gaps))


@dataclass(frozen=True)
class Standing:
    """In how many of the blocks that ours reaches it is ahead of every other method, and who is ahead where not."""

    ahead: int
    blocks: int
    best: Mapping[str, int]


def standing(curves: Curves, ours: Sequence[str], speedup: float, figure: Figure) -> Standing | None:
    """`ours` are curves of one method; the first is compared, the rest are no opponents. None where it reaches none."""
    ahead, blocks = 0, 0
    best: dict[str, int] = defaultdict(int)
    for block, points in curves[ours[0]].items():
        mine = at(points, speedup, figure)
        if mine is None:
            continue
        others = {
            name: value
            for name, each in curves.items()
            if name not in ours and (value := at(each[block], speedup, figure)) is not None
        }
        blocks += 1
        leaders = [name for name, value in others.items() if not figure.better(mine, value)]
        if not leaders:
            ahead += 1
            continue
        best[(max if figure.higher_is_better else min)(leaders, key=lambda name: others[name])] += 1
    return Standing(ahead, blocks, dict(best)) if blocks else None
