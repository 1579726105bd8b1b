"""A mask for a removal: grown to its hull part by part, and downwards."""

from __future__ import annotations

import numpy as np

from hetcache.media.mask_growth import hull_mask, shadow_mask


def test_a_hull_fills_dents_and_holes_and_leaves_parts_apart():
    mask = np.zeros((2, 40, 60), bool)
    mask[0, 5:20, 5:8] = mask[0, 17:20, 5:20] = True  # an L
    mask[0, 10:15, 40:50] = True
    mask[0, 12, 45] = False
    hull = hull_mask(mask)
    assert (hull & mask == mask).all() and not hull[1].any()
    assert hull[0, 16, 10] and hull[0, 12, 45]
    assert not hull[0, 6, 18] and not hull[0, :, 24:40].any()
    assert hull[0, 10:15, 40:50].all() and hull[0, :, 40:].sum() == 50


def test_a_shadow_grows_downwards_alone_and_not_over_the_border():
    mask = np.zeros((1, 20, 10), bool)
    mask[0, 4:6, 3:5] = mask[0, 18, 8] = True
    grown = shadow_mask(mask, 3)
    assert grown[0, 4:9, 3:5].all() and grown[0, 18:, 8].all()
    assert grown.sum() == 10 + 2
