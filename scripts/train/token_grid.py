"""Whether the denoiser's 16-pixel tokens can be made out in a picture.

Tokens of unrelated colour meet in edges 16 pixels apart. Along each row of tokens the changes from pixel to pixel are
averaged over its 16 lines; in the spectrum of that, a grid stands out at the period of 16 pixels over the frequencies
beside it. That ratio, inside the mask over the same outside it, is the measure: 1 is a picture without a grid of its
own, and a striped scene that repeats itself every 16 pixels does not count against the model.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

TOKEN_PX = 16
# Runs of pixels shorter than this tell the token's frequency and its neighbours hardly apart.
SHORTEST = 4 * TOKEN_PX
# Beside the token's frequency, in steps of the resolution: a Hann window's main lobe ends at 2.
BESIDE = (-3, -2, 0, 2, 3)

Plane = NDArray[np.float32]
Mask = NDArray[np.bool_]


def token_grid(frames_THWC: NDArray[np.uint8], mask_THW: Mask) -> float:
    """The mask's prominence of the 16-pixel period over its surroundings'; nan where either holds no run of 64 pixels.

    `frames_THWC` is uint8 RGB whose tokens begin at its corner.
    """
    return prominence(frames_THWC, mask_THW) / prominence(frames_THWC, ~mask_THW)


def prominence(frames_THWC: NDArray[np.uint8], where_THW: Mask) -> float:
    """Energy of the changes between pixels at the 16-pixel period over that beside it, both directions together."""
    powers = np.zeros(len(BESIDE))
    for frame_HWC, where in zip(frames_THWC, where_THW, strict=True):
        luma = (frame_HWC.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)).astype(np.float32)
        for plane, inside in ((luma, where), (luma.T, where.T)):
            powers += sum((_powers(run) for run in _runs(plane, inside)), np.zeros(len(BESIDE)))
    beside = [power for step, power in zip(BESIDE, powers, strict=True) if step]
    return float(powers[BESIDE.index(0)] / np.exp(np.mean(np.log(beside)))) if min(beside) > 0 else float("nan")


def _runs(luma: Plane, inside: Mask) -> Iterator[Plane]:
    """Per row of tokens, the changes to the next pixel along each unbroken run of columns that lies inside whole."""
    for top in range(0, luma.shape[0] - TOKEN_PX + 1, TOKEN_PX):
        rows = slice(top, top + TOKEN_PX)
        changes = np.abs(np.diff(luma[rows], axis=1)).mean(0)
        whole: Mask = np.all(inside[rows], axis=0)
        usable = np.concatenate([[False], whole[1:] & whole[:-1], [False]])
        edges = np.flatnonzero(np.diff(usable.astype(np.int8)))
        for start, stop in zip(edges[::2], edges[1::2], strict=True):
            if stop - start >= SHORTEST:
                yield changes[start:stop]


def _powers(run: Plane) -> NDArray[np.float64]:
    """Energy at the token's frequency and `BESIDE` it."""
    length = len(run)
    window = np.hanning(length)
    centred = (run - np.average(run, weights=window + 1e-9)) * window
    frequencies = 1 / TOKEN_PX + np.array(BESIDE) / length
    waves = np.exp(-2j * np.pi * frequencies[:, None] * np.arange(length))
    return np.asarray(np.square(np.abs(waves @ centred)) / length)
