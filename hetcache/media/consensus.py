"""What most times agree on: of several frames that show a hidden pixel, some show somebody who walks past."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations

import cv2
import numpy as np
from numpy.typing import NDArray

from hetcache.media.align import FITS_BELOW, LEAST_CONFIDENCE, Match, View

Mask = NDArray[np.bool_]
Plane = NDArray[np.float32]

NUM_SAMPLES = 5
# The size is halved so often before colours are compared: noise averages out, and texture that is a little off.
HALVINGS = 2
# Grey levels between two frames' means over a few pixels: the same up to the first, something else from the second on.
SAME, OTHER = 12.0, 24.0
# The time that a sample stands for, in the logarithm of the distance from the filled frame; a side's first, and most.
LEAST_TIME, MOST_TIME = 0.02, 0.4
# The part of all that time that has to agree: up to the first the nearest frames decide alone, from the second on only
# those that belong to it count, from the third on it lowers no confidence.
UNDECIDED, DECIDED, SURE = 0.3, 0.5, 0.7
# The nearest frame before and the nearest after count for so many times more time where they agree.
BRACKET = 2.0
# What so many samples, and such a part of them, agree on shows that the filled frame has something of its own there.
LEAST_SAMPLES, AGREEING = 3, 0.9


@dataclass(frozen=True)
class Sample:
    """A box as the frame `offset` away shows it, with a weight in 0..1, [H, W]."""

    offset: int
    match: Match
    weight: Plane

    @property
    def pixels_HWC(self) -> Plane:
        return self.match.view.pixels_HWC


def agreed(here: View, samples: list[Sample], hole: Mask) -> tuple[Plane, Plane]:
    """(values [N, 3], confidence [N]) of the N pixels of the hole, from samples in the order of their distance: the
    weighted median of the nearest that belong to what most times agree on; the largest weight of those, less where
    little agrees."""
    fits = float(np.median([sample.match.median_error for sample in samples])) <= FITS_BELOW
    if fits and (own := _own(here, samples)).any():
        samples = [replace(sample, weight=sample.match.weight(~own)) for sample in samples]
    weights_KN = np.stack([sample.weight[hole] for sample in samples])
    share_N = np.ones(weights_KN.shape[1], np.float32)
    if fits:
        belonging_KN, share_N = _belonging(samples, hole)
        weights_KN *= belonging_KN
    weights_KN[weights_KN <= LEAST_CONFIDENCE] = 0
    counted_KN = (weights_KN > 0) & (np.cumsum(weights_KN > 0, axis=0) <= NUM_SAMPLES)
    place_KN = np.cumsum(counted_KN, axis=0) - 1
    values_3SN = np.zeros((3, NUM_SAMPLES, weights_KN.shape[1]), np.float32)
    weights_SN = np.zeros(values_3SN.shape[1:], np.float32)
    for sample, weight_N, counted_N, place_N in zip(samples, weights_KN, counted_KN, place_KN, strict=True):
        to = place_N[counted_N], np.flatnonzero(counted_N)
        weights_SN[to] = weight_N[counted_N]
        values_3SN[:, to[0], to[1]] = sample.pixels_HWC[hole][counted_N].T
    return _weighted_median(values_3SN, weights_SN), weights_SN.max(0) * share_N


def _own(here: View, samples: list[Sample]) -> Mask:
    """[H, W]: where `here` shows something that is not there at other times, which agree: it says nothing of how well
    they fit."""
    shape = here.hidden.shape
    if len(samples) < LEAST_SAMPLES:
        return np.zeros(shape, np.bool_)
    planes = [_shrunk(sample.pixels_HWC, ~sample.match.view.hidden) for sample in samples]
    values_KHWC = np.stack([value_HWC for value_HWC, _ in planes])
    shown_KHW = np.stack([total > 0.25 for _, total in planes])
    count_HW = shown_KHW.sum(0)
    ordered_KHWC = np.sort(np.where(shown_KHW[..., None], values_KHWC, np.inf), axis=0)
    middle_1HW1 = (np.maximum(count_HW - 1, 0) // 2)[None, ..., None]
    median_HWC = np.take_along_axis(ordered_KHWC, middle_1HW1, axis=0)[0]
    agree_HW = (shown_KHW & (np.abs(values_KHWC - median_HWC).mean(-1) < SAME)).sum(0) >= AGREEING * count_HW
    now_HWC, known_HW = _shrunk(here.pixels_HWC, ~here.hidden)
    apart_HW = np.abs(now_HWC - median_HWC).mean(-1) > OTHER
    own_HW = (known_HW > 0.25) & (count_HW >= LEAST_SAMPLES) & agree_HW & apart_HW
    grown = cv2.dilate(own_HW.astype(np.uint8), np.ones((3, 3), np.uint8))
    return np.asarray(cv2.resize(grown, shape[::-1], interpolation=cv2.INTER_NEAREST) > 0)


def _shrunk(pixels_HWC: Plane, shown: Mask) -> tuple[Plane, Plane]:
    """(means of what is shown, the part of each that is) at a quarter of the size."""
    weight: Plane = shown.astype(np.float32)
    total = _halved(weight)
    value_HWC: Plane = _halved(pixels_HWC * weight[..., None]) / np.maximum(total, np.float32(1e-3))[..., None]
    return value_HWC, total


def _halved(plane: Plane) -> Plane:
    for _ in range(HALVINGS):
        plane = np.asarray(cv2.pyrDown(plane))
    return plane


def _weighted_median(values_3SN: Plane, weights_SN: Plane) -> Plane:
    """[N, 3]"""
    order = np.argsort(values_3SN, axis=1)
    running = np.cumsum(np.take_along_axis(np.broadcast_to(weights_SN, values_3SN.shape), order, axis=1), axis=1)
    middle = (running >= running[:, -1:] / 2).argmax(1)[:, None]
    chosen_3N: Plane = np.take_along_axis(np.take_along_axis(values_3SN, order, axis=1), middle, axis=1)[:, 0]
    return np.asarray(chosen_3N.T)


def _belonging(samples: list[Sample], hole: Mask) -> tuple[Plane, Plane]:
    """([K, N] in 0..1: whether a sample belongs to what most times agree on; [N] in 0..1: how far they do)."""
    cell = 2**HALVINGS
    rows, columns = (side // cell for side in np.nonzero(hole))
    small = np.zeros([-(-side // cell) for side in hole.shape], np.bool_)
    small[rows, columns] = True
    back_N = (np.cumsum(small) - 1).reshape(small.shape)[rows, columns]
    votes_K3M = np.empty((len(samples), 3, small.sum()), np.float32)
    weights_KM = np.empty((len(samples), small.sum()), np.float32)
    for k, sample in enumerate(samples):
        value_HWC, total = _shrunk(sample.pixels_HWC, sample.weight > LEAST_CONFIDENCE)
        votes_K3M[k] = value_HWC[small].T
        weights_KM[k] = np.where(total[small] > 0.25, _halved(sample.weight)[small], 0)
    offsets = [sample.offset for sample in samples]
    weights_KM *= _times(offsets, weights_KM > LEAST_CONFIDENCE)
    same_KM, share_M = _most(votes_K3M, weights_KM, offsets)
    decided_M = ((share_M - UNDECIDED) / (DECIDED - UNDECIDED)).clip(0, 1)
    belonging_KM = 1 - decided_M * (1 - same_KM)
    return belonging_KM[:, back_N], np.minimum(share_M / SURE, 1)[back_N]


def _times(offsets: list[int], shown_KM: Mask) -> Plane:
    """[K, M]: the time that each sample stands for, 0 where it shows nothing."""
    times_KM = np.zeros(shown_KM.shape, np.float32)
    last_2M = np.full((2, shown_KM.shape[1]), np.float32(1e-3))
    for offset, shown_M, times_M in zip(offsets, shown_KM, times_KM, strict=True):
        last_M = last_2M[int(offset > 0)]
        times_M[shown_M] = np.log(abs(offset) / last_M[shown_M]).clip(LEAST_TIME, MOST_TIME)
        last_M[shown_M] = abs(offset)
    return times_KM


def _most(votes_K3M: Plane, weights_KM: Plane, offsets: list[int]) -> tuple[Plane, Plane]:
    """([K, M] in 0..1: whether a vote agrees with the one that most agree with; [M]: the part of all weight that
    does)."""
    weights_KM = weights_KM + _bracket(votes_K3M, weights_KM, offsets)
    support_KM = weights_KM.copy()
    for k, j in combinations(range(len(offsets)), 2):
        same_M = _same(votes_K3M[k], votes_K3M[j])
        support_KM[k] += weights_KM[j] * same_M
        support_KM[j] += weights_KM[k] * same_M
    support_KM[weights_KM == 0] = 0
    best_M = support_KM.argmax(0)
    middle_3M = np.take_along_axis(votes_K3M, best_M[None, None], axis=0)[0]
    same_KM = np.stack([_same(vote_3M, middle_3M) for vote_3M in votes_K3M])
    total_M = weights_KM.sum(0)
    return same_KM, np.where(total_M > 0, support_KM.max(0) / np.maximum(total_M, 1e-6), 1).astype(np.float32)


def _bracket(votes_K3M: Plane, weights_KM: Plane, offsets: list[int]) -> Plane:
    """[K, M]: more weight for the nearest frame before and the nearest after where they agree: what both show was most
    likely there in between."""
    more_KM = np.zeros_like(weights_KM)
    late = np.array(offsets) > 0
    if not (late.any() and not late.all()):
        return more_KM
    sides = [np.flatnonzero(side) for side in (late, ~late)]
    nearest = [side[(weights_KM[side] > 0).argmax(0)] for side in sides]
    pixels = np.arange(weights_KM.shape[1])
    votes = [votes_K3M[k, :, pixels].T for k in nearest]
    shown_M = np.minimum(*(weights_KM[k, pixels] for k in nearest))
    for k in nearest:
        more_KM[k, pixels] = BRACKET * shown_M * _same(*votes)
    return more_KM


def _same(a_3M: Plane, b_3M: Plane) -> Plane:
    """[M]: 1 for about the same colour, 0 for another."""
    apart_M = np.abs(a_3M - b_3M).sum(0)
    same_M: Plane = ((OTHER - apart_M / 3) / (OTHER - SAME)).clip(0, 1)
    return same_M
