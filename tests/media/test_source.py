"""Source and placement: mask rules, outpainting, streams that equal reads, and the way to the model's size and back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image
from video_files import clip, make, make_with_sound

from hetcache.media.clip import read_clip, take_clip
from hetcache.media.ffmpeg import VideoError
from hetcache.media.masks import dilate_mask, resize_mask
from hetcache.media.options import Fit
from hetcache.media.placement import Placement
from hetcache.media.source import InputOptions, Source

LOSSLESS = ("-c:v", "ffv1", "-pix_fmt", "bgr0")
FITS = get_args(Fit)


def grey_mask(num_frames: int) -> np.ndarray:
    """Levels 0, 100, 150 and 255 in bands that move down by 4 rows a frame."""
    levels = np.repeat(np.array([0, 100, 150, 255], np.uint8), 12)
    return np.stack(
        [np.broadcast_to(np.roll(levels, 4 * index)[:, None, None], (48, 64, 3)) for index in range(num_frames)]
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make(tmp_path / "v.mkv", *LOSSLESS, frames=clip(9))
    make(tmp_path / "m.mkv", *LOSSLESS, frames=grey_mask(9))
    make(tmp_path / "short.mkv", *LOSSLESS, frames=grey_mask(4))
    Image.fromarray(grey_mask(1)[0]).save(tmp_path / "m.png")
    return tmp_path


def opened(folder: Path, mask: str | None = "m.mkv", **options: object) -> Source:
    return Source.open(folder / "v.mkv", mask and folder / mask, replace(InputOptions(), **options))


@pytest.mark.parametrize("threshold", [1, 100, 101, 128, 150, 151, 255])
@pytest.mark.parametrize("invert", [False, True])
def test_a_pixel_is_edited_from_the_threshold_on(folder: Path, threshold: int, invert: bool) -> None:
    frames, mask = opened(folder, mask_threshold=threshold, invert_mask=invert).read(9)
    assert np.array_equal(frames, clip(9))
    assert np.array_equal(mask, (grey_mask(9)[..., 0] >= threshold) != invert)


def test_the_mask_is_inverted_and_then_grown(folder: Path) -> None:
    white = grey_mask(9)[..., 0] >= 128
    assert np.array_equal(opened(folder, mask_dilate_px=3).read(9)[1], dilate_mask(white, 3))
    grown = opened(folder, mask_dilate_px=3, invert_mask=True).read(9)[1]
    assert np.array_equal(grown, dilate_mask(~white, 3))


@pytest.mark.parametrize(
    ("extend", "order"), [("hold", [0, 1, 2, 3, 3, 3, 3, 3, 3]), ("loop", [0, 1, 2, 3, 0, 1, 2, 3, 0])]
)
def test_a_shorter_mask_holds_or_loops_if_told(folder: Path, extend: str, order: list[int]) -> None:
    source = opened(folder, "short.mkv", mask_extend=extend)
    assert source.length() == 9
    assert np.array_equal(source.read(9)[1], grey_mask(4)[order][..., 0] >= 128)


def test_a_shorter_mask_is_an_error_otherwise(folder: Path) -> None:
    source = opened(folder, "short.mkv")
    assert source.length(4) == 4
    for ask in (source.length, lambda: source.length(5), lambda: source.read(5), lambda: list(source.stream())):
        with pytest.raises(VideoError, match=r"mask .*short\.mkv: .* 4 there; .*--mask-extend hold"):
            ask()
    with pytest.raises(VideoError, match=r"video .*v\.mkv: 13 frames asked, 9 there; use --frames 9"):
        source.length(13)


def test_an_image_masks_every_frame(folder: Path) -> None:
    source = opened(folder, "m.png")
    assert source.length() == 9
    assert np.array_equal(source.read(9)[1], np.repeat(grey_mask(1)[..., 0] >= 128, 9, axis=0))


def test_outpainting_widens_the_canvas_and_masks_the_border(folder: Path) -> None:
    source = opened(folder, None, outpaint=(3, 0, 5, 7))
    frames, mask = source.read(9)
    assert source.size == frames.shape[1:3] == mask.shape[1:] == (55, 72)
    assert np.array_equal(frames[:, :48, 3:67], clip(9)) and (frames[mask] == 128).all()
    border = np.ones((55, 72), np.bool_)
    border[:48, 3:67] = False
    assert (mask == border).all()


def test_outpainting_adds_to_a_mask(folder: Path) -> None:
    options = {"mask_dilate_px": 2, "invert_mask": True}
    plain = opened(folder, **options).read(9)[1]
    mask = opened(folder, outpaint=(2, 4, 6, 8), **options).read(9)[1]
    assert np.array_equal(mask[:, 4:52, 2:66], plain)
    assert mask.sum() == plain.sum() + 9 * (60 * 72 - 48 * 64)


@pytest.mark.parametrize(
    ("mask", "options"),
    [
        ("m.mkv", {}),
        ("m.png", {"mask_dilate_px": 2}),
        ("short.mkv", {"mask_extend": "hold"}),
        ("short.mkv", {"mask_extend": "loop", "invert_mask": True}),
        (None, {"outpaint": (16, 0, 0, 4)}),
        ("m.mkv", {"outpaint": (1, 2, 3, 4), "mask_threshold": 200}),
    ],
)
def test_a_stream_equals_a_read_from_any_frame_on(folder: Path, mask: str | None, options: dict[str, object]) -> None:
    source = opened(folder, mask, **options)
    frames, masks = source.read(9)
    for start in (0, 1, 4, 8, 9):
        pairs = list(source.stream(start))
        assert len(pairs) == 9 - start
        for index, (frame, streamed) in enumerate(pairs, start):
            assert np.array_equal(frame, frames[index : index + 1])
            assert np.array_equal(streamed, masks[index : index + 1])


def test_a_video_alone_says_nothing_about_what_to_edit(folder: Path) -> None:
    with pytest.raises(VideoError, match="Give --mask or --outpaint"):
        opened(folder, None)


def test_a_clip_is_at_the_models_size_and_length(folder: Path) -> None:
    made = take_clip(opened(folder, fit="pad"), 7, (32, 64))
    assert made.frames_THWC.shape == (9, 32, 64, 3) and made.mask_THW.shape == (9, 32, 64)
    assert np.array_equal(made.frames_THWC[6], made.frames_THWC[8])
    assert made.num_frames == 9 and len(made.source_THWC) == 7
    assert np.stack(list(made.iter_to_source(made.frames_THWC))).shape == (7, 48, 64, 3)
    plain = read_clip(folder / "v.mkv", folder / "m.mkv", 9, (48, 64))
    assert np.array_equal(plain.frames_THWC, clip(9)) and plain.source_size == plain.size == (48, 64)


def test_sizes_that_fit_no_memory_are_refused_before_reading(folder: Path) -> None:
    source = opened(folder, outpaint=(4000, 4000, 4000, 4000))
    with pytest.raises(VideoError, match="33 frames of 8064x8048 do not fit in memory"):
        take_clip(source, 33, (64, 64))
    with pytest.raises(VideoError, match="9 frames of 16000x16000 .*--height and --width"):
        take_clip(opened(folder), 9, (16000, 16000))


def test_the_sound_of_a_video_is_known(tmp_path: Path) -> None:
    make_with_sound(tmp_path / "v.mp4", "-pix_fmt", "yuv420p")
    assert Source.open(tmp_path / "v.mp4", None, InputOptions(outpaint=(16, 0, 0, 0))).info.has_audio


SIZES = [(48, 64), (45, 80), (64, 48), (17, 301), (1, 1), (333, 31), (90, 90), (720, 405)]
MODEL_SIZES = [(48, 64), (64, 96), (96, 64), (16, 16), (240, 416)]


def smooth(height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    red = 255 * rows / max(height - 1, 1)
    green = 255 * columns / max(width - 1, 1)
    return np.stack([red, green, (red + green) / 2], axis=-1).round().astype(np.uint8)[None]


@pytest.mark.parametrize("source", SIZES)
@pytest.mark.parametrize("fit", FITS)
def test_a_frame_goes_to_the_models_size_and_back(fit: str, source: tuple[int, int]) -> None:
    for model in MODEL_SIZES:
        placement = Placement(fit, source, model)
        there = placement.frames_to_model(smooth(*source))
        assert there.shape == (1, *model, 3)
        back = placement.frames_to_source(there)
        assert back.shape == (1, *source, 3)
        if fit != "crop" and min(source) >= 17 and min(model) >= 48:
            assert np.abs(back.astype(int) - smooth(*source)).mean() < 8
        if source == model:
            assert np.array_equal(there, smooth(*source)) and np.array_equal(back, there)


@pytest.mark.parametrize("fit", ["pad", "crop"])
def test_pad_and_crop_keep_proportions(fit: str) -> None:
    checked = 0
    for source in SIZES:
        for model in MODEL_SIZES:
            _, _, height, width = Placement(fit, source, model)._box()
            inner, outer = ((height, width), source) if fit == "pad" else (model, (height, width))
            if min(*inner, *outer) < 15:
                continue
            checked += 1
            assert inner[0] / outer[0] == pytest.approx(inner[1] / outer[1], rel=0.04)
    assert checked > 20


@pytest.mark.parametrize("fit", FITS)
def test_no_masked_pixel_is_lost(fit: str) -> None:
    rng = np.random.default_rng(4)
    for source in SIZES:
        for model in MODEL_SIZES:
            placement = Placement(fit, source, model)
            top, left, height, width = placement._box()
            for _ in range(4):
                row, column = (int(rng.integers(side)) for side in source)
                mask = np.zeros((1, *source), np.bool_)
                mask[0, row, column] = True
                if fit == "crop" and not (top <= row < top + height and left <= column < left + width):
                    with pytest.raises(VideoError, match="--fit crop leaves out .*use --fit pad"):
                        placement.mask_to_model(mask)
                    continue
                there = placement.mask_to_model(mask)
                assert there.shape == (1, *model) and there.any()
                if fit == "crop":
                    there = resize_mask(there, height, width)
                    assert there[0, row - top, column - left]
                else:
                    inside = there[:, top : top + height, left : left + width]
                    assert resize_mask(inside, *source)[0, row, column]


def test_an_empty_and_a_full_mask_stay_so() -> None:
    for fit in FITS:
        placement = Placement(fit, (45, 80), (64, 96))
        assert not placement.mask_to_model(np.zeros((2, 45, 80), np.bool_)).any()
        if fit != "crop":
            assert placement.mask_to_model(np.ones((2, 45, 80), np.bool_)).all()
