"""What other frames show: carried into the hole from where it is known, and never from under the mask."""

from __future__ import annotations

import subprocess
import sys

import cv2
import numpy as np
import pytest

from hetcache.files import ROOT
from hetcache.media.fill import fill_under_mask
from hetcache.media.motion import estimate_motion
from hetcache.media.propagate import propagate_fill

SIZE = 96, 128


def interpolate(frames, mask):
    return fill_under_mask(frames, mask, "push_pull")


def scene(height=300, width=400, seed=0):
    """A large still picture with detail at several scales, uint8 RGB."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((height, width, 3), np.float32)
    for cells, gain in ((6, 90), (20, 60), (60, 40)):
        noise = rng.random((cells, cells, 3)).astype(np.float32) - 0.5
        picture += gain * cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    return (128 + picture).clip(0, 255).astype(np.uint8)


def filmed(picture, moves):
    """[T, *SIZE, 3]: the picture seen through 3x3 maps from frame pixels to the picture's."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.stack([cv2.warpPerspective(picture, np.float64(move), SIZE[::-1], flags=flags) for move in moves])


def shifted(x, y, zoom=1.0):
    return [[zoom, 0, x], [0, zoom, y], [0, 0, 1]]


def box(count, start, step=(0, 0), size=(30, 24)):
    mask = np.zeros((count, *SIZE), bool)
    for index in range(count):
        top, left = start[0] + step[0] * index, start[1] + step[1] * index
        mask[index, max(top, 0) : top + size[0], max(left, 0) : left + size[1]] = True
    return mask


def psnr(frames, truth, mask):
    error = (frames.astype(np.float64) - truth)[mask]
    return 10 * np.log10(255**2 / max((error**2).mean(), 1e-9))


STILL = [shifted(100, 100)] * 13
CAMERAS = {
    "still": STILL,
    "panning": [shifted(60 + 5.3 * i, 100 + 1.7 * i) for i in range(13)],
    "zooming": [shifted(100 - 2 * i, 100 - 1.5 * i, 1 + 0.03 * i) for i in range(13)],
}


@pytest.mark.parametrize("camera", CAMERAS)
@pytest.mark.parametrize("step", [(0, 6), (3, -5)])
def test_a_moving_hole_is_filled_with_what_other_frames_show(camera, step):
    truth = filmed(scene(), CAMERAS[camera])
    mask = box(13, (20, 20 if step[1] > 0 else 80), step)
    filled = propagate_fill(truth, mask)
    assert (filled.frames_THWC[~mask] == truth[~mask]).all()
    assert (filled.seen_THW[mask] > 0.3).mean() > 0.95
    assert psnr(filled.frames_THWC, truth, mask) > 32
    assert psnr(filled.frames_THWC, truth, mask) > psnr(interpolate(truth, mask), truth, mask) + 6


@pytest.mark.parametrize("camera", CAMERAS)
def test_nothing_leaks_from_under_the_mask(camera):
    truth = filmed(scene(), CAMERAS[camera])
    mask = box(13, (20, 20), (0, 6))
    poisoned = truth.copy()
    poisoned[mask] = np.random.default_rng(1).integers(0, 256, (mask.sum(), 3))
    first, second = propagate_fill(truth, mask), propagate_fill(poisoned, mask)
    assert (first.frames_THWC == second.frames_THWC).all()
    assert (first.seen_THW == second.seen_THW).all()


def test_a_still_camera_and_a_still_hole_show_nothing_new():
    """A logo: no frame uncovers it, so it is interpolated and nothing claims to have been seen."""
    truth, mask = filmed(scene(), STILL), box(13, (40, 50))
    filled = propagate_fill(truth, mask)
    assert (filled.seen_THW[mask] == 0).all()
    assert (filled.frames_THWC == interpolate(truth, mask)).all()


def test_nothing_is_carried_across_a_cut():
    first, second = filmed(scene(), STILL[:6]), filmed(scene(seed=7), STILL[:6])
    truth, mask = np.concatenate([first, second]), box(12, (40, 50))
    mask[6:] = False
    filled = propagate_fill(truth, mask)
    assert (filled.seen_THW[mask] == 0).all()
    assert estimate_motion(truth, np.zeros_like(mask)).num_scenes == 2


def test_a_flash_of_light_is_matched_in_exposure():
    truth = filmed(scene(), STILL)
    truth[5] = (truth[5] * 1.25 + 12).clip(0, 255).astype(np.uint8)
    mask = box(13, (20, 20), (0, 6))
    filled = propagate_fill(truth, mask)
    assert psnr(filled.frames_THWC[5:6], truth[5:6], mask[5:6]) > 30
    assert psnr(filled.frames_THWC[4:5], truth[4:5], mask[4:5]) > 30


def test_a_single_frame_is_interpolated():
    truth, mask = filmed(scene(), STILL[:1]), box(1, (40, 50))
    filled = propagate_fill(truth, mask)
    assert (filled.frames_THWC == interpolate(truth, mask)).all()
    assert (filled.seen_THW[mask] == 0).all()


def test_holes_at_the_border_and_far_apart():
    truth = filmed(scene(), STILL)
    mask = box(13, (-6, -10), (0, 4)) | box(13, (70, 100), (0, -5))
    filled = propagate_fill(truth, mask)
    assert psnr(filled.frames_THWC, truth, mask) > 32


LOW_AND_WIDE = """
import cv2, numpy as np
from hetcache.media.propagate import propagate_fill
rng = np.random.default_rng(0)
still = cv2.resize(rng.integers(0, 255, (6, 80, 3), dtype=np.uint8), (832, 28))
frames = np.stack([np.roll(still, 5 * i, 1) + rng.integers(0, 40, still.shape, dtype=np.uint8) for i in range(5)])
mask = np.zeros(frames.shape[:3], bool)
for i in range(5):
    mask[i, 10:20, 40 + 90 * i : 400 + 90 * i] = True
propagate_fill(frames, mask)
"""


def test_a_low_and_wide_strip_does_not_end_the_process():
    """OpenCV's optical flow reads outside its pyramid there; in a process of its own, which a crash would end."""
    done = subprocess.run([sys.executable, "-c", LOW_AND_WIDE], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_mask_over_everything_is_grey():
    truth = filmed(scene(), STILL[:3])
    filled = propagate_fill(truth, np.ones((3, *SIZE), bool))
    assert (filled.frames_THWC == 128).all() and (filled.seen_THW == 0).all()


def test_reach_bounds_how_far_frames_are_looked_for():
    truth, mask = filmed(scene(), STILL), box(13, (40, 50))
    mask[12] = False
    assert (propagate_fill(truth, mask).seen_THW[0][mask[0]] > 0.3).all()
    near = propagate_fill(truth, mask, reach=4).seen_THW
    assert (near[0] == ~mask[0]).all() and (near[9][mask[9]] > 0.3).all()


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="mask has shape"):
        propagate_fill(np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 8, 9), bool))


def walked_past(count, walks, noise=3.0, camera=None):
    """(frames with noise, truth without it, the first walk's mask): people of a colour of their own cross a background;
    a walk is (first frame, last frame, left at the first, pixels a frame)."""
    rng = np.random.default_rng(5)
    truth = filmed(scene(), camera or [shifted(100, 100)] * count)
    frames, mask = truth.astype(np.float32), np.zeros(truth.shape[:3], bool)
    for person, (first, last, left, step) in enumerate(walks):
        for index in range(first, last + 1):
            start = left + step * (index - first)
            span = np.s_[index, 25:75, max(round(start), 0) : max(round(start + 18), 0)]
            frames[span] = ((200, 40, 60), (30, 60, 190), (60, 190, 40))[person]
            if person == 0:
                mask[index, 22:78, max(round(start) - 3, 0) : max(round(start + 18) + 3, 0)] = True
    noisy = frames + rng.normal(0, noise, frames.shape)
    return noisy.round().clip(0, 255).astype(np.uint8), truth, mask


# Who is removed stands at 50 for a while or walks; the others pass where they stood, uncovered.
WALKS = {
    "crosses afterwards": (45, [(0, 20, 50, 0), (19, 36, -20, 8)]),
    "follows closely": (45, [(0, 20, -20, 7), (5, 25, -20, 7)]),
    "before and after": (61, [(25, 35, 50, 0), (14, 31, 110, -6), (29, 46, -20, 7)]),
    "slowly": (81, [(0, 25, 50, 0), (20, 50, -10, 4)]),
}


@pytest.mark.parametrize("walk", WALKS)
def test_somebody_who_walks_past_uncovered_is_not_pasted_into_the_hole(walk):
    """One frame's noise is 38.6 dB. Where others walk through the hole itself, a little of it is interpolated."""
    frames, truth, mask = walked_past(*WALKS[walk])
    filled = propagate_fill(frames, mask)
    assert psnr(filled.frames_THWC, truth, mask) > (32 if walk == "before and after" else 40)
    assert (filled.seen_THW[mask] > 0.5).mean() > 0.95
    poisoned = frames.copy()
    poisoned[mask] = 255 - poisoned[mask]
    again = propagate_fill(poisoned, mask)
    assert (filled.frames_THWC == again.frames_THWC).all() and (filled.seen_THW == again.seen_THW).all()


def test_nor_before_a_camera_that_pans():
    count = 45
    camera = [shifted(60 + 0.7 * index, 100 + 0.3 * index) for index in range(count)]
    frames, truth, mask = walked_past(count, [(0, 20, -20, 7), (5, 25, -20, 7)], camera=camera)
    assert psnr(propagate_fill(frames, mask).frames_THWC, truth, mask) > 38


def test_what_stands_there_before_and_after_stays():
    """As a car that comes, stands and drives off: the hole passes over it while it stands."""
    truth = filmed(scene(), [shifted(100, 100)] * 81)
    truth[25:56, 30:70, 40:90] = (200, 40, 60)
    mask = np.zeros(truth.shape[:3], bool)
    mask[38:43] = box(5, (35, 20), (0, 15))
    assert psnr(propagate_fill(truth, mask).frames_THWC, truth, mask) > 40


def test_two_who_show_different_things_make_less_sure_than_two_who_agree():
    frames, _, mask = walked_past(3, [(1, 1, 50, 0)])
    agreed = propagate_fill(frames, mask)
    frames[2, 25:75, 50:68] = (30, 60, 190)
    apart = propagate_fill(frames, mask)
    inner = np.s_[1, 30:70, 53:65]
    assert apart.seen_THW[inner].mean() < agreed.seen_THW[inner].mean() - 0.05
