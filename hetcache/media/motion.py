"""Camera motion between the frames of a clip, from what lies outside the mask.

Consecutive frames are joined by a homography (corners tracked by Lucas-Kanade, RANSAC); longer ways are products of
them. Where two frames show different scenes the way is broken, and nothing is carried across.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Homography = NDArray[np.float64]

MAX_CORNERS = 500
MIN_CORNERS = 12
RANSAC_PX = 1.5
STILL_PX = 0.2
# Correlation of the known pixels of two neighbouring frames, after alignment, below which they are two scenes.
SAME_SCENE = 0.5


@dataclass(frozen=True)
class Motion:
    """`steps[i]` maps pixels (x, y, 1) of frame i to frame i + 1; None where the scene changes between them."""

    steps: tuple[Homography | None, ...]

    @cached_property
    def _scenes(self) -> NDArray[np.int64]:
        return np.cumsum([0, *(step is None for step in self.steps)])

    @cached_property
    def _to_first(self) -> list[Homography]:
        """For each frame, the map from its scene's first frame to it."""
        maps = [np.eye(3)]
        for step in self.steps:
            maps.append(np.eye(3) if step is None else step @ maps[-1])
        return maps

    def between(self, start: int, end: int) -> Homography | None:
        """The map from pixels of frame `start` to frame `end`; None across a change of scene."""
        if self._scenes[start] != self._scenes[end]:
            return None
        whole = self._to_first[end] @ np.linalg.inv(self._to_first[start])
        scaled: NDArray[np.float64] = whole / whole[2, 2]
        return scaled

    @property
    def num_scenes(self) -> int:
        return int(self._scenes[-1]) + 1


def estimate_motion(frames_THWC: Frames, mask_THW: Mask) -> Motion:
    """The camera's motion through uint8 RGB frames [T, H, W, 3]. Pixels where `mask_THW` is True are used only to look
    where corners near them went, so they must have been replaced by something that does not depend on the original."""
    greys = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames_THWC]
    return Motion(
        tuple(_step(greys[i], greys[i + 1], mask_THW[i], mask_THW[i + 1]) for i in range(len(frames_THWC) - 1))
    )


def _step(old: NDArray[np.uint8], new: NDArray[np.uint8], old_mask: Mask, new_mask: Mask) -> Homography | None:
    aligned = _homography(old, new, old_mask, new_mask)
    if aligned is None:
        aligned = np.eye(3)
    return aligned if _same_scene(old, new, old_mask, new_mask, aligned) else None


def _homography(old: NDArray[np.uint8], new: NDArray[np.uint8], old_mask: Mask, new_mask: Mask) -> Homography | None:
    corners = cv2.goodFeaturesToTrack(old, MAX_CORNERS, 0.01, 7, mask=np.uint8(255) * (~old_mask).astype(np.uint8))
    if corners is None or len(corners) < MIN_CORNERS:
        return None
    there, found, _ = cv2.calcOpticalFlowPyrLK(old, new, corners, None, winSize=(15, 15), maxLevel=4)
    back, found_back, _ = cv2.calcOpticalFlowPyrLK(new, old, there, None, winSize=(15, 15), maxLevel=4)
    start, end, again = corners[:, 0], there[:, 0], back[:, 0]
    height, width = old.shape
    x, y = end.round().astype(int).T
    inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
    good = inside & (found[:, 0] > 0) & (found_back[:, 0] > 0) & (np.linalg.norm(start - again, axis=1) < 0.5)
    good[good] &= ~new_mask[y[good], x[good]]
    if good.sum() < MIN_CORNERS:
        return None
    start, end = start[good], end[good]
    if np.median(np.linalg.norm(end - start, axis=1)) < STILL_PX:
        return np.eye(3)
    found_map, inliers = cv2.findHomography(start, end, cv2.RANSAC, RANSAC_PX)
    if found_map is None or inliers.sum() < MIN_CORNERS:
        return None
    return np.asarray(found_map, np.float64)


def _same_scene(
    old: NDArray[np.uint8], new: NDArray[np.uint8], old_mask: Mask, new_mask: Mask, aligned: Homography
) -> bool:
    """Whether what both frames show and neither masks goes together, whatever the exposure."""
    size = old.shape[1], old.shape[0]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpPerspective(new, aligned, size, flags=flags)
    hidden = cv2.warpPerspective(new_mask.astype(np.uint8), aligned, size, flags=flags, borderValue=1) > 0
    known = ~(old_mask | hidden)
    if known.sum() < 64:
        return True
    a, b = old[known].astype(np.float64), moved[known].astype(np.float64)
    if min(a.std(), b.std()) < 2:
        return bool(abs(a.mean() - b.mean()) < 40)
    return bool(np.corrcoef(a, b)[0, 1] > SAME_SCENE)
