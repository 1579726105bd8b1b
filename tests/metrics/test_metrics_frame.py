"""PSNR, SSIM and regions against scikit-image and slow oracles."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hetcache.metrics import psnr, regions, ssim
from hetcache.metrics.errors import MetricError
from hetcache.metrics.psnr import mean_psnr

skimage_metrics = pytest.importorskip("skimage.metrics", reason="pip install scikit-image")


def random_pair(shape: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 256, shape, dtype=np.uint8)
    noise = rng.integers(-20, 21, shape)
    return a, np.clip(a + noise, 0, 255).astype(np.uint8)


def real_pair() -> tuple[np.ndarray, np.ndarray]:
    """A photograph that ships inside scikit-image, and a coarser copy of it."""
    from skimage import data

    a = data.astronaut()[:300, 40:361]
    return a, (a // 16 * 16 + 8).astype(np.uint8)


def test_import_is_light():
    """inference.py imports these: they must not bring a deep-learning or vision library with them."""
    import subprocess
    import sys

    code = (
        "import sys, hetcache.metrics; "
        "print([m for m in ('lpips', 'torchvision', 'cv2', 'skimage', 'torch') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


@pytest.mark.parametrize("shape", [(7, 7, 3), (33, 50, 3), (64, 41, 3)])
def test_random_pairs_equal_skimage(shape):
    a, b = random_pair(shape)
    assert abs(psnr(a, b) - skimage_metrics.peak_signal_noise_ratio(a, b, data_range=255)) < 1e-6
    assert abs(ssim(a, b) - skimage_metrics.structural_similarity(a, b, channel_axis=-1, data_range=255)) < 1e-6


def test_real_pair_equals_skimage():
    a, b = real_pair()
    assert abs(psnr(a, b) - skimage_metrics.peak_signal_noise_ratio(a, b, data_range=255)) < 1e-6
    assert abs(ssim(a, b) - skimage_metrics.structural_similarity(a, b, channel_axis=-1, data_range=255)) < 1e-6


def test_video_is_the_mean_over_frames():
    a, b = random_pair((3, 20, 24, 3))
    b[1] = np.clip(b[1].astype(int) + 30, 0, 255)
    assert psnr(a, b) == pytest.approx(np.mean([psnr(x, y) for x, y in zip(a, b, strict=True)]), abs=1e-9)
    assert ssim(a, b) == pytest.approx(np.mean([ssim(x, y) for x, y in zip(a, b, strict=True)]), abs=1e-9)


def test_identical():
    a, _ = random_pair((2, 16, 16, 3))
    assert psnr(a, a) == math.inf
    assert ssim(a, a) == 1.0


def test_one_identical_frame_does_not_make_a_video_infinite():
    assert mean_psnr([math.inf, 30.0, math.nan, 40.0]) == 35.0
    assert mean_psnr([math.inf, math.nan]) == math.inf
    assert math.isnan(mean_psnr([math.nan])) and math.isnan(mean_psnr([]))


def test_masked_values_are_the_means_inside_the_mask():
    a, b = random_pair((2, 30, 32, 3))
    mask = np.zeros((2, 30, 32), bool)
    mask[0, 5:12, 6:20] = True
    mask[1, 20:, :9] = True
    want_psnr, want_ssim = [], []
    for x, y, m in zip(a, b, mask, strict=True):
        errors = [(float(x[i, j, c]) - float(y[i, j, c])) ** 2 for i, j in np.argwhere(m) for c in range(3)]
        want_psnr.append(10 * math.log10(255**2 / np.mean(errors)))
        _, full = skimage_metrics.structural_similarity(x, y, channel_axis=-1, data_range=255, full=True)
        inner = [(i, j) for i, j in np.argwhere(m) if 3 <= i < 27 and 3 <= j < 29]
        want_ssim.append(np.mean([full[i, j] for i, j in inner]))
    assert psnr(a, b, mask) == pytest.approx(np.mean(want_psnr), abs=1e-6)
    assert ssim(a, b, mask) == pytest.approx(np.mean(want_ssim), abs=1e-6)


def test_full_mask_is_no_mask_and_an_empty_one_measures_nothing():
    a, b = random_pair((2, 20, 20, 3))
    full = np.ones((20, 20), bool)
    assert psnr(a, b, full) == pytest.approx(psnr(a, b), abs=1e-9)
    assert ssim(a, b, full) == pytest.approx(ssim(a, b), abs=1e-9)
    assert math.isnan(psnr(a, b, ~full)) and math.isnan(ssim(a, b, ~full))


@pytest.mark.parametrize(
    "a, b, mask, words",
    [
        (np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8), None, "differ in shape"),
        (np.zeros((8, 8, 3)), np.zeros((8, 8, 3)), None, "uint8"),
        (np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8), None, "uint8"),
        (np.zeros((0, 8, 8, 3), np.uint8), np.zeros((0, 8, 8, 3), np.uint8), None, "no pixels"),
        (np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8), np.ones((8, 8)), "mask must be bool"),
        (
            np.zeros((8, 8, 3), np.uint8),
            np.zeros((8, 8, 3), np.uint8),
            np.ones((2, 8, 8), bool),
            "mask must be",
        ),
    ],
)
def test_inputs_that_do_not_fit_are_named(a, b, mask, words):
    for metric in (psnr, ssim):
        with pytest.raises(MetricError, match=words):
            metric(a, b, mask)


def test_ssim_names_frames_under_its_window():
    with pytest.raises(MetricError, match="6x8"):
        ssim(*random_pair((8, 6, 3)))


def slow_regions(mask: np.ndarray, seam_px: int) -> dict[str, np.ndarray]:
    seam = np.zeros_like(mask)
    for t, i, j in np.ndindex(mask.shape):
        near = mask[t, max(0, i - seam_px) : i + seam_px + 1, max(0, j - seam_px) : j + seam_px + 1]
        seam[t, i, j] = near.any() and not near.all()
    return {"edit": mask | seam, "in_mask": mask, "seam": seam, "outside": ~(mask | seam)}


@pytest.mark.parametrize("seam_px", [0, 1, 3, 40])
@pytest.mark.parametrize("kind", ["blob", "border", "empty", "full"])
def test_regions_equal_the_slow_oracle(kind, seam_px):
    mask = np.zeros((2, 19, 23), bool)
    if kind == "blob":
        mask[:, 5:14, 6:12] = True
        mask[1, 9, 9] = False
    elif kind == "border":
        mask[0, :, :7] = True
        mask[1, 12:, 12:] = True
    elif kind == "full":
        mask[:] = True
    got = regions(mask, seam_px)
    want = slow_regions(mask, seam_px)
    assert got.keys() == want.keys()
    for name in want:
        np.testing.assert_array_equal(got[name], want[name], err_msg=name)
    np.testing.assert_array_equal(regions(mask[0], seam_px)["seam"], want["seam"][0])


def test_regions_bad_inputs():
    with pytest.raises(MetricError, match="bool"):
        regions(np.zeros((2, 4, 4), np.uint8))
    with pytest.raises(MetricError, match="0 pixels or wider"):
        regions(np.zeros((2, 4, 4), bool), -1)
