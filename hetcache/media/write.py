"""Frames out: an H.264 MP4 that appears whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hetcache.files import StrPath, atomic_output, reserve
from hetcache.media import ffmpeg as ff
from hetcache.media.colour import BT709, tag_filter
from hetcache.media.encode import ENCODER_THREADS, REMEDY, Look, check_tags, encode_planes
from hetcache.media.ffmpeg import VideoError
from hetcache.media.planes import Planes
from hetcache.media.probe import VideoInfo, probe
from hetcache.media.sound import Sound, bitexact, sound_fault
from hetcache.media.sound import add_sound as _add_sound
from hetcache.media.timeline import Timeline


def check_writable(path: StrPath, inputs: Iterable[StrPath] = ()) -> Path:
    """Make sure that an output can be written at `path`, before any work is done; returns the path.

    VideoError: not `.mp4`, a folder, no such folder, no permission, read-only, or the same file as one of
    `inputs`.
    """
    path = Path(path)
    if path.suffix.lower() != ".mp4":
        raise VideoError(f"output {path}: must end in .mp4; use {path.with_suffix('.mp4').name or 'out.mp4'}")
    try:
        if path.is_dir():
            raise VideoError(f"output {path}: is a folder; give a file name, such as {path.name}/out.mp4")
        if not path.parent.is_dir():
            raise VideoError(f"output {path}: there is no folder {path.parent}; create it first (mkdir -p)")
        if path.exists() and not os.access(path, os.W_OK):
            raise VideoError(f"output {path}: exists and is read-only; choose another name")
        for source in inputs:
            if _is_same_file(path, Path(source)):
                raise VideoError(f"output {path}: is also an input, which would be lost; choose another name")
        # Trying is the only test that knows read-only mounts and access lists.
        trial = reserve(path)
        trial.unlink()
    except (OSError, ValueError) as error:
        if isinstance(error, VideoError):
            raise
        cause = getattr(error, "strerror", None) or error
        raise VideoError(f"output {path}: cannot be written ({cause}); choose another folder") from error
    return path


def write_video(
    path: StrPath,
    frames: Iterable[NDArray[np.uint8]],
    fps: float,
    audio_from: StrPath | None = None,
    audio_start_s: float = 0.0,
    crf: int = 16,
    pixel_aspect: tuple[int, int] = (1, 1),
    lost_sound: list[str] | None = None,
) -> int:
    """Write frames [H, W, 3] uint8 RGB as an H.264 MP4 and return their number.

    Even sizes are yuv420p, which everything plays. With an odd width or height 4:2:0 cannot keep the size, so
    those are yuv444p: the size is exact, and VLC, mpv and Chromium play it; some hardware players do not.
    `audio_from` takes the sound of that file, from `audio_start_s` on and no longer than the frames: copied
    if MP4 players know it, else as AAC; a file without sound gives none. `pixel_aspect` is VideoInfo's. Same
    frames, options and ffmpeg: same bytes. Nothing appears at `path`, and nothing is lost there, unless all
    succeeds. VideoError: no frames, disk full, not writable, sound that cannot be read; with `lost_sound` the last is
    no error: the video is written without sound, and the reason is appended there.
    """
    if not 0 < fps <= 1000:
        raise VideoError(f"output {path}: a frame rate of {fps} is not possible; give one from 1 to 1000")
    path = check_writable(path)
    rate = ff.frame_rate_fraction(float(fps))
    sound = None
    if audio_from is not None and (info := probe(audio_from)).audio_codec is not None:
        sound = Sound.from_start(info.path, info.audio_codec, audio_start_s)

    def encode(target: Path) -> tuple[int, float]:
        num_frames = _encode(target, iter(frames), str(rate), crf, pixel_aspect, path)
        return num_frames, float(num_frames / rate)

    return _write(path, encode, sound, lost_sound)


def write_edit(
    path: StrPath,
    frames: Iterator[Planes],
    timeline: Timeline,
    look: Look,
    source: VideoInfo,
    lost_sound: list[str] | None = None,
) -> int:
    """Write planes as an H.264 MP4 at the times of `timeline`, those of the source's own clock, with the source's sound
    up to the last frame's end; returns their number.

    What comes first, picture or sound, begins at 0, and the distance between the two stays. Else as write_video(). The
    colour tags of the written file are read again: VideoError when they are not those of `look`.
    """
    path = check_writable(path)
    start_s, sound = timeline.times_s[0], None
    if source.audio_codec is not None:
        start_s = start_s if source.audio_start_s is None else min(start_s, source.audio_start_s)
        sound = Sound.on_clock(source.path, source.audio_codec, start_s)
    shifted = timeline.shifted(-start_s)

    def encode(target: Path) -> tuple[int, float]:
        num_frames = encode_planes(target, frames, shifted, look, path)
        check_tags(target, look, path)
        return num_frames, float(shifted.end_s)

    return _write(path, encode, sound, lost_sound)


def _write(
    path: Path, encode: Callable[[Path], tuple[int, float]], sound: Sound | None, lost_sound: list[str] | None
) -> int:
    """`encode` writes a silent file and returns (frames, seconds until their end)."""
    try:
        with atomic_output(path) as whole:
            if sound is None:
                return encode(whole)[0]
            silent = reserve(whole)
            try:
                num_frames, end_s = encode(silent)
                failed = _add_sound(silent, whole, sound, end_s)
                if failed is not None:
                    cause = sound_fault(sound, end_s)
                    if cause is None:
                        raise VideoError(f"output {path}: not written ({failed}); {REMEDY}")
                    cause = f"the sound of {sound.path} cannot be added ({cause})"
                    if lost_sound is None:
                        raise VideoError(f"output {path}: {cause}; write it without sound")
                    lost_sound.append(f"written without sound: {cause}")
                    silent.replace(whole)
            finally:
                silent.unlink(missing_ok=True)
            return num_frames
    except OSError as error:
        raise VideoError(f"output {path}: not written ({error.strerror or error}); {REMEDY}") from error


def _is_same_file(path: Path, source: Path) -> bool:
    """False for an input that cannot be looked at: reading it will say why."""
    try:
        return path.samefile(source)
    except (OSError, ValueError):
        return False


def _encode(
    target: Path,
    frames: Iterator[NDArray[np.uint8]],
    rate: str,
    crf: int,
    aspect: tuple[int, int],
    path: Path,
) -> int:
    first = next(frames, None)
    if first is None:
        raise VideoError(f"output {path}: there are no frames to write")
    height, width = first.shape[:2]
    ff.check_size(width, height, path, "output")
    pix_fmt = "yuv420p" if width % 2 == 0 and height % 2 == 0 else "yuv444p"
    args = [
        *ff.base_args(),
        "-y",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-s",
        f"{width}x{height}",
        "-r",
        rate,
    ]
    args += ["-protocol_whitelist", "pipe", "-i", "pipe:0"]
    scale = "scale=out_color_matrix=bt709:out_range=tv:flags=bicubic+accurate_rnd+bitexact"
    args += ["-vf", f"{scale},setsar={aspect[0]}/{aspect[1]},{tag_filter(BT709)}"]
    args += ["-c:v", "libx264", "-preset", "medium", "-crf", str(crf), "-pix_fmt", pix_fmt]
    args += ["-threads", str(ENCODER_THREADS), "-x264-params", "lookahead-threads=1"]
    args += ["-color_range", "tv", "-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"]
    args += [*bitexact(), "-f", "mp4", "-movflags", "+faststart", f"file:{target.absolute()}"]
    num_frames = 0
    with ff.spawn(args, feed=True) as (process, log):
        assert process.stdin is not None
        try:
            frame: NDArray[np.uint8] | None = first
            while frame is not None:
                if frame.dtype != np.uint8 or frame.shape != (height, width, 3):
                    raise ValueError(f"frame {num_frames}: {frame.shape} {frame.dtype} differs from the first")
                process.stdin.write(np.ascontiguousarray(frame).data)
                num_frames += 1
                frame = next(frames, None)
            process.stdin.close()
        except BrokenPipeError:
            pass  # ffmpeg stopped; its log says why
        if process.wait() != 0:
            raise VideoError(f"output {path}: not written ({ff.reason(ff.read_log(log))}); {REMEDY}")
    return num_frames
