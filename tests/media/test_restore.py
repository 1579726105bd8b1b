"""What other frames show is put back where the edit agrees with it, and nowhere else."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from hetcache.media.propagate import Filled
from hetcache.media.restore import REACH_PX, restore_seen

COUNT, HEIGHT, WIDTH = 3, 72, 96


def fill(seen=1.0):
    frames = np.random.default_rng(0).integers(60, 200, (COUNT, HEIGHT, WIDTH, 3), np.uint8)
    return Filled(frames, np.full(frames.shape[:3], seen, np.float32), hole())


def hole():
    mask = np.zeros((COUNT, HEIGHT, WIDTH), bool)
    for index in range(2):  # nothing is masked in the last frame
        mask[index, 24:56, 30 + 4 * index : 66 + 4 * index] = True
    return mask


def smeared(frames):
    """As an autoencoder loses texture."""
    return np.stack([cv2.GaussianBlur(frame, (0, 0), 2) for frame in frames])


def error(a, b, where):
    return np.abs(a[where].astype(float) - b[where]).mean()


def test_lost_texture_comes_back():
    filled, mask = fill(), hole()
    edit = smeared(filled.frames_THWC)
    restored, share = restore_seen(edit, filled, mask)
    assert error(restored, filled.frames_THWC, mask) < 0.05 * error(edit, filled.frames_THWC, mask)
    assert share > 0.95
    assert (restored[~mask] == edit[~mask]).all()


def test_what_the_edit_shows_instead_stays():
    """A thing of another colour in the middle of the hole, as a prompt may ask for."""
    filled, mask = fill(), hole()
    edit = smeared(filled.frames_THWC)
    edit[:, 34:46, 42:58] = (250, 20, 20)
    restored, share = restore_seen(edit, filled, mask)
    assert error(restored[:2, 36:44, 46:54], edit[:2, 36:44, 46:54], ...) < 1
    assert 0.3 < share < 0.9
    assert error(restored[:2, 24:30, 34:64], filled.frames_THWC[:2, 24:30, 34:64], ...) < 3


@pytest.mark.parametrize("seen, least, most", [(0, 0, 0), (0.1, 0, 0), (0.3, 0.4, 0.6), (0.5, 0.95, 1)])
def test_what_is_shown_less_surely_counts_less(seen, least, most):
    filled, mask = fill(seen), hole()
    edit = smeared(filled.frames_THWC)
    restored, share = restore_seen(edit, filled, mask)
    assert least <= share <= most
    assert (restored == edit).all() == (most == 0)


def test_nothing_further_away_is_looked_at():
    filled, mask = fill(), hole()
    edit = smeared(filled.frames_THWC)
    near = np.stack([cv2.dilate(m.astype(np.uint8), np.ones((2 * REACH_PX + 1,) * 2, np.uint8)) > 0 for m in mask])
    other, elsewhere = edit.copy(), filled.frames_THWC.copy()
    other[~near], elsewhere[~near] = 0, 255
    there = Filled(elsewhere, np.where(near, filled.seen_THW, 0), mask)
    a, b = restore_seen(edit, filled, mask)[0], restore_seen(other, there, mask)[0]
    assert (a[mask] == b[mask]).all()


def test_an_empty_mask_changes_nothing():
    filled, nothing = fill(), np.zeros((COUNT, HEIGHT, WIDTH), bool)
    edit = smeared(filled.frames_THWC)
    restored, share = restore_seen(edit, filled, nothing)
    assert share is None and (restored == edit).all()
