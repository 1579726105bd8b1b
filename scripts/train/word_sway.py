"""Whether a word moves what it says: six words, each with a property that is measured inside the mask.

Every word is sampled at guidance 1, 2 and 4, and compared with the answer to no words at all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
GUIDANCES = (1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Word:
    """`sign` is 1 where the word asks for more of the property, -1 for less."""

    text: str
    measure: Callable[[Pixels, Mask], float]
    sign: int


def brightness(frames_THWC: Pixels, mask_THW: Mask) -> float:
    """Mean luma in the mask, in grey levels."""
    return float((frames_THWC[mask_THW] @ np.array([0.299, 0.587, 0.114])).mean())


def excess(channel: int) -> Callable[[Pixels, Mask], float]:
    """Of one colour channel in the mask over the mean of the two others, in grey levels."""

    def measure(frames_THWC: Pixels, mask_THW: Mask) -> float:
        mean_C = frames_THWC[mask_THW].astype(np.float64).mean(0)
        return float(1.5 * (mean_C[channel] - mean_C.mean()))

    return measure


def detail(frames_THWC: Pixels, mask_THW: Mask) -> float:
    """Mean distance from the blurred picture in the mask, in grey levels."""
    luma_THW = frames_THWC.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    fine_THW = np.stack([np.abs(luma - cv2.GaussianBlur(luma, (0, 0), 2)) for luma in luma_THW])
    return float(fine_THW[mask_THW].mean())


WORDS = (
    Word("dark", brightness, -1),
    Word("bright", brightness, 1),
    Word("red", excess(0), 1),
    Word("green", excess(1), 1),
    Word("blue", excess(2), 1),
    Word("smooth", detail, -1),
)


def sway(word: Word, sample: Callable[[str, float], Pixels], unprompted: Pixels, mask_THW: Mask) -> dict[str, Any]:
    """How far the word moves its property at each guidance, in its own direction, from the answer without words.

    `sample(prompt, guidance)` makes the frames [T, H, W, 3]. `right`: moved at guidance 2; `monotone`: ever further.
    """
    start = word.measure(unprompted, mask_THW)
    moved = [word.sign * (word.measure(sample(word.text, scale), mask_THW) - start) for scale in GUIDANCES]
    steps_up = all(later > earlier for earlier, later in zip(moved, moved[1:], strict=False))
    return {"word": word.text, "moved": moved, "right": moved[1] > 0, "monotone": steps_up}


def sway_table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table: per word on how many clips it is right and monotone, and the mean movement. `rows` are those of
    all clips."""
    scales = " | ".join(f"moved at {scale:g}" for scale in GUIDANCES)
    lines = [f"word | right | monotone | {scales}", "---|" * (2 + len(GUIDANCES)) + "---"]
    for word in WORDS:
        mine = [row for row in rows if row["word"] == word.text]
        if mine:
            moved = " | ".join(f"{value:+.1f}" for value in np.mean([row["moved"] for row in mine], axis=0))
            right, monotone = (sum(row[key] for row in mine) for key in ("right", "monotone"))
            lines.append(f"{word.text} | {right} of {len(mine)} | {monotone} of {len(mine)} | {moved}")
    return "\n".join(lines)
