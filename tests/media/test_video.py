"""Reading and writing video: what goes in comes out, whatever the container."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from video_files import clip, ffmpeg, make, make_with_sound

from hetcache.media import ffmpeg as media_ffmpeg
from hetcache.media.ffmpeg import VideoError, frame_rate_fraction
from hetcache.media.header import parse_header, read_header
from hetcache.media.images import natural_key
from hetcache.media.read import count_frames, iter_frames, largest_4k_plus_1, probe, read_frames
from hetcache.media.write import write_video

CODECS = {
    "mp4": ["-c:v", "libx264", "-crf", "1", "-pix_fmt", "yuv444p"],
    "mkv": ["-c:v", "ffv1"],
    "avi": ["-c:v", "mjpeg", "-q:v", "1"],
    "webm": ["-c:v", "libvpx-vp9", "-crf", "4", "-b:v", "0", "-cpu-used", "8"],
    "mov": ["-c:v", "prores_ks", "-pix_fmt", "yuv422p10le"],
    "ts": ["-c:v", "mpeg2video", "-q:v", "1"],
    "gif": [],
}


def close(found: np.ndarray, expected: np.ndarray, mean: float = 4.0) -> bool:
    return found.shape == expected.shape and float(np.abs(found.astype(int) - expected).mean()) < mean


@pytest.mark.parametrize("container", CODECS)
def test_every_container_gives_its_frames(tmp_path: Path, container: str) -> None:
    path = make(tmp_path / f"a.{container}", *CODECS[container], rate=25)
    info = probe(path)
    assert (info.width, info.height, info.kind, info.has_audio) == (64, 48, "video", False)
    assert info.fps == pytest.approx(25)
    assert count_frames(path) == 9
    assert close(read_frames(path), clip(), mean=30 if container == "gif" else 4)


@pytest.mark.parametrize("pix_fmt", ["gray", "yuv420p10le", "yuv444p", "rgb24", "gbrp10le", "yuvj420p"])
def test_pixel_formats_become_rgb(tmp_path: Path, pix_fmt: str) -> None:
    frames = clip()
    if pix_fmt == "gray":
        frames[..., :] = frames[..., 1:2]
    path = make(
        tmp_path / "a.mkv",
        "-c:v",
        "ffv1" if pix_fmt != "yuvj420p" else "mjpeg",
        "-pix_fmt",
        pix_fmt,
        frames=frames,
    )
    assert close(read_frames(path), frames)


def test_alpha_lies_over_black(tmp_path: Path) -> None:
    path = tmp_path / "a.mov"
    ffmpeg("-f", "lavfi", "-i", "color=white@0.5:s=64x48:d=0.1,format=rgba", "-c:v", "qtrle", path)
    frames = read_frames(path)
    assert np.abs(frames.astype(int) - 127).max() <= 2


@pytest.mark.parametrize(("degrees", "turns"), [(90, 1), (180, 2), (270, 3)])
def test_rotation_metadata_turns_the_frames(tmp_path: Path, degrees: int, turns: int) -> None:
    plain = make(tmp_path / "plain.mp4", *CODECS["mp4"])
    path = tmp_path / "turned.mp4"
    ffmpeg("-display_rotation", degrees, "-i", plain, "-c", "copy", path)
    info = probe(path)
    expected = np.rot90(clip(), turns, (1, 2))
    assert (info.height, info.width) == expected.shape[1:3]
    assert close(read_frames(path), expected)


def test_variable_frame_rate_keeps_the_native_frames(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mkv", "-vf", "setpts='(N+gt(N,3)*20)/24/TB'", "-fps_mode", "vfr", "-c:v", "ffv1")
    assert close(read_frames(path), clip())


def test_start_count_and_size(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mkv", "-c:v", "ffv1")
    assert close(read_frames(path, 3, start=4), clip()[4:7])
    assert [frame.shape for frame in iter_frames(path, 7, 5, size=(24, 40))] == [(24, 40, 3)] * 2
    assert list(iter_frames(path, count=0)) == []


def test_too_few_frames_names_the_number_that_works(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mkv", "-c:v", "ffv1", frames=clip(12))
    with pytest.raises(VideoError, match=r"a\.mkv: 33 frames asked, 12 there; use --frames 9 or fewer"):
        read_frames(path, 33)
    with pytest.raises(VideoError, match="none there after frame 20"):
        read_frames(path, 1, start=20)


def test_largest_4k_plus_1() -> None:
    assert [largest_4k_plus_1(n) for n in (0, 1, 4, 5, 8, 9, 33, 36)] == [0, 1, 1, 5, 5, 9, 33, 33]


def test_folder_of_frames_in_natural_order(tmp_path: Path) -> None:
    for index, frame in enumerate(clip(11)):
        Image.fromarray(frame).save(tmp_path / f"frame_{index}.png")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_text("no image")
    info = probe(tmp_path)
    assert (info.kind, info.num_frames, info.width, info.height) == ("folder", 11, 64, 48)
    assert np.array_equal(read_frames(tmp_path, 3, start=8), clip(11)[8:])
    assert natural_key("f2.png") < natural_key("f10.png")


def test_still_images(tmp_path: Path) -> None:
    frame = clip(1)[0]
    Image.fromarray(frame).save(tmp_path / "a.png")
    assert probe(tmp_path / "a.png").kind == "image"
    assert np.array_equal(read_frames(tmp_path / "a.png"), frame[None])
    deep = (frame[..., 1].astype(np.uint16)) * 257
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert np.array_equal(read_frames(tmp_path / "deep.png")[0, ..., 2], frame[..., 1])
    rgba = np.dstack([np.full((4, 4, 3), 200, np.uint8), np.array([[0, 255, 0, 255]] * 4, np.uint8)])
    Image.fromarray(rgba).save(tmp_path / "alpha.png")
    assert read_frames(tmp_path / "alpha.png")[0, 0, :, 0].tolist() == [0, 200, 0, 200]
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(frame).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    info = probe(tmp_path / "turned.jpg")
    assert (info.height, info.width) == (64, 48)
    assert close(read_frames(tmp_path / "turned.jpg")[0], np.rot90(frame, 3), mean=8)


@pytest.mark.parametrize(("height", "width", "pix_fmt"), [(48, 64, "yuv420p"), (47, 64, "yuv444p"), (1, 1, "yuv444p")])
def test_written_video_comes_back_at_its_size(tmp_path: Path, height: int, width: int, pix_fmt: str) -> None:
    frames = clip(5, height, width)
    path = tmp_path / "out.mp4"
    assert write_video(path, iter(frames), fps=30000 / 1001, crf=4) == 5
    info = probe(path)
    assert (info.height, info.width, info.codec, info.pix_fmt) == (height, width, "h264", pix_fmt)
    assert info.fps == pytest.approx(30000 / 1001, abs=1e-3)
    assert close(read_frames(path), frames, mean=6)
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.mp4"]


def test_same_frames_give_the_same_bytes(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (12, 96, 128, 3), dtype=np.uint8)
    write_video(tmp_path / "a.mp4", noise, 24)
    write_video(tmp_path / "b.mp4", noise, 24)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


@pytest.mark.parametrize(
    ("source", "args", "kept"), [("a.mp4", ["-c:a", "aac"], "aac"), ("a.mkv", ["-c:a", "flac"], "aac")]
)
def test_sound_is_kept_and_never_shortens_the_video(tmp_path: Path, source: str, args: list[str], kept: str) -> None:
    sound = make_with_sound(tmp_path / source, *args, seconds=0.5)
    assert probe(sound).has_audio
    for num_frames in (5, 30):
        write_video(tmp_path / "out.mp4", clip(num_frames), 24, audio_from=sound)
        header = read_header(tmp_path / "out.mp4")
        assert header.audio_codec == kept
        assert count_frames(tmp_path / "out.mp4") == num_frames
        assert close(read_frames(tmp_path / "out.mp4"), clip(num_frames))
    silent = make(tmp_path / "silent.mkv", "-c:v", "ffv1")
    write_video(tmp_path / "out.mp4", clip(), 24, audio_from=silent)
    assert not probe(tmp_path / "out.mp4").has_audio


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_animations_are_videos(tmp_path: Path, suffix: str) -> None:
    first, *rest = (Image.new("RGB", (64, 48), (40 * index, 0, 0)) for index in range(4))
    options = {"lossless": True} if suffix == "webp" else {}
    first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=rest, duration=100, **options)
    assert probe(tmp_path / f"a.{suffix}").kind == "video"
    assert read_frames(tmp_path / f"a.{suffix}")[:, 0, 0, 0].tolist() == pytest.approx([0, 40, 80, 120], abs=2)


HEADER = """Input #0, mov,mp4, from 'file:a.mov':
  Duration: 01:02:03.50, start: 0.000000, bitrate: 1 kb/s
  Stream #0:0: Video: png, rgba(pc), 600x600, 90k tbr, 90k tbn (attached pic)
  Stream #0:1[0x1](und): Video: hevc (Main 10) (hvc1 / 0x31637668), yuv420p10le(tv, bt2020nc/bt2020/pq),
 1920x1080 [SAR 4:3 DAR 64:27], 9 kb/s, 29.97 fps, 30 tbr, 600 tbn (default)
    Side data:
      Display Matrix: rotation of -90.00 degrees
  Stream #0:2: Audio: aac (LC), 44100 Hz, mono, fltp
""".replace(",\n 1920", ", 1920")


def test_picture_and_sound_are_asked_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one call their words mix: `color_trc:unknownplane_checksums:` was read, and given to ffmpeg."""
    asked: list[list[str]] = []
    run = media_ffmpeg.run_quiet
    monkeypatch.setattr(media_ffmpeg, "run_quiet", lambda args, *more: asked.append(args) or run(args, *more))
    header = read_header(make_with_sound(tmp_path / "v.mp4"))
    assert header.rate is not None and header.audio_start_s is not None
    assert [("-vf" in args, "-af" in args) for args in asked] == [(True, False), (False, True)]


def test_the_header_of_a_phone_video() -> None:
    header = parse_header(HEADER, Path("a.mov"))
    assert (header.width, header.height, header.rotation_deg) == (1080, 1920, 270)
    assert header.fps == pytest.approx(30000 / 1001)
    assert (header.codec, header.pix_fmt, header.audio_codec) == ("hevc", "yuv420p10le", "aac")
    assert header.pixel_aspect == (3, 4)
    assert header.duration_s == 3723.5
    assert parse_header(HEADER.replace("29.97 fps, 30 tbr", "1k tbr"), Path("a.mov")).fps == 1000
    assert parse_header(HEADER.replace("29.97 fps, 30 tbr, ", ""), Path("a.mov")).fps is None
    with pytest.raises(VideoError, match="tiled still image"):
        parse_header(HEADER + "  Stream group #0:0[0x31]: Tile Grid: hevc\n", Path("a.heic"))


def test_frame_rates_players_know() -> None:
    assert frame_rate_fraction(29.97) == Fraction(30000, 1001)
    assert frame_rate_fraction(23.98) == Fraction(24000, 1001)
    assert frame_rate_fraction(24.0) == 24
    assert frame_rate_fraction(12.5) == Fraction(25, 2)
