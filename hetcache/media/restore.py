"""Where an edit agrees with what other frames show, it is what they show less the autoencoder's loss: put that back."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from hetcache.media.align import LEAST_CONFIDENCE
from hetcache.media.propagate import Filled

Frames = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Plane = NDArray[np.float32]

# From this confidence of a shown pixel on its own word counts fully; at LEAST_CONFIDENCE it counts nothing.
TRUSTED = 0.5
# Agreement is judged on means about this wide, in pixels, where an autoencoder's loss of texture averages out.
AGREE_SIGMA = 4.0
# Grey levels between edit and fill at which the weight is 1/e; at half of them it is 0.94, at twice nothing.
AGREE_WITHIN = 45.0
# Further from the mask nothing is looked at.
REACH_PX = 12


def restore_seen(edit_THWC: Frames, filled: Filled, mask_THW: Mask) -> tuple[Frames, float | None]:
    """(`edit_THWC`, where `mask_THW` is True moved towards what other frames show: all the way where they show it
    surely and the edit's colours agree with it, not at all where the edit shows something else; the mean of that weight
    over the mask, None for an empty one). Reads neither source nor edit outside the mask beyond REACH_PX around it."""
    restored_THWC = edit_THWC.copy()
    total, count = 0.0, int(mask_THW.sum())
    for index, mask in enumerate(mask_THW):
        if not mask.any():
            continue
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = tuple(slice(max(side[0] - REACH_PX, 0), side[-1] + REACH_PX + 1) for side in (rows, columns))
        inside, edit = mask[box], edit_THWC[index][box]
        difference_HWC = filled.frames_THWC[index][box].astype(np.float32) - edit
        weight = _weight(difference_HWC, filled.seen_THW[index][box])
        values = edit[inside] + weight[inside][:, None] * difference_HWC[inside]
        restored_THWC[index][box][inside] = values.round().clip(0, 255).astype(np.uint8)
        total += float(weight[inside].sum())
    return restored_THWC, total / count if count else None


def _weight(difference_HWC: Plane, seen: Plane) -> Plane:
    """[H, W] in 0..1: trust in what is shown times agreement of its local mean with the edit's."""
    trust = ((seen - LEAST_CONFIDENCE) / (TRUSTED - LEAST_CONFIDENCE)).clip(0, 1).astype(np.float32)
    known = np.maximum(_blurred(trust), 1e-3)
    apart = np.abs(_blurred(difference_HWC * trust[..., None]) / known[..., None]).mean(2)
    weight: Plane = trust * np.exp(-((apart / AGREE_WITHIN) ** 4))
    return weight


def _blurred(plane: Plane) -> Plane:
    side = 2 * REACH_PX + 1
    return np.asarray(cv2.GaussianBlur(plane, (side, side), AGREE_SIGMA))
