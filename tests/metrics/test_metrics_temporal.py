"""Flicker and the warping error on motion that is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hetcache.metrics.errors import MetricError

pytest.importorskip("cv2", reason="pip install opencv-python-headless")

from hetcache.metrics.temporal import TemporalMeter  # noqa: E402


def smooth_picture(height: int, width: int) -> np.ndarray:
    """Structure at every scale that optical flow can follow, the same in all channels but for a shift."""
    y, x = np.mgrid[:height, :width].astype(float)
    waves = sum(np.sin(x / a + y / b + c) for a, b, c in ((3, 5, 0), (7, -4, 1), (11, 13, 2), (-5, 9, 3)))
    grey = 128 + 25 * waves
    return np.stack([grey, grey + 5, grey - 5], axis=2).clip(0, 255).astype(np.uint8)


def measure(frames: np.ndarray, step: int = 100, **masks: np.ndarray) -> dict[str, dict[str, float]]:
    meter = TemporalMeter()
    for start in range(0, len(frames), step):
        part = slice(start, start + step)
        meter.update(frames[part], {name: mask[part] for name, mask in masks.items()})
    return meter.result()


def test_a_still_video_has_neither():
    frames = np.repeat(smooth_picture(48, 64)[None], 4, axis=0)
    assert measure(frames)["all"] == {"flicker": 0.0, "warp_error": 0.0}


def test_flicker_is_the_mean_change():
    """All four pixels of a step count, and the direction does not."""
    levels = np.array([100, 110, 90, 90])
    frames = np.broadcast_to(levels[:, None, None, None], (4, 32, 32, 3)).astype(np.uint8)
    assert measure(frames)["all"]["flicker"] == pytest.approx((10 + 20 + 0) / 3)


def test_motion_is_flicker_but_no_warping_error():
    picture = smooth_picture(80, 120)
    frames = np.stack([picture[8:72, 8 + 2 * t : 88 + 2 * t] for t in range(5)])
    moved = measure(frames)["all"]
    flashing = frames.copy()
    flashing[1::2] = np.clip(flashing[1::2].astype(int) + 12, 0, 255)
    flashed = measure(flashing)["all"]
    assert moved["flicker"] > 10
    assert moved["warp_error"] < 2e-4
    assert flashed["warp_error"] == pytest.approx((12 / 255) ** 2, rel=0.25)
    assert flashed["warp_error"] > 5 * moved["warp_error"]


def test_a_fault_is_found_where_it_is():
    frames = np.repeat(smooth_picture(64, 96)[None], 4, axis=0)
    inside = np.zeros(frames.shape[:3], bool)
    inside[:, 16:48, 32:64] = True
    rng = np.random.default_rng(0)
    noise = rng.integers(-30, 31, frames.shape)
    frames = np.where(inside[..., None], np.clip(frames + noise, 0, 255), frames).astype(np.uint8)
    found = measure(frames, in_mask=inside, outside=~inside, nowhere=np.zeros_like(inside))
    assert found["outside"]["flicker"] == 0.0
    assert found["in_mask"]["flicker"] > 10
    assert found["in_mask"]["warp_error"] > 100 * max(found["outside"]["warp_error"], 1e-9)
    assert math.isnan(found["nowhere"]["flicker"]) and math.isnan(found["nowhere"]["warp_error"])


def test_batches_change_nothing():
    rng = np.random.default_rng(0)
    frames = np.clip(smooth_picture(40, 56)[None] + rng.integers(-20, 21, (7, 40, 56, 3)), 0, 255).astype(np.uint8)
    mask = rng.random(frames.shape[:3]) < 0.3
    assert measure(frames, 100, m=mask) == measure(frames, 3, m=mask) == measure(frames, 1, m=mask)


def test_small_frames_are_named():
    with pytest.raises(MetricError, match="12x40"):
        TemporalMeter().update(np.zeros((2, 40, 12, 3), np.uint8), {})
