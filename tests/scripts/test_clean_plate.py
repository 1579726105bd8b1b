"""The clean plate: what a still camera shows behind a mask at other times, and the distance of an edit to it."""

from __future__ import annotations

import numpy as np
import pytest

from scripts.measure.clean_plate import clean_plate, psnr_db


def test_the_plate_is_what_the_other_frames_show_and_nothing_of_the_mask():
    rng = np.random.default_rng(0)
    still = rng.integers(0, 256, (8, 10, 3), dtype=np.uint8)
    frames, mask = np.repeat(still[None], 5, 0), np.zeros((5, 8, 10), bool)
    for index in range(5):
        mask[index, 2:5, index : index + 3] = True
    mask[:, 7, 9] = True
    frames[mask] = 255 - frames[mask]
    plate = clean_plate(frames, mask)
    assert np.isnan(plate[7, 9]).all()
    plate[7, 9] = still[7, 9]
    assert (plate == still).all()


def test_psnr_counts_the_masked_pixels_alone():
    plate = np.full((4, 4, 3), 100, np.float32)
    frames = np.full((2, 4, 4, 3), 110, np.uint8)
    where = np.zeros((2, 4, 4), bool)
    where[:, 1, 1] = True
    frames[~where] = 0
    assert psnr_db(frames, plate, where) == pytest.approx(20 * np.log10(25.5))
