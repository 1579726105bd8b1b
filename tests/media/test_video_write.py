"""Outputs appear whole or not at all: whatever fails, what was there stays and nothing is left behind."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from video_files import clip, make, make_with_sound

from hetcache.media import write as video_write
from hetcache.media.ffmpeg import VideoError
from hetcache.media.read import iter_frames, probe, read_frames
from hetcache.media.write import atomic_output, check_writable, write_video

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def existing(tmp_path: Path) -> Path:
    """An output of an earlier run, alone in its folder."""
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "out.mp4").write_bytes(b"an earlier result")
    return folder / "out.mp4"


def assert_untouched(existing: Path) -> None:
    assert existing.read_bytes() == b"an earlier result"
    assert [entry.name for entry in existing.parent.iterdir()] == ["out.mp4"]


def test_an_existing_output_is_replaced(existing: Path) -> None:
    existing.chmod(0o640)
    write_video(existing, clip(3), 24)
    assert len(read_frames(existing)) == 3
    assert existing.stat().st_mode & 0o777 == 0o640
    assert len(list(existing.parent.iterdir())) == 1


def test_a_new_output_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    write_video(tmp_path / "out.mp4", clip(1), 24)
    assert (tmp_path / "out.mp4").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_link_is_followed(existing: Path, tmp_path: Path) -> None:
    (tmp_path / "link.mp4").symlink_to(existing)
    write_video(tmp_path / "link.mp4", clip(1), 24)
    assert (tmp_path / "link.mp4").is_symlink()
    assert probe(existing).codec == "h264"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("model failed"), VideoError("source ended")])
def test_an_error_among_the_frames_passes_and_leaves_all(existing: Path, error: BaseException) -> None:
    def frames() -> Iterator[np.ndarray]:
        yield from clip(3)
        raise error

    with pytest.raises(type(error)):
        write_video(existing, frames(), 24)
    assert_untouched(existing)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_at_the_end_leaves_all(existing: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os if step == "fsync" else Path, step, full)
    with pytest.raises(VideoError, match=r"out\.mp4: not written \(No space left on device\); free disk space"):
        write_video(existing, clip(3), 24)
    assert_untouched(existing)


def test_ffmpeg_that_cannot_write_leaves_all(existing: Path) -> None:
    # A limit on file sizes is the full disk that needs no root: ffmpeg's own writes fail, ours do not.
    program = """
import resource, sys
import numpy as np
from hetcache.media.ffmpeg import VideoError
from hetcache.media.write import write_video
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
noise = np.random.default_rng(0).integers(0, 255, (1, 64, 96, 3), dtype=np.uint8)
try:
    write_video(sys.argv[1], (np.roll(noise[0], i, 0) for i in range(60)), 24, crf=1)
except VideoError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program, existing], cwd=REPOSITORY, capture_output=True, timeout=60)
    assert b"out.mp4: not written" in done.stdout, done
    assert_untouched(existing)


@pytest.mark.parametrize(("number", "clean"), [(signal.SIGINT, True), (signal.SIGKILL, False)])
def test_a_killed_writer_leaves_the_output(existing: Path, number: signal.Signals, clean: bool) -> None:
    # A shell's background job ignores SIGINT and hands that down: the child takes Python's own handler back.
    program = """
import signal, sys, time
import numpy as np
from hetcache.media.write import write_video
signal.signal(signal.SIGINT, signal.default_int_handler)
def frames():
    for index in range(1000):
        yield np.full((48, 64, 3), index % 256, np.uint8)
        if index == 20:
            print("writing", flush=True)
        time.sleep(0.01 if index > 20 else 0)
write_video(sys.argv[1], frames(), 24)
"""
    args = [sys.executable, "-c", program, existing]
    writer = subprocess.Popen(args, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert writer.stdout is not None and writer.stdout.readline() == b"writing\n"
    writer.send_signal(number)
    assert writer.wait(timeout=30) != 0
    writer.stdout.close()
    if clean:
        assert_untouched(existing)
    else:
        time.sleep(0.2)
        assert existing.read_bytes() == b"an earlier result"


def test_frames_of_two_sizes_and_no_frames(existing: Path) -> None:
    with pytest.raises(ValueError, match="frame 2"):
        write_video(existing, [*clip(2), clip(1, 10, 10)[0]], 24)
    with pytest.raises(VideoError, match="no frames"):
        write_video(existing, [], 24)
    with pytest.raises(VideoError, match="frame rate of 0"):
        write_video(existing, clip(1), 0)
    assert_untouched(existing)


def test_sound_that_cannot_be_read(existing: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no sound")
    with pytest.raises(VideoError, match="neither a video"):
        write_video(existing, clip(2), 24, audio_from=tmp_path / "bad.mp4")
    assert_untouched(existing)


def test_atomic_output_is_for_any_file(tmp_path: Path) -> None:
    with atomic_output(tmp_path / "run.json") as temporary:
        temporary.write_text("{}")
        assert temporary.suffix == ".json" and not (tmp_path / "run.json").exists()
    assert (tmp_path / "run.json").read_text() == "{}"
    assert len(list(tmp_path.iterdir())) == 1


def test_check_writable_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = make(tmp_path / "in.mp4", "-c:v", "libx264")
    assert check_writable(tmp_path / "out.mp4", inputs=[video]) == tmp_path / "out.mp4"
    assert [entry.name for entry in tmp_path.iterdir()] == ["in.mp4"]
    (tmp_path / "folder.mp4").mkdir()
    for path, message in {
        "out.avi": "must end in .mp4; use out.mp4",
        "out": "must end in .mp4",
        "folder.mp4": "is a folder",
        "none/out.mp4": "no folder .*none",
        "in.mp4/out.mp4": "no folder .*in.mp4",
        "in.mp4": "also an input",
        "a\0.mp4": "cannot be written",
        "a" * 300 + ".mp4": "cannot be written",
    }.items():
        with pytest.raises(VideoError, match=message):
            check_writable(tmp_path / path, inputs=[video])

    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(video_write.os, "open", refuse)
    with pytest.raises(VideoError, match=r"cannot be written \(Permission denied\); choose another folder"):
        check_writable(tmp_path / "out.mp4")


def test_reading_stops_its_process_when_left_early(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mkv", "-c:v", "ffv1", frames=clip(60, 200, 200))
    others = children()
    stream = iter_frames(path)
    next(stream)
    if others is not None:
        assert children() != others
    stream.close()
    assert children() == others


def children() -> set[str] | None:
    """Processes of this one, those that other tests have left included; None where the system does not say."""
    told = Path(f"/proc/self/task/{os.getpid()}/children")
    return set(told.read_text().split()) if told.exists() else None


def test_pixel_aspect_survives(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mkv", "-vf", "setsar=16/15", "-c:v", "ffv1")
    aspect = probe(path).pixel_aspect
    assert aspect == (16, 15)
    write_video(tmp_path / "out.mp4", iter_frames(path), 24, pixel_aspect=aspect)
    assert probe(tmp_path / "out.mp4").pixel_aspect == (16, 15)


@pytest.mark.parametrize(
    ("name", "picture", "codec"),
    [
        ("a.mp4", "libx264", "aac"),
        ("a.ts", "mpeg2video", "aac"),
        ("a.mkv", "libx264", "libopus"),
        ("a.mkv", "libx264", "ac3"),
        ("a.mov", "libx264", "pcm_s16le"),
        ("a.mov", "libx264", "alac"),
    ],
)
def test_sound_of_any_kind_comes_along(tmp_path: Path, name: str, picture: str, codec: str) -> None:
    path = make_with_sound(tmp_path / name, "-c:v", picture, "-pix_fmt", "yuv420p", "-c:a", codec)
    lost: list[str] = []
    write_video(tmp_path / "out.mp4", clip(9), 24, audio_from=path, lost_sound=lost)
    assert probe(tmp_path / "out.mp4").has_audio and not lost


def test_sound_of_no_known_kind_is_left_out_if_allowed(existing: Path, tmp_path: Path) -> None:
    path = make_with_sound(tmp_path / "a.mkv", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-c:a", "libopus")
    path.write_bytes(path.read_bytes().replace(b"A_OPUS", b"A_OPUX"))
    with pytest.raises(VideoError, match=r"the sound of .*a\.mkv cannot be added \(.*\); write it without sound"):
        write_video(existing, clip(2), 24, audio_from=path)
    assert_untouched(existing)
    lost: list[str] = []
    write_video(existing, clip(2), 24, audio_from=path, lost_sound=lost)
    assert len(lost) == 1 and lost[0].startswith("written without sound: the sound of ") and "0x" not in lost[0]
    assert len(read_frames(existing)) == 2


def test_a_full_disk_is_not_taken_for_bad_sound(
    existing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_with_sound(tmp_path / "a.mp4", "-c:v", "libx264", "-pix_fmt", "yuv420p")
    monkeypatch.setattr(video_write, "_add_sound", lambda *_: "No space left on device")
    lost: list[str] = []
    with pytest.raises(VideoError, match=r"out\.mp4: not written \(No space left on device\); free disk space"):
        write_video(existing, clip(2), 24, audio_from=path, lost_sound=lost)
    assert_untouched(existing)
    assert not lost


def test_a_still_image_has_no_sound_to_take(tmp_path: Path) -> None:
    Image.fromarray(clip(1)[0]).save(tmp_path / "still.png")
    assert write_video(tmp_path / "out.mp4", clip(1), 24, audio_from=tmp_path / "still.png") == 1
