"""Masks that cannot be understood are refused by name, and suspicious ones are warned about before the run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from odd_masks import (
    FPS,
    HEIGHT,
    NUM_FRAMES,
    WIDTH,
    Build,
    cut_out,
    davis_palette,
    grey,
    image,
    images,
    indexed,
    over_black,
    rgba,
    sixteen_bit,
    truth,
    two_objects,
    video,
)
from PIL import Image
from video_files import ffmpeg, make

import inference
from diffsynth_patches import loader
from hetcache.media.clip import take_clip
from hetcache.media.ffmpeg import VideoError
from hetcache.media.mask_clinic import MaskReport, examine
from hetcache.media.mask_pace import Pace
from hetcache.media.mask_reading import LOOKED_AT, read_rules
from hetcache.media.mask_sheet import OUTLINE_RGB, mask_sheet, tinted
from hetcache.media.masks import dilate_mask, read_mask
from hetcache.media.source import InputOptions, Source

FFV1 = ("-c:v", "ffv1")


def moving_picture() -> np.ndarray:
    """[T, H, W, 3] uint8: a bright bar where the shape is, on grey."""
    frames = np.full((NUM_FRAMES, HEIGHT, WIDTH, 3), 90, np.uint8)
    frames[truth()] = 220
    return frames


@pytest.fixture(scope="module")
def v(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clinic") / "v.mkv"
    return make(path, *FFV1, "-pix_fmt", "bgr0", frames=moving_picture(), rate=FPS)


def report_of(v: Path, mask: Path, **options: object) -> MaskReport:
    source = Source.open(v, mask, InputOptions(**options))
    report = examine(source, take_clip(source, NUM_FRAMES, (HEIGHT, WIDTH)), NUM_FRAMES)
    assert report is not None
    return report


def picture(array: np.ndarray) -> Callable[[], Image.Image]:
    return lambda: Image.fromarray(array)


def see_through() -> np.ndarray:
    frame = rgba((255, 255, 255))[0].copy()
    frame[..., :3] = over_black((255, 255, 255))[4]
    frame[..., 3] = 0
    return frame


def lying(folder: Path) -> Path:
    plain = video("plain.mp4", "-c:v", "libx264", "-pix_fmt", "yuv420p")(folder)
    ffmpeg("-display_rotation", 90, "-i", plain, "-c", "copy", folder / "turned.mp4")
    return folder / "turned.mp4"


def standing(folder: Path) -> Path:
    Image.fromarray(np.ascontiguousarray(grey()[0].T)).save(folder / "m.png")
    return folder / "m.png"


def mixed(folder: Path) -> Path:
    """Labels in all frames but one that is not looked at."""
    (folder / "masks").mkdir()
    for index in range(LOOKED_AT + 3):
        Image.fromarray(grey(255 if index == 1 else 1)[0]).save(folder / "masks" / f"{index}.png")
    return folder / "masks"


REFUSED: dict[str, tuple[Build, dict[str, object], str]] = {
    "alpha of a mask without": (image("m.png", picture(grey()[0])), {"mask_channel": "alpha"}, "has no alpha channel"),
    "two shapes": (image("m.png", cut_out), {}, "different shapes; give --mask-channel alpha or luma"),
    "transparent everywhere": (image("m.png", picture(see_through())), {}, "is transparent everywhere; give --mask-ch"),
    "too dark": (
        image("m.png", picture(grey(60)[0])),
        {},
        "nothing reaches the threshold 128, .* is 60; give --mask-threshold 60",
    ),
    "too dark in jpeg": (image("m.jpg", picture(grey(20)[0])), {}, "nothing reaches the threshold 128"),
    "an object that is not there": (
        image("m.png", picture(two_objects()[0])),
        {"mask_object": 3},
        "no object 3 in the 1 frames looked at; found: 1, 2",
    ),
    "an object of a lossy video": (
        video("m.mp4", "-c:v", "libx264", "-pix_fmt", "yuv420p"),
        {"mask_object": 1},
        "a lossy file keeps no object numbers; save the mask as PNG",
    ),
    "an object and a threshold": (
        image("m.png", picture(two_objects()[0])),
        {"mask_object": 1, "mask_threshold": 9},
        "leave one of the two out",
    ),
    "turned in its metadata": (lying, {}, r"is 96x128 .* metadata turn it by 90 degrees\): it lies on its side, turn"),
    "on its side": (standing, {}, "is 96x128 for a video of 128x96: it lies on its side"),
    "another rate and length": (
        video("m.mp4", "-c:v", "libx264", "-pix_fmt", "yuv420p", frames=grey(255, 6), rate=25),
        {},
        r"6 frames at 25 a second for 9 at 10, neither as many nor as long; give --mask-timing frames or time",
    ),
    "time of an image": (image("m.png", picture(grey()[0])), {"mask_timing": "time"}, "images have no time"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_understood_is_refused(name: str, v: Path, tmp_path: Path) -> None:
    build, options, message = REFUSED[name]
    with pytest.raises(VideoError, match=message):
        report_of(v, build(tmp_path), **options)


def test_a_frame_of_another_kind_is_refused_when_it_is_met(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="frame 1 has value 255, others are labels up to 1: give --mask-threshold 1"):
        read_mask(mixed(tmp_path), 3, (HEIGHT, WIDTH))


def warned(v: Path, mask: Path, **options: object) -> str:
    return "\n".join(report_of(v, mask, **options).warnings)


def test_a_good_mask_has_no_warning(v: Path, tmp_path: Path) -> None:
    assert warned(v, video("m.mkv", *FFV1)(tmp_path)) == ""


def test_empty_frames_are_counted(v: Path, tmp_path: Path) -> None:
    frames = grey()
    frames[[2, 5]] = 0
    report = report_of(v, video("m.mkv", *FFV1, frames=frames)(tmp_path))
    assert report.warnings == ("the mask is empty in 2 of 9 frames, first in frame 2 of those",)
    assert [share == 0 for share in report.shares] == [index in (2, 5) for index in range(9)]
    assert "empty in every frame: a lossy" in warned(v, video("n.mkv", *FFV1, frames=grey(0))(tmp_path))


def test_a_full_and_a_tiny_mask(v: Path, tmp_path: Path) -> None:
    full = image("full.png", picture(np.full((HEIGHT, WIDTH), 255, np.uint8)))(tmp_path)
    assert "covers the whole picture in every frame: is it inverted" in warned(v, full)
    dot = np.zeros((HEIGHT, WIDTH), np.uint8)
    dot[40, 60] = 255
    assert "hardly a pixel" in warned(v, image("dot.png", picture(dot))(tmp_path))


def test_a_mask_that_does_not_follow(v: Path, tmp_path: Path) -> None:
    still = image("m.png", picture(grey()[0]))(tmp_path)
    assert "stays where it is in all 9 frames while the picture under it changes by" in warned(v, still)
    corner = np.zeros((HEIGHT, WIDTH), np.uint8)
    corner[70:, :50] = 255
    assert warned(v, image("corner.png", picture(corner))(tmp_path)) == ""


def test_flat_grey_below_the_threshold_and_pictures(v: Path, tmp_path: Path) -> None:
    levels = grey()[0].copy()
    levels[80:, 80:] = 100
    said = warned(v, image("m.png", picture(levels))(tmp_path))
    assert "flat areas of 100 are below 128 and not edited; --mask-threshold 100 edits them" in said
    ramp = np.broadcast_to(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, WIDTH))
    assert "is this a mask?" in warned(v, image("ramp.png", picture(np.ascontiguousarray(ramp)))(tmp_path))


def test_soft_edges_and_shapes_are_said(v: Path, tmp_path: Path) -> None:
    soft = Image.fromarray(grey()[0]).resize((64, 48)).resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)
    report = report_of(v, image("m.png", lambda: soft)(tmp_path))
    assert 0.01 < report.reading.soft < 0.2
    assert f"soft edges on up to {report.reading.soft:.1%}" in report.rows()[1][1]
    square = image("square.png", picture(np.pad(np.full((50, 50), 255, np.uint8), 20)))(tmp_path)
    assert "stretched from another shape: 90x90 for a video of 128x96" in warned(v, square)


def test_a_mask_of_another_rate_is_said_and_mapped(v: Path, tmp_path: Path) -> None:
    half = video("half.mkv", *FFV1, frames=np.ascontiguousarray(grey()[::2]), rate=FPS / 2)(tmp_path)
    report = report_of(v, half)
    assert "the mask has 5 frames a second, the video 10: each frame takes the mask of its time" in report.warnings
    source = report.source
    assert np.array_equal(source.read(NUM_FRAMES)[1], truth()[[0, 0, 2, 2, 4, 4, 6, 6, 8]])
    streamed = np.concatenate([mask for _, mask in source.stream()])
    assert np.array_equal(streamed, source.read(NUM_FRAMES)[1]) and source.length() == NUM_FRAMES
    other = video("other.mkv", *FFV1, rate=25)(tmp_path)
    assert "25 frames a second, the video 10, and as many frames: taken frame by frame" in warned(v, other)
    assert np.array_equal(Source.open(v, other).read(NUM_FRAMES)[1], truth())
    by_time = Source.open(v, video("long.mkv", *FFV1, rate=5)(tmp_path), InputOptions(mask_timing="time"))
    assert np.array_equal(by_time.read(NUM_FRAMES)[1], truth()[np.arange(NUM_FRAMES) // 2])


@pytest.mark.parametrize(("mask_fps", "video_fps"), [(10, 25), (25, 10), (30, 24), (24000 / 1001, 25), (15, 30)])
def test_pace_counts_the_frames_that_it_gives(mask_fps: float, video_fps: float) -> None:
    pace = Pace(mask_fps, video_fps)
    for num_masks in (1, 7, 30):
        given = list(pace.spread(iter(range(num_masks))))
        assert len(given) == pace.num_frames(num_masks)
        assert given == [min(pace.index(frame), num_masks - 1) for frame in range(len(given))]
        for frame, mask in enumerate(given[:-2]):
            assert mask / mask_fps <= frame / video_fps + 1e-3


def test_a_long_folder_is_looked_at_in_few_places(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    for index in range(200):
        sixteen_bit(truth()[0] * np.uint16(1 + index)).save(tmp_path / "masks" / f"{index}.png")
    reading = read_rules(tmp_path / "masks")
    assert reading.num_looked <= LOOKED_AT and reading.step == 5
    assert reading.ids[-1] > 190 and reading.labels


def test_the_sheet_tints_the_mask_alone() -> None:
    frames = moving_picture()
    one = tinted(frames[0], truth()[0])
    assert np.array_equal(one[~truth()[0]], frames[0][~truth()[0]])
    assert (one[24, 16:56] == OUTLINE_RGB).all() and one[40, 30].tolist() == [236, 139, 139]
    sheet = mask_sheet(frames, truth())
    assert sheet.size == (3 * WIDTH, 2 * (HEIGHT + 16))


def test_plan_and_record_say_what_was_understood(
    v: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loader, "load_pipeline", lambda *_: pytest.fail("the model was loaded"))
    blank = image("m.png", picture(grey(0)[0]))(tmp_path)
    argv = ["--video", str(v), "--mask", str(blank), "--frames", "9", "--output", "out.mp4", "--model", "tiny"]
    assert inference.main(argv) == 0
    assert "the mask is empty in every frame" in capsys.readouterr().out
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["mask"]["share_per_frame"] == [0.0] * 9
    assert record["mask"]["channel"] == "luma" and record["mask"]["warnings"]


def test_a_mask_for_a_video_of_variable_rate_goes_by_its_times(tmp_path: Path) -> None:
    uneven = [0, 1, 2, 6, 7, 8, 12, 13, 14]
    filters = ("-vf", "setpts=(N+3*floor(N/3)+0.1)/10/TB", "-fps_mode", "passthrough", "-enc_time_base", "1/1000")
    v = make(tmp_path / "v.mkv", *FFV1, "-pix_fmt", "bgr0", *filters, frames=moving_picture(), rate=FPS)
    mask = video("m.mkv", *FFV1, frames=grey(255, 15))(tmp_path)
    source = Source.open(v, mask)
    assert np.array_equal(source.read(NUM_FRAMES)[1], truth(15)[uneven])
    assert source.length() == NUM_FRAMES


@pytest.mark.parametrize("writable", [True, False])
def test_a_plan_leaves_a_picture(writable: bool, v: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mask = video("m.mkv", *FFV1)(tmp_path)
    if not writable:
        (tmp_path / "out_plan.png").mkdir()
    argv = ["--video", str(v), "--mask", str(mask), "--frames", "9", "--output", str(tmp_path / "out.mp4")]
    assert inference.main([*argv, "--model", "tiny", "--steps", "2", "--height", "96", "--width", "128", "--plan"]) == 0
    out = capsys.readouterr().out
    path = Path(out.split("mask over the video: ")[1].splitlines()[0])
    assert (path == tmp_path / "out_plan.png") == writable
    sheet = np.asarray(Image.open(path))
    assert (sheet == OUTLINE_RGB).all(axis=2).sum() > 100
    assert "mask covers" in out and not (tmp_path / "out.mp4").exists()
    if not writable:
        path.unlink()


def test_a_run_edits_the_object_that_was_named(v: Path, tmp_path: Path) -> None:
    """The whole way, with the embedded model: the other object and the background stay."""
    mask = images("png", lambda index: indexed(two_objects()[index], davis_palette()))(tmp_path)
    out = tmp_path / "out.mp4"
    argv = ["--video", str(v), "--mask", str(mask), "--mask-object", "2", "--mask-feather", "0", "--frames", "5"]
    argv += ["--model", "tiny", "--steps", "1", "--height", "96", "--width", "128", "--output", str(out)]
    assert inference.main(argv) == 0
    raw = tmp_path / "out.rgb"
    ffmpeg("-i", out, "-f", "rawvideo", "-pix_fmt", "rgb24", raw)
    shown = np.frombuffer(raw.read_bytes(), np.uint8).reshape(5, HEIGHT, WIDTH, 3).astype(int)
    difference = np.abs(shown - moving_picture()[:5]).max(axis=3)
    named = two_objects()[:5] == 2
    far = ~dilate_mask(named, 4)
    assert difference[far].mean() < 3 and difference[named].mean() > 10
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["mask"]["objects"] == [1, 2] and record["mask"]["object"] == 2
    assert record["mask"]["share"]["mean"] == pytest.approx(float(named.mean()), abs=1e-5)
