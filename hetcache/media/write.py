"""Frames out: an H.264 MP4 that appears whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hetcache.files import StrPath, atomic_output, reserve
from hetcache.media import ffmpeg as ff
from hetcache.media.ffmpeg import VideoError
from hetcache.media.header import read_header
from hetcache.media.read import probe

# Sound that MP4 players know: copied as it is. Anything else becomes AAC.
_COPIED_AUDIO = ("aac", "mp3", "ac3", "eac3", "alac")

# Fixed, and not the machine's number of cores: x264's output depends on it.
_ENCODER_THREADS = 4

_REMEDY = "free disk space or choose another folder"


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
    try:
        with atomic_output(path) as whole:
            if audio_from is None or (audio := _audio_codec(Path(audio_from))) is None:
                return _encode(whole, iter(frames), str(rate), crf, pixel_aspect, path)
            silent = reserve(whole)
            try:
                num_frames = _encode(silent, iter(frames), str(rate), crf, pixel_aspect, path)
                sound = _sound_args(Path(audio_from), audio, audio_start_s, float(num_frames / rate))
                failed = _add_sound(silent, whole, sound)
                if failed is not None:
                    cause = _sound_fault(sound, audio)
                    if cause is None:
                        raise VideoError(f"output {path}: not written ({failed}); {_REMEDY}")
                    cause = f"the sound of {audio_from} cannot be added ({cause})"
                    if lost_sound is None:
                        raise VideoError(f"output {path}: {cause}; write it without sound")
                    lost_sound.append(f"written without sound: {cause}")
                    silent.replace(whole)
            finally:
                silent.unlink(missing_ok=True)
            return num_frames
    except OSError as error:
        raise VideoError(f"output {path}: not written ({error.strerror or error}); {_REMEDY}") from error


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
    args += ["-vf", f"{scale},setsar={aspect[0]}/{aspect[1]}"]
    args += ["-c:v", "libx264", "-preset", "medium", "-crf", str(crf), "-pix_fmt", pix_fmt]
    args += ["-threads", str(_ENCODER_THREADS), "-x264-params", "lookahead-threads=1"]
    args += ["-color_range", "tv", "-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"]
    args += [*_bitexact(), "-f", "mp4", "-movflags", "+faststart", f"file:{target.absolute()}"]
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
            raise VideoError(f"output {path}: not written ({ff.reason(ff.read_log(log))}); {_REMEDY}")
    return num_frames


def _audio_codec(source: Path) -> str | None:
    return read_header(source).audio_codec if probe(source).kind == "video" else None


def _sound_args(source: Path, codec: str, start_s: float, duration_s: float) -> tuple[list[str], list[str]]:
    """What opens the sound, and what encodes it."""
    encode = ["-c:a", "copy"] if codec in _COPIED_AUDIO else ["-c:a", "aac", "-b:a", "192k"]
    return ["-ss", f"{start_s:.6f}", *ff.input_args(source)], [*encode, "-t", f"{duration_s:.6f}"]


def _add_sound(silent: Path, target: Path, sound: tuple[list[str], list[str]]) -> str | None:
    """Write `silent` with the sound to `target`; returns why that failed, if it did."""
    source, encode = sound
    args = [*ff.base_args(), "-y", *ff.input_args(silent), *source, "-map", "0:v:0", "-map", "1:a:0", "-c:v", "copy"]
    args += [*encode, "-map_metadata", "-1", *_bitexact()]
    args += ["-f", "mp4", "-movflags", "+faststart", f"file:{target.absolute()}"]
    status, log = ff.run_quiet(args)
    return None if status == 0 else ff.reason(log)


def _sound_fault(sound: tuple[list[str], list[str]], codec: str) -> str | None:
    """What is wrong with the sound itself: the reason when it cannot even be written to nowhere."""
    source, encode = sound
    # The MP4 muxer does this by itself, but too late for an output that it cannot rewind.
    unpacked = ["-bsf:a", "aac_adtstoasc"] if codec == "aac" else []
    args = [*ff.base_args(), *source, "-map", "0:a:0", *encode, *unpacked, "-f", "mp4", "-movflags", "+delay_moov", "-"]
    status, log = ff.run_quiet(args)
    return None if status == 0 else ff.reason(log)


def _bitexact() -> list[str]:
    return ["-fflags", "+bitexact", "-flags:v", "+bitexact", "-flags:a", "+bitexact"]
