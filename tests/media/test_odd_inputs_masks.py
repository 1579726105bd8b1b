"""Odd inputs, masks: one shape stored as a mask in every way, and where the edit lands then.

The edit is a flat colour, written as a video and read back by ffmpeg alone.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from imageio_ffmpeg import get_ffmpeg_exe
from odd_masks import (
    BOX_HEIGHT,
    BOX_WIDTH,
    FPS,
    HEIGHT,
    LEFT,
    NUM_FRAMES,
    STEP,
    TOP,
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
    sideways_tag,
    sixteen_bit,
    truth,
    turned,
    two_objects,
    video,
)
from PIL import Image, features
from video_files import make

from hetcache.media.clip import take_clip
from hetcache.media.ffmpeg import VideoError
from hetcache.media.mask_clinic import MaskReport, examine
from hetcache.media.result import look_of, result_planes
from hetcache.media.source import InputOptions, Source
from hetcache.media.write import write_edit

H264 = ("-c:v", "libx264", "-crf", 5, "-pix_fmt", "yuv420p")
EDIT_RGB = (20, 230, 40)


@dataclass(frozen=True)
class Odd:
    """`found` is part of what the plan says; `still` masks stay in their first place; `rows` of the shape that are
    edited; `slack_px` is the centroid's tolerance, `slack_area` that
    of the edited area."""

    build: Build
    found: str
    still: bool = False
    rows: tuple[int, int] = (TOP, TOP + BOX_HEIGHT)
    options: InputOptions = InputOptions()
    slack_px: float = 0.6
    slack_area: float = 0.08


def picture(array: Any) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(array))


def first(picture_of: Any) -> Any:
    return lambda: picture_of(0)


def as_labels(index: int) -> Image.Image:
    return picture(two_objects()[index])


def as_davis(index: int) -> Image.Image:
    return indexed(two_objects()[index], davis_palette())


def as_bits(index: int) -> Image.Image:
    return picture(truth()[index])


def as_deep_labels(index: int) -> Image.Image:
    return sixteen_bit(two_objects()[index] * np.uint16(100))


def as_rgba(colour: tuple[int, int, int], index: int) -> Image.Image:
    return picture(rgba(colour)[index])


def as_instances(index: int) -> Image.Image:
    """Object numbers in the red channel alone."""
    return picture(np.stack([two_objects()[index], *[np.zeros((HEIGHT, WIDTH), np.uint8)] * 2], axis=-1))


WHITE, BLACK = (255, 255, 255), (0, 0, 0)
MIDDLE = TOP + BOX_HEIGHT // 2
HALF = np.ascontiguousarray(grey()[:, ::2, ::2])
TWICE = np.repeat(grey(), 2, axis=0)
OTHER_ALPHA = np.concatenate([over_black(WHITE), 255 - grey()[..., None]], axis=-1)

VIDEOS: dict[str, Odd] = {
    "h264": Odd(video("m.mp4", *H264), "grey levels"),
    "h264 of 10 bit": Odd(video("m.mp4", "-c:v", "libx264", "-crf", 5, "-pix_fmt", "yuv420p10le"), "grey levels"),
    "h264 of full range": Odd(video("m.mp4", *H264, "-color_range", "pc", "-vf", "scale=out_range=pc"), "grey levels"),
    "hevc": Odd(video("m.mp4", "-c:v", "libx265", "-x265-params", "log-level=none", "-crf", 10), "grey levels"),
    "mpeg4 as OpenCV writes it": Odd(video("m.mp4", "-c:v", "mpeg4", "-q:v", 3), "grey levels", slack_px=1.2),
    "motion jpeg": Odd(video("m.avi", "-c:v", "mjpeg", "-q:v", 3), "grey levels"),
    "vp9": Odd(video("m.webm", "-c:v", "libvpx-vp9", "-deadline", "realtime"), "grey levels"),
    "raw y4m": Odd(video("m.y4m", "-pix_fmt", "yuv444p"), "grey levels"),
    "animated gif": Odd(video("m.gif"), "grey levels"),
    "a red shape": Odd(video("m.mp4", *H264, frames=over_black((255, 0, 0))), "coloured shapes", slack_area=0.12),
    "a dark blue shape": Odd(video("m.mp4", *H264, frames=over_black((0, 0, 128))), "coloured shapes"),
    "vp9 with alpha on white": Odd(
        video("m.webm", "-c:v", "libvpx-vp9", "-pix_fmt", "yuva420p", frames=rgba(WHITE)), "shape in the alpha channel"
    ),
    "vp9 with alpha on black": Odd(
        video("m.mkv", "-c:v", "libvpx-vp9", "-pix_fmt", "yuva420p", frames=rgba(BLACK)), "shape in the alpha channel"
    ),
    "vp8 with alpha": Odd(
        video("m.webm", "-c:v", "libvpx", "-auto-alt-ref", 0, "-b:v", "2M", "-pix_fmt", "yuva420p", frames=rgba(WHITE)),
        "shape in the alpha channel",
    ),
    "prores 4444 on black": Odd(
        video("m.mov", "-c:v", "prores_ks", "-profile:v", 4, "-pix_fmt", "yuva444p10le", frames=rgba(BLACK)),
        "shape in the alpha channel",
    ),
    "quicktime animation": Odd(
        video("m.mov", "-c:v", "qtrle", "-pix_fmt", "argb", frames=rgba((9, 90, 200))), "shape in the alpha channel"
    ),
    "png in mov": Odd(
        video("m.mov", "-c:v", "png", "-pix_fmt", "rgba", frames=rgba(BLACK)), "shape in the alpha channel"
    ),
    "ffv1 with alpha": Odd(
        video("m.mkv", "-c:v", "ffv1", "-pix_fmt", "bgra", frames=rgba((200, 0, 0))), "shape in the alpha channel"
    ),
    "apng with alpha": Odd(video("m.apng", "-f", "apng", frames=rgba(BLACK)), "shape in the alpha channel"),
    "animated gif with transparency": Odd(
        video(
            "m.gif", "-vf", "split[a][b];[a]palettegen=reserve_transparent=1[p];[b][p]paletteuse", frames=rgba(WHITE)
        ),
        "shape in the alpha channel",
    ),
    "labels 0 and 1 in ffv1": Odd(video("m.mkv", "-c:v", "ffv1", frames=grey(1)), "labels 1, every one"),
    "labels 0 and 1 in lossless h264": Odd(
        video("m.mp4", "-c:v", "libx264", "-qp", 0, "-pix_fmt", "gray", "-color_range", "pc", frames=grey(1)),
        "labels 1, every one",
    ),
    "16-bit labels in ffv1": Odd(
        video("m.mkv", "-c:v", "ffv1", frames=truth() * np.uint16(7)),
        "16-bit labels 7",
    ),
    "half the size": Odd(video("m.mp4", *H264, frames=HALF), "grey levels", slack_px=1.0),
    "lying, turned back by its metadata": Odd(turned(90), "grey levels"),
    "upside down, turned back by its metadata": Odd(turned(180), "grey levels"),
    "twice the rate, as long": Odd(video("m.mp4", *H264, frames=TWICE, rate=2 * FPS), "takes the mask of its time"),
    "another rate, as many frames": Odd(video("m.mp4", *H264, rate=25), "grey levels"),
    "black, to be inverted": Odd(
        video("m.mp4", *H264, frames=255 - grey()), "inverted", options=InputOptions(invert_mask=True)
    ),
    "alpha that is not to be used": Odd(
        video("m.mov", "-c:v", "qtrle", "-pix_fmt", "argb", frames=OTHER_ALPHA),
        "shape in the luma channel",
        options=InputOptions(mask_channel="luma"),
    ),
    "the green channel": Odd(
        video("m.mkv", "-c:v", "ffv1", "-pix_fmt", "bgr0", frames=np.stack([255 - grey(), grey(), grey() // 2], -1)),
        "shape in the green channel",
        options=InputOptions(mask_channel="green"),
    ),
}
STILLS: dict[str, Odd] = {
    "grey png": Odd(image("m.png", lambda: picture(grey()[0])), "an image for every frame: grey levels", True),
    "1-bit png": Odd(image("m.png", first(as_bits)), "grey levels", True),
    "grey palette png": Odd(
        image("m.png", lambda: indexed(truth()[0].astype(np.uint8), [0, 0, 0, 255, 255, 255])), "grey levels", True
    ),
    "palette png whose white comes first": Odd(
        image("m.png", lambda: indexed((~truth()[0]).astype(np.uint8), [255, 255, 255, 0, 0, 0])), "grey levels", True
    ),
    "palette png with transparency": Odd(
        image("m.png", lambda: indexed(truth()[0].astype(np.uint8), [9, 9, 9, 0, 0, 0]), transparency=0),
        "shape in the alpha channel",
        True,
    ),
    "davis png": Odd(image("m.png", first(as_davis)), "palette with objects 1, 2, every one is edited", True),
    "object 2 of a davis png": Odd(
        image("m.png", first(as_davis)),
        "palette with objects 1, 2, 2 alone is edited",
        True,
        (MIDDLE, TOP + BOX_HEIGHT),
        InputOptions(mask_object=2),
    ),
    "labels 0 and 1 in png": Odd(image("m.png", lambda: picture(grey(1)[0])), "labels 1", True),
    "object 1 of labels": Odd(
        image("m.png", first(as_labels)), "labels 1, 2, 1 alone", True, (TOP, MIDDLE), InputOptions(mask_object=1)
    ),
    "labels in the red channel": Odd(image("m.png", first(as_instances)), "labels 1, 2", True),
    "16-bit labels": Odd(image("m.png", first(as_deep_labels)), "16-bit labels 100, 200", True),
    "object 200 of 16-bit labels": Odd(
        image("m.png", first(as_deep_labels)),
        "16-bit labels 100, 200, 200 alone",
        True,
        (MIDDLE, TOP + BOX_HEIGHT),
        InputOptions(mask_object=200),
    ),
    "16-bit levels": Odd(image("m.png", lambda: sixteen_bit(truth()[0] * np.uint16(65535))), "grey levels", True),
    "grey and alpha png": Odd(
        image("m.png", lambda: picture(rgba(BLACK)[0]).convert("LA")), "shape in the alpha channel", True
    ),
    "white with alpha png": Odd(image("m.png", first(partial(as_rgba, WHITE))), "shape in the alpha channel", True),
    "black with alpha png": Odd(image("m.png", first(partial(as_rgba, BLACK))), "shape in the alpha channel", True),
    "webp with alpha": Odd(image("m.webp", first(partial(as_rgba, BLACK))), "shape in the alpha channel", True),
    "opaque rgba png": Odd(image("m.png", lambda: picture(over_black(WHITE)[0]).convert("RGBA")), "grey levels", True),
    "a cut-out, by its alpha": Odd(
        image("m.png", cut_out), "shape in the alpha channel", True, options=InputOptions(mask_channel="alpha")
    ),
    "jpeg": Odd(image("m.jpg", lambda: picture(grey()[0]), quality=80), "grey levels", True),
    "jpeg on its side": Odd(
        image("m.jpg", lambda: picture(np.rot90(grey()[0], -1)), quality=90, exif=sideways_tag()), "grey levels", True
    ),
    "pgm": Odd(image("m.pgm", lambda: picture(grey()[0])), "grey levels", True),
    "bmp": Odd(image("m.bmp", first(as_bits)), "grey levels", True),
    "tiff": Odd(image("m.tif", first(as_bits)), "grey levels", True),
    "gif": Odd(image("m.gif", lambda: picture(grey()[0])), "grey levels", True),
    "dim, with a threshold": Odd(
        image("m.png", lambda: picture(grey(60)[0])), "from 60 on", True, options=InputOptions(mask_threshold=60)
    ),
}
FOLDERS: dict[str, Odd] = {
    "grey": Odd(images("png", lambda index: picture(grey()[index])), "images: grey levels"),
    "1 bit": Odd(images("png", as_bits), "images: grey levels"),
    "davis": Odd(images("png", as_davis), "images: palette with objects 1, 2, every one"),
    "object 1 of davis": Odd(
        images("png", as_davis), "1 alone is edited", rows=(TOP, MIDDLE), options=InputOptions(mask_object=1)
    ),
    "16-bit labels": Odd(images("png", as_deep_labels), "images: 16-bit labels 100, 200"),
    "alpha": Odd(images("png", partial(as_rgba, BLACK)), "images: shape in the alpha channel"),
    "webp with alpha": Odd(images("webp", partial(as_rgba, WHITE)), "images: shape in the alpha channel"),
    "jpeg": Odd(images("jpg", lambda index: picture(grey()[index])), "images: grey levels"),
}
TABLE = {
    **{f"video: {name}": odd for name, odd in VIDEOS.items()},
    **{f"image: {name}": odd for name, odd in STILLS.items()},
    **{f"folder: {name}": odd for name, odd in FOLDERS.items()},
}


def background() -> np.ndarray:
    """[T, H, W, 3] uint8 without any green: a ramp of blue and red."""
    frames = np.zeros((NUM_FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    frames[..., 0] = np.linspace(60, 200, WIDTH)
    frames[..., 2] = np.linspace(80, 220, HEIGHT)[:, None]
    frames[..., 1] = 30
    return frames


@pytest.fixture(scope="module")
def source_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("odd") / "v.mkv"
    return make(path, "-c:v", "ffv1", "-pix_fmt", "bgr0", frames=background(), rate=FPS)


def decoded(path: Path) -> np.ndarray:
    """[T, H, W, 3] uint8 by ffmpeg, as a player shows it."""
    args = [
        "-nostdin",
        "-loglevel",
        "error",
        "-i",
        str(path),
        "-vf",
        "scale=in_color_matrix=bt709",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-",
    ]
    data = subprocess.run([get_ffmpeg_exe(), *args], stdout=subprocess.PIPE, check=True, timeout=60).stdout
    return np.frombuffer(data, np.uint8).reshape(-1, HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("name", TABLE)
def test_the_edit_lands_where_the_shape_is(name: str, source_video: Path, tmp_path: Path) -> None:
    odd = TABLE[name]
    source = Source.open(source_video, odd.build(tmp_path), odd.options)
    report = examined(source)
    assert odd.found in dict(report.rows())["mask"]

    out = tmp_path / "out.mp4"
    look, edited = look_of(source, NUM_FRAMES), np.broadcast_to(np.uint8(EDIT_RGB), (NUM_FRAMES, HEIGHT, WIDTH, 3))
    planes = result_planes(source, edited, source.every_mask(NUM_FRAMES), 0, look, NUM_FRAMES)
    write_edit(out, planes, source.timeline(NUM_FRAMES), look, source.info)
    shown = decoded(out).astype(int)
    assert len(shown) == NUM_FRAMES
    top, bottom = odd.rows
    for index in range(NUM_FRAMES):
        left = LEFT + (0 if odd.still else STEP * index)
        rows, columns = np.nonzero(shown[index, ..., 1] > 130)
        centre = (top + bottom - 1) / 2, left + (BOX_WIDTH - 1) / 2
        assert abs(rows.mean() - centre[0]) < odd.slack_px and abs(columns.mean() - centre[1]) < odd.slack_px
        area = (bottom - top) * BOX_WIDTH
        assert abs(len(rows) - area) < odd.slack_area * area
        far = np.ones((HEIGHT, WIDTH), np.bool_)
        far[top - 6 : bottom + 6, max(left - 6, 0) : left + BOX_WIDTH + 6] = False
        error = (shown[index] - background()[index].astype(int))[far]
        assert 10 * np.log10(255**2 / max((error**2).mean(), 1e-9)) > 36
        assert np.abs(shown[index, (top + bottom) // 2, left + BOX_WIDTH // 2] - EDIT_RGB).max() < 12


def examined(source: Source) -> MaskReport:
    report = examine(source, take_clip(source, NUM_FRAMES, (HEIGHT, WIDTH)), NUM_FRAMES)
    assert report is not None
    return report


def test_the_alpha_of_hevc(source_video: Path, tmp_path: Path) -> None:
    """Apple's: a layer of its own, which shows in the decoded frames alone."""
    codec = ("-c:v", "libx265", "-x265-params", "log-level=none", "-crf", 10, "-pix_fmt", "yuva420p", "-tag:v", "hvc1")
    mask = video("m.mp4", *codec, frames=rgba(WHITE))(tmp_path)
    args = [get_ffmpeg_exe(), "-i", str(mask), "-vf", "showinfo", "-frames:v", "1", "-f", "null", "-"]
    if b"fmt:yuva420p" not in subprocess.run(args, capture_output=True, timeout=60).stderr:
        pytest.skip("this ffmpeg does not write and read it")
    source = Source.open(source_video, mask)
    assert "shape in the alpha channel" in dict(examined(source).rows())["mask"]
    for found, expected in zip(source.every_mask(NUM_FRAMES), truth(), strict=True):
        assert (found ^ expected).mean() < 0.005


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow does not read AVIF")
@pytest.mark.parametrize("kind", ["grey", "alpha"])
def test_avif(source_video: Path, tmp_path: Path, kind: str) -> None:
    shape = picture(grey()[0]).convert("RGB") if kind == "grey" else picture(rgba(BLACK)[0])
    shape.save(tmp_path / "m.avif", quality=90)
    source = Source.open(source_video, tmp_path / "m.avif")
    wanted = "grey levels" if kind == "grey" else "shape in the alpha channel"
    assert wanted in dict(examined(source).rows())["mask"]
    for found in source.every_mask(NUM_FRAMES):
        assert (found ^ truth()[0]).mean() < 0.005


def test_pages_of_a_tiff_are_refused(source_video: Path, tmp_path: Path) -> None:
    first, *rest = (picture(each) for each in grey())
    first.save(tmp_path / "m.tif", save_all=True, append_images=rest)
    with pytest.raises(VideoError, match="holds 9 pictures in one TIFF; save them as PNG files in a folder"):
        Source.open(source_video, tmp_path / "m.tif")
