"""Bad inputs end in one line: what is wrong, where, and what to do; nothing else is read or reached."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from video_files import clip, ffmpeg, make, make_with_sound

from hetcache.media import read as video_read
from hetcache.media.ffmpeg import VideoError
from hetcache.media.masks import outpaint, read_mask
from hetcache.media.read import iter_frames, probe, read_frames

Make = Callable[[Path], Path]


def wrote(name: str, data: bytes) -> Make:
    def build(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return build


def png_of_size(width: int, height: int) -> bytes:
    """A PNG with a true checksum whose header claims `width` x `height` and which holds one row."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")


def cut(source: str, keep: float, *args: object) -> Make:
    def build(folder: Path) -> Path:
        path = make(folder / source, *args)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
        return path

    return build


def sound(folder: Path) -> Path:
    ffmpeg("-f", "lavfi", "-i", "sine=d=0.2", folder / "a.wav")
    return folder / "a.wav"


def sound_with_cover(folder: Path) -> Path:
    Image.fromarray(clip(1)[0]).save(folder / "cover.png")
    cover = (
        "-i",
        folder / "cover.png",
        "-map",
        "0",
        "-map",
        "1",
        "-c:v",
        "mjpeg",
        "-disposition:v",
        "attached_pic",
    )
    ffmpeg("-i", sound(folder), *cover, folder / "a.mp3")
    return folder / "a.mp3"


def huge_video(folder: Path) -> Path:
    ffmpeg("-f", "lavfi", "-i", "color=s=9000x16:d=0.04", "-c:v", "ffv1", folder / "huge.mkv")
    return folder / "huge.mkv"


def mixed_folder(folder: Path) -> Path:
    for index, size in enumerate([(64, 48), (64, 48), (32, 48)]):
        Image.new("RGB", size).save(folder / f"{index}.png")
    return folder


def broken_in_folder(folder: Path) -> Path:
    (folder / "0.png").write_bytes(b"no image")
    return folder


def empty_folder(folder: Path) -> Path:
    (folder / "notes.txt").write_text("no frames")
    return folder


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.mp4")
    return folder / "pipe.mp4"


def dangling(folder: Path) -> Path:
    (folder / "link.mp4").symlink_to(folder / "nowhere.mp4")
    return folder / "link.mp4"


H264 = ("-c:v", "libx264")
XML = b'<?xml version="1.0"?><MPD><BaseURL>file:///etc/hostname</BaseURL></MPD>'
BAD: dict[str, tuple[Make, str]] = {
    "missing": (lambda folder: folder / "none.mp4", "no such file"),
    "no name": (lambda folder: folder / "a\0b.mp4", "check the path"),
    "name too long": (lambda folder: folder / ("a" * 5000), "check the path"),
    "dangling link": (dangling, "no such file"),
    "named pipe": (pipe, "not a regular file"),
    "empty": (wrote("a.mp4", b""), "the file is empty"),
    "text": (wrote("a.txt", b"hello, this is text\n" * 50), "neither a video nor an image"),
    "text as mp4": (wrote("a.mp4", b"hello, this is text\n" * 50), "neither a video nor an image"),
    "noise": (wrote("a.mp4", np.random.default_rng(3).bytes(4000)), "neither a video nor an image"),
    "zeros": (wrote("a.mkv", bytes(4000)), "neither a video nor an image"),
    "svg": (wrote("a.svg", b'<svg xmlns="http://www.w3.org/2000/svg"/>'), "neither a video nor an image"),
    "subtitles": (
        wrote("a.srt", b"1\n00:00:00,000 --> 00:00:01,000\nhello\n"),
        "neither a video nor an image",
    ),
    "hls": (wrote("a.m3u8", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n"), "is a playlist"),
    "hls as mp4": (wrote("a.mp4", b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:1/x\n"), "is a playlist"),
    "concat": (wrote("a.mp4", b"ffconcat version 1.0\nfile /etc/hostname\n"), "is a playlist"),
    "dash": (wrote("a.mpd", XML), "is a playlist"),
    "sdp": (wrote("a.sdp", b"v=0\nc=IN IP4 127.0.0.1\nm=video 1 RTP/AVP 96\n"), "is a playlist"),
    "image list": (wrote("a%03d.png", b"not a pattern"), "neither a video nor an image"),
    "only sound": (sound, "only sound"),
    "only sound and a cover": (sound_with_cover, "only sound"),
    "cut before the index": (cut("a.mp4", 0.5, *H264), "index is missing"),
    "cut in the header": (cut("a.mkv", 0.02, "-c:v", "ffv1"), "damaged|neither|no picture|no frame"),
    "cut png": (wrote("a.png", png_of_size(64, 48)[:40]), "image"),
    "png without pixels": (wrote("a.png", png_of_size(64, 48)), "the image is damaged"),
    "absurd png": (wrote("a.png", png_of_size(100_000, 100_000)), "absurd|over 8192"),
    "absurd thin png": (wrote("a.png", png_of_size(9_000, 2)), "over 8192"),
    "absurd video": (huge_video, "9000x16 is over 8192"),
    "folder without frames": (empty_folder, "without images"),
    "folder of two sizes": (mixed_folder, r"2\.png: is 32x48, the first frame 64x48"),
    "folder with a broken image": (broken_in_folder, r"0\.png: not a still image"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(tmp_path: Path, name: str) -> None:
    build, message = BAD[name]
    path = build(tmp_path)
    with pytest.raises(VideoError, match=message) as caught:
        read_frames(path)
    text = str(caught.value)
    assert text.startswith("video ") and "\n" not in text and len(text) < len(str(path)) + 200
    with pytest.raises(VideoError, match="^mask "):
        read_mask(path, 3, (48, 64))


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path / "a.mkv", "-c:v", "ffv1")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(VideoError, match="no permission to read"):
        probe(path)


def test_a_message_stays_one_line_whatever_the_name(tmp_path: Path) -> None:
    path = tmp_path / "two\nlines\x1b[31m\udcff.mp4"
    with pytest.raises(VideoError) as caught:
        probe(path)
    assert str(caught.value).isprintable()
    str(caught.value).encode("utf-8")


@pytest.mark.parametrize(
    "name", ["-y.mkv", "a b.mkv", "http:x.mkv", "concat:a|b.mkv", "%03d.mkv", "'\";.mkv", "é\n.mkv"]
)
def test_a_name_is_only_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    make(tmp_path / "plain.mkv", "-c:v", "ffv1").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert read_frames(name).shape == (9, 48, 64, 3)


def test_a_playlist_that_names_a_real_video_is_not_followed(tmp_path: Path) -> None:
    make(tmp_path / "real.ts", *H264)
    for name, text in {
        "a.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nreal.ts\n#EXT-X-ENDLIST\n",
        "a.ffconcat": "ffconcat version 1.0\nfile real.ts\n",
    }.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(VideoError, match="is a playlist"):
            read_frames(tmp_path / name)


def test_metadata_cannot_pose_as_a_stream(tmp_path: Path) -> None:
    lie = "x\n  Stream #0:0: Video: h264, yuv420p, 99999x99999, 1 fps"
    path = make(tmp_path / "a.mkv", "-c:v", "ffv1", "-metadata", f"title={lie}", "-metadata", f"comment={lie}")
    assert (probe(path).width, probe(path).height) == (64, 48)


def test_a_video_cut_in_the_middle_gives_what_is_there(tmp_path: Path) -> None:
    path = cut("a.ts", 0.6, "-c:v", "mpeg2video", "-g", 1)(tmp_path)
    found = len(list(iter_frames(path)))
    assert 0 < found < 9
    with pytest.raises(VideoError, match=f"9 frames asked, {found} there"):
        read_frames(path, 9)


def test_a_change_of_size_in_mid_stream_keeps_the_first_size(tmp_path: Path) -> None:
    first = make(tmp_path / "a.ts", "-c:v", "mpeg2video", frames=clip(5))
    second = make(tmp_path / "b.ts", "-c:v", "mpeg2video", frames=clip(5, 96, 128))
    (tmp_path / "both.ts").write_bytes(first.read_bytes() + second.read_bytes())
    shapes = {frame.shape for frame in iter_frames(tmp_path / "both.ts")}
    assert shapes == {(48, 64, 3)}


def test_too_long_for_memory_is_said_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path / "a.mkv", "-c:v", "ffv1")
    with pytest.raises(VideoError, match="do not fit in memory"):
        read_frames(path, 10**9)
    monkeypatch.setattr(video_read, "MAX_READ_BYTES", 5 * 48 * 64 * 3)
    with pytest.raises(VideoError, match="over 5 frames do not fit"):
        read_frames(path)
    assert len(read_frames(path, 5)) == 5


def test_cover_art_is_not_the_video(tmp_path: Path) -> None:
    Image.fromarray(clip(1, 200, 200)[0]).save(tmp_path / "cover.png")
    plain = make_with_sound(tmp_path / "plain.mp4")
    art = ("-map", "1", "-map", "0", "-c", "copy", "-c:v:0", "mjpeg", "-disposition:v:0", "attached_pic")
    ffmpeg("-i", plain, "-i", tmp_path / "cover.png", *art, tmp_path / "a.mp4")
    assert (probe(tmp_path / "a.mp4").width, probe(tmp_path / "a.mp4").height) == (64, 48)
    assert read_frames(tmp_path / "a.mp4", 5).shape == (5, 48, 64, 3)


def test_outpaint() -> None:
    frames, mask = outpaint(clip(2), 3, 0, 5, 7)
    assert frames.shape == (2, 55, 72, 3) and mask.shape == (2, 55, 72)
    assert np.array_equal(frames[:, :48, 3:67], clip(2))
    assert not mask[:, :48, 3:67].any() and mask.sum() == 2 * (55 * 72 - 48 * 64)
    assert (frames[mask] == 128).all()
    for sides in [(0, 0, 0, 0), (-1, 0, 0, 5), (9000, 0, 0, 0)]:
        with pytest.raises(VideoError, match="outpaint"):
            outpaint(clip(1), *sides)
