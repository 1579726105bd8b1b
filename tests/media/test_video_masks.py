"""Masks: the stated rules for reading, growing, feathering, resizing and compositing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from video_files import clip, make

from hetcache.media.ffmpeg import VideoError
from hetcache.media.masks import composite, dilate_mask, feather_mask, read_mask, resize_frames, resize_mask

SIZE = (48, 64)


def moving_mask(num_frames: int = 5) -> np.ndarray:
    mask = np.zeros((num_frames, *SIZE), np.bool_)
    for index in range(num_frames):
        mask[index, 10:30, 4 + 6 * index : 20 + 6 * index] = True
    return mask


def as_frames(mask: np.ndarray) -> np.ndarray:
    return np.repeat((mask * 255).astype(np.uint8)[..., None], 3, axis=-1)


@pytest.fixture
def mask_video(tmp_path: Path) -> Path:
    return make(
        tmp_path / "mask.mp4",
        "-c:v",
        "libx264",
        "-crf",
        "10",
        "-pix_fmt",
        "yuv420p",
        frames=as_frames(moving_mask()),
    )


def test_mask_video_image_and_folder(tmp_path: Path, mask_video: Path) -> None:
    expected = moving_mask()
    assert np.array_equal(read_mask(mask_video, 5, SIZE), expected)
    assert np.array_equal(read_mask(mask_video, 2, SIZE, start=3), expected[3:])
    assert np.array_equal(read_mask(mask_video, 5, SIZE, invert=True), ~expected)
    Image.fromarray(expected[0]).save(tmp_path / "one.png")
    assert np.array_equal(read_mask(tmp_path / "one.png", 3, SIZE), np.repeat(expected[:1], 3, axis=0))
    folder = tmp_path / "folder"
    folder.mkdir()
    for index, mask in enumerate(expected):
        Image.fromarray(mask).save(folder / f"{index}.png")
    assert np.array_equal(read_mask(folder, 5, SIZE), expected)


def test_threshold_is_inclusive_white(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 127, 128, 255]], np.uint8)).save(tmp_path / "grey.png")
    assert read_mask(tmp_path / "grey.png", 1, (1, 4))[0, 0].tolist() == [False, False, True, True]
    assert read_mask(tmp_path / "grey.png", 1, (1, 4), threshold=127)[0, 0].tolist() == [
        False,
        True,
        True,
        True,
    ]
    with pytest.raises(VideoError, match="must be from 1 to 255"):
        read_mask(tmp_path / "grey.png", 1, (1, 4), threshold=0)


def test_short_masks_are_an_error_unless_told(mask_video: Path) -> None:
    expected = moving_mask()
    with pytest.raises(VideoError, match="7 frames asked, 5 there; use --frames 5 or fewer, or --mask-extend"):
        read_mask(mask_video, 7, SIZE)
    held = read_mask(mask_video, 7, SIZE, extend="hold")
    assert np.array_equal(held, expected[[0, 1, 2, 3, 4, 4, 4]])
    looped = read_mask(mask_video, 12, SIZE, extend="loop")
    assert np.array_equal(looped, expected[np.arange(12) % 5])
    assert np.array_equal(read_mask(mask_video, 3, SIZE, extend="loop", start=9), expected[[4, 0, 1]])
    assert np.array_equal(read_mask(mask_video, 2, SIZE, extend="hold", start=9), expected[[4, 4]])


def test_a_mask_of_another_size_is_stretched(mask_video: Path) -> None:
    large = read_mask(mask_video, 5, (96, 128))
    assert large.shape == (5, 96, 128)
    expected = moving_mask().repeat(2, axis=1).repeat(2, axis=2)
    assert (large != expected).mean() < 0.005


def test_dilate_equals_the_definition() -> None:
    mask = np.random.default_rng(1).random((2, 14, 17)) > 0.97
    rows, columns = np.mgrid[:14, :17]
    for px in (0, 1, 3):
        expected = np.zeros_like(mask)
        for index, row, column in np.argwhere(mask):
            expected[index] |= (rows - row) ** 2 + (columns - column) ** 2 <= px * px
        assert np.array_equal(dilate_mask(mask, px), expected)
    assert np.array_equal(dilate_mask(~mask, -2), ~dilate_mask(mask, 2))
    assert not dilate_mask(np.zeros((1, 5, 5), np.bool_), 3).any()


def test_feather_lies_within_the_dilation() -> None:
    mask = moving_mask(2)
    for px in (0, 1, 5):
        alpha = feather_mask(mask, px)
        assert alpha.dtype == np.float32
        assert (alpha[mask] == 1).all()
        assert np.array_equal(alpha > 0, dilate_mask(mask, px))
    row = feather_mask(mask, 8)[0, 20, 20:28]
    assert (np.diff(row) < 0).all()


@pytest.mark.parametrize("px", [0, 4])
def test_composite_keeps_the_background_to_the_bit(px: int) -> None:
    random = np.random.default_rng(2)
    source, edited = random.integers(0, 256, (2, 5, *SIZE, 3), dtype=np.uint8)
    mask = moving_mask()
    result = composite(source, edited, mask, feather_px=px)
    outside = ~dilate_mask(mask, px)
    assert np.array_equal(result[outside], source[outside])
    assert np.array_equal(result[mask], edited[mask])
    low, high = np.minimum(source, edited), np.maximum(source, edited)
    assert ((result >= low) & (result <= high)).all()
    with pytest.raises(ValueError, match="shapes differ"):
        composite(source, edited[:4], mask)


@pytest.mark.parametrize(("height", "width"), [(6, 8), (7, 9), (48, 64), (100, 70), (1, 1)])
def test_resize_mask_never_loses_a_pixel(height: int, width: int) -> None:
    for row, column in [(0, 0), (47, 63), (23, 31), (5, 50)]:
        mask = np.zeros((1, *SIZE), np.bool_)
        mask[0, row, column] = True
        found = np.argwhere(resize_mask(mask, height, width)[0])
        assert len(found)
        for new_row, new_column in found:
            assert new_row / height < (row + 1) / 48 and row / 48 < (new_row + 1) / height
            assert new_column / width < (column + 1) / 64 and column / 64 < (new_column + 1) / width


def test_resize_frames() -> None:
    frames = clip(2)
    assert np.array_equal(resize_frames(frames, *SIZE), frames)
    small = resize_frames(frames, 24, 32)
    assert small.shape == (2, 24, 32, 3) and small.dtype == np.uint8
    assert abs(float(small.mean()) - float(frames.mean())) < 1
    stripes = np.zeros((1, 32, 32, 3), np.uint8)
    stripes[:, :, ::2] = 255
    assert np.abs(resize_frames(stripes, 16, 8).astype(int) - 127)[:, :, 1:-1].max() < 12
