"""The marks on one frame become its mask: what is drawn is taken as it is, what is pointed at is cut out (GrabCut)."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from hetcache.masking.prompts import Box, Mark, Painted, Point, Polygon
from hetcache.masking.track import Mask

Frame = NDArray[np.uint8]

ROUNDS = 5
SEED_PX = 3
# How far around a box GrabCut sees the background, as a share of the box's side, and the ellipse in it that is the
# thing at first.
CONTEXT, INNER_SHARE = 0.3, 0.8
# A click speaks for what is within this share of the picture's smaller side.
CLICK_REACH = 0.25


def drawn(marks: Sequence[Mark], size: tuple[int, int]) -> Mask | None:
    """The mask [H, W] of a frame on which all was drawn (painted, outlined); None where something is to be found."""
    if not marks or not all(isinstance(mark, (Painted, Polygon)) for mark in marks):
        return None
    if all(isinstance(mark, Polygon) and not mark.positive for mark in marks):
        return None
    return _drawn_part(marks, size)


def stand_alone(marks: Sequence[Mark]) -> bool:
    """Whether marks say of their frame where the thing is; the others correct what is known of it."""
    return any(isinstance(mark, (Box, Painted)) or (isinstance(mark, Polygon) and mark.positive) for mark in marks)


def says_where(mark: Mark) -> bool:
    """Whether a mark says where the thing is; the others say where it is not."""
    return isinstance(mark, (Box, Painted)) or mark.positive


def mark_frame(frame: Frame, marks: Sequence[Mark], known: Mask | None = None) -> Mask:
    """The mask of an RGB frame [H, W, 3] by its marks. `known` is what other keyframes say of this frame: marks that
    only correct (points, outlines to cut out) change it near them; without it they stand for themselves."""
    size = frame.shape[0], frame.shape[1]
    whole = drawn(marks, size)
    if whole is not None:
        return whole
    mask = _drawn_part(marks, size)
    boxes = [mark for mark in marks if isinstance(mark, Box)]
    points = [mark for mark in marks if isinstance(mark, Point)]
    if known is not None and not stand_alone(marks):
        mask = _cut_out(known, marks)
    if boxes or (known is None and not mask.any()):
        found = _from_box(frame, boxes, points)
        return _cut_out(mask | found, marks)
    for point in points:
        mask = _corrected(frame, mask, point)
    return mask


def grab_cut(frame: Frame, trimap: NDArray[np.uint8], rounds: int = ROUNDS) -> Mask:
    """GrabCut from OpenCV's labels (sure and probable background and thing) [H, W]. The same input gives the same."""
    sure = (trimap == cv2.GC_FGD) | (trimap == cv2.GC_PR_FGD)
    if sure.all() or not sure.any() or (trimap == cv2.GC_PR_FGD).sum() + (trimap == cv2.GC_FGD).sum() < 8:
        return np.asarray(sure)
    labels = trimap.copy()
    # Its clusters start at random, from a generator of the library's own.
    cv2.setRNGSeed(0)
    background, thing = np.zeros((1, 65)), np.zeros((1, 65))
    try:
        cv2.grabCut(frame, labels, None, background, thing, rounds, cv2.GC_INIT_WITH_MASK)
    except cv2.error:  # colours too few for its clusters
        return np.asarray(sure)
    return np.asarray((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD))


def _drawn_part(marks: Sequence[Mark], size: tuple[int, int]) -> Mask:
    mask = np.zeros(size, np.bool_)
    for mark in marks:
        if isinstance(mark, Painted):
            assert isinstance(mark.mask, np.ndarray)
            mask |= mark.mask
    for mark in marks:
        if isinstance(mark, Polygon) and mark.positive:
            mask |= filled(mark, size)
    return _cut_out(mask, marks)


def _cut_out(mask: Mask, marks: Sequence[Mark]) -> Mask:
    for mark in marks:
        if isinstance(mark, Polygon) and not mark.positive:
            mask = mask & ~filled(mark, mask.shape)
    return mask


def filled(polygon: Polygon, size: tuple[int, ...]) -> Mask:
    """[H, W] bool: the pixels whose centres an outline encloses (where it crosses itself: an odd number of times)."""
    y, x = np.arange(size[0])[:, None] + 0.5, np.arange(size[1])[None, :] + 0.5
    inside = np.zeros(size[:2], np.bool_)
    for (x0, y0), (x1, y1) in zip(polygon.corners, (*polygon.corners[1:], polygon.corners[0]), strict=True):
        if y0 != y1:
            inside ^= ((y0 > y) != (y1 > y)) & (x < x0 + (x1 - x0) * (y - y0) / (y1 - y0))
    return inside


def _from_box(frame: Frame, boxes: Sequence[Box], points: Sequence[Point]) -> Mask:
    """GrabCut in the boxes or, without one, around the points. What it sees of the rest is what lies around them."""
    height, width = frame.shape[:2]
    labels = np.full((height, width), cv2.GC_BGD, np.uint8)
    for box in boxes:
        labels[_rows(box), _columns(box)] = cv2.GC_PR_BGD
    for box in boxes:
        # Most things fill a box but for its corners.
        inner = np.zeros((height, width), np.uint8)
        centre, axes = ((box.x0 + box.x1 - 1) / 2, (box.y0 + box.y1 - 1) / 2), (box.x1 - box.x0, box.y1 - box.y0)
        cv2.ellipse(inner, (centre, (INNER_SHARE * axes[0], INNER_SHARE * axes[1]), 0), 1, -1)
        labels[(inner > 0) & (labels == cv2.GC_PR_BGD)] = cv2.GC_PR_FGD
    if not boxes:
        reach = max(8, round(CLICK_REACH * min(height, width)))
        for radius, value in ((reach, cv2.GC_PR_BGD), (reach // 3, cv2.GC_PR_FGD)):
            for point in points:
                if point.positive:
                    cv2.circle(labels, (int(point.x), int(point.y)), radius, value, -1)
    possible = labels != cv2.GC_BGD
    _seed(labels, points)
    found = np.zeros((height, width), np.bool_)
    seen = _with_context(possible)
    found[seen] = grab_cut(np.ascontiguousarray(frame[seen]), labels[seen])
    if boxes and not found.any():
        # Nothing in the box stands out: the box itself is what the person meant.
        for box in boxes:
            found[_rows(box), _columns(box)] = True
    return found if boxes else _with_seeds(found, points)


def _with_context(possible: Mask) -> tuple[slice, slice]:
    """The part of the picture that holds what is possible and, around it, what it is told apart from."""
    rows, columns = np.flatnonzero(possible.any(1)), np.flatnonzero(possible.any(0))
    height, width = rows[-1] + 1 - rows[0], columns[-1] + 1 - columns[0]
    px = max(8, round(CONTEXT * (height * width) ** 0.5))
    top, left = max(rows[0] - px, 0), max(columns[0] - px, 0)
    return np.s_[top : rows[-1] + 1 + px, left : columns[-1] + 1 + px]


def _rows(box: Box) -> slice:
    return slice(int(box.y0), max(int(np.ceil(box.y1)), int(box.y0) + 1))


def _columns(box: Box) -> slice:
    return slice(int(box.x0), max(int(np.ceil(box.x1)), int(box.x0) + 1))


def _seed(labels: NDArray[np.uint8], points: Sequence[Point]) -> None:
    for point in points:
        value = cv2.GC_FGD if point.positive else cv2.GC_BGD
        cv2.circle(labels, (int(point.x), int(point.y)), SEED_PX, value, -1)


def _with_seeds(mask: Mask, points: Sequence[Point]) -> Mask:
    """The parts of a mask that a positive point lies in."""
    _, parts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    wanted = {int(parts[int(point.y), int(point.x)]) for point in points if point.positive} - {0}
    return np.isin(parts, sorted(wanted))


def _corrected(frame: Frame, mask: Mask, point: Point) -> Mask:
    """`mask` with what a positive point lies on added, or what a negative one lies on taken away, near the point."""
    height, width = mask.shape
    x, y = int(point.x), int(point.y)
    if mask[y, x] == point.positive:
        return mask
    reach = max(8, round(CLICK_REACH * min(height, width)))
    near = np.zeros(mask.shape, np.uint8)
    cv2.circle(near, (x, y), reach, 1, -1)
    labels = np.where(mask, np.uint8(cv2.GC_FGD), np.uint8(cv2.GC_BGD))
    changing = (near > 0) & (mask != point.positive)
    labels[changing] = cv2.GC_PR_BGD if point.positive else cv2.GC_PR_FGD
    inner = np.zeros(mask.shape, np.uint8)
    cv2.circle(inner, (x, y), max(SEED_PX, reach // 4), 1, -1)
    labels[changing & (inner > 0)] = cv2.GC_PR_FGD if point.positive else cv2.GC_PR_BGD
    _seed(labels, [point])
    found = grab_cut(frame, labels)
    changed = (found if point.positive else ~found) & changing
    _, parts = cv2.connectedComponents(changed.astype(np.uint8), connectivity=4)
    touched = (parts == parts[y, x]) & changed
    return np.asarray(mask | touched if point.positive else mask & ~touched)
