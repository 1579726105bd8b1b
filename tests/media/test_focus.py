"""The box that the model works on: holds the mask and its surroundings, never scales up, comes back to the pixel."""

from __future__ import annotations

import numpy as np
import pytest

from hetcache.media.ffmpeg import VideoError
from hetcache.media.focus import MaskExtent, default_margin, focus_box
from hetcache.media.placement import Placement
from hetcache.models import MODELS

NATIVE = MODELS["tiny"].default_size


def extent(top, bottom, left, right, size=(480, 832)):
    return MaskExtent(top, bottom, left, right, size)


def test_a_small_mask_gets_the_native_size_at_the_sources_own_pixels():
    box = focus_box(extent(200, 260, 300, 340), NATIVE)
    assert box[2:] == NATIVE(480, 832) == (240, 416)
    assert box[0] <= 200 - 32 and box[0] + 240 >= 260 + 32


def test_a_tall_mask_takes_another_shape_before_it_takes_another_scale():
    box = focus_box(extent(60, 360, 400, 440, (720, 1280)), NATIVE, margin_px=32)
    assert box[2] >= 364 and box[3] < 416
    assert box[2:] == tuple(side + side % 2 for side in NATIVE(364, 104))


def test_a_mask_too_large_for_the_models_area_is_scaled_down_and_whole():
    wide = extent(300, 700, 400, 1200, (1080, 1920))
    top, left, height, width = focus_box(wide, NATIVE)
    margin = default_margin(wide)
    assert top <= max(300 - margin, 0) and top + height >= min(700 + margin, 1080)
    assert left <= 400 - margin and left + width >= 1200 + margin
    assert height * width > 240 * 416


@pytest.mark.parametrize("corner", [(0, 40, 0, 40), (440, 480, 0, 40), (0, 40, 792, 832), (440, 480, 792, 832)])
def test_a_mask_at_the_border_stays_inside(corner):
    top, left, height, width = focus_box(extent(*corner), NATIVE)
    assert top >= 0 and left >= 0 and top + height <= 480 and left + width <= 832
    assert top <= corner[0] and top + height >= corner[1] and left <= corner[2] and left + width >= corner[3]


def test_nearly_the_whole_picture_is_no_focus():
    assert focus_box(extent(10, 470, 20, 800), NATIVE) is None
    assert focus_box(extent(10, 30, 20, 60, (240, 416)), NATIVE) is None


def test_the_box_has_even_corners():
    for left in range(301, 306):
        box = focus_box(extent(201, 261, left, left + 41), NATIVE)
        assert all(value % 2 == 0 for value in box)


def test_the_extent_is_over_all_frames_and_joins():
    mask = np.zeros((3, 50, 60), bool)
    assert MaskExtent.of(mask) is None
    mask[0, 10:12, 20:25] = mask[2, 30, 5] = True
    assert MaskExtent.of(mask) == extent(10, 31, 5, 25, (50, 60))
    assert MaskExtent.of(mask[:1]).joined(MaskExtent.of(mask[2:])) == MaskExtent.of(mask)


def test_at_one_to_one_the_box_comes_back_to_the_pixel():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (2, 120, 160, 3), dtype=np.uint8)
    placement = Placement("stretch", (120, 160), (48, 64), (20, 30, 48, 64))
    model = placement.frames_to_model(frames)
    assert (model == frames[:, 20:68, 30:94]).all()
    back = placement.frames_to_source(model)
    assert back.shape == frames.shape and (back[:, 20:68, 30:94] == frames[:, 20:68, 30:94]).all()
    assert placement.scale == 1


def test_a_mask_outside_the_box_is_refused():
    mask = np.zeros((1, 120, 160), bool)
    mask[0, 0, 0] = True
    with pytest.raises(VideoError, match="--focus leaves out"):
        Placement("stretch", (120, 160), (48, 64), (20, 30, 48, 64)).mask_to_model(mask)
