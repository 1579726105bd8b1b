"""How this package calls ffmpeg: arguments as lists, local files only, and a parser of what it prints.

imageio-ffmpeg brings an ffmpeg but no ffprobe, so a file is described by reading the header that `ffmpeg -i`
prints.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO

import imageio_ffmpeg

MAX_SIDE = 8192
PROBE_TIMEOUT_S = 60

# Containers that hold their own pictures. Left out on purpose: playlists and scripts (hls, dash, concat, imf,
# sdp, avisynth, ffmetadata ...), which name further files or hosts, and image2, which reads `%d` in a name as
# a pattern.
DEMUXERS = (
    "3dostr,apng,asf,asf_o,av1,avi,avs2,avs3,cavsvideo,cine,dirac,dnxhd,dv,evc,filmstrip,"
    "flic,flv,gif,gxf,h261,h263,h264,hevc,ivf,ivr,jpegxl_anim,live_flv,m4v,matroska,mjpeg,"
    "mjpeg_2000,mov,mp4,mpeg,mpegts,mpegvideo,mpjpeg,msf,mtv,mvi,mxf,nc,nsv,nut,obu,ogg,"
    "pva,r3d,rm,roq,smjpeg,smk,swf,vc1,vvc,webm,webp_anim,wtv,wv,yop,yuv4mpegpipe,mp3,"
    "aac,flac,wav,aiff,ac3,eac3,amr,caf"
)


class VideoError(ValueError):
    """A bad input or output, told to the person in one line: what is wrong, where, and what to do."""


@dataclass(frozen=True)
class StreamHeader:
    """What ffmpeg says about one media file; `width` and `height` are after rotation."""

    width: int
    height: int
    fps: float | None
    duration_s: float | None
    rotation_deg: int
    codec: str
    pix_fmt: str
    pixel_aspect: tuple[int, int]
    audio_codec: str | None


def ffmpeg_exe() -> str:
    """Path of the ffmpeg to run (`IMAGEIO_FFMPEG_EXE` chooses another); VideoError if there is none."""
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise VideoError("no ffmpeg found; run `pip install imageio-ffmpeg`") from error


def input_args(path: Path) -> list[str]:
    """Arguments that open `path` as one local media file that can lead nowhere else."""
    # `file:` and an absolute path keep a name such as `-y` or `http:x.mp4` a name.
    url = f"file:{path.absolute()}"
    return ["-protocol_whitelist", "file", "-format_whitelist", DEMUXERS, "-i", url]


def base_args(loglevel: str = "error") -> list[str]:
    """The program and the options that every call shares."""
    return [ffmpeg_exe(), "-hide_banner", "-nostdin", "-loglevel", loglevel]


@contextmanager
def spawn(args: list[str], *, feed: bool) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """Run ffmpeg with a pipe to its input (`feed`) or from its output; yields the process and its log file.

    The process is gone when the block ends, however it ends. It has a session of its own, so that Ctrl-C in
    the terminal reaches it through us and not half a frame earlier. The log goes to a file because a second
    pipe that nobody reads would block.
    """
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            args,
            stdin=subprocess.PIPE if feed else subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if feed else subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
        try:
            yield process, log
        finally:
            if process.poll() is None:
                process.kill()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    # Closing flushes, into a process that may be gone.
                    with suppress(OSError):
                        pipe.close()
            process.wait()


def run_quiet(args: list[str], timeout_s: float | None = None) -> tuple[int, str]:
    """Run ffmpeg to its end without a terminal; returns its exit status and its log."""
    null = subprocess.DEVNULL
    done = subprocess.run(args, stdin=null, stdout=null, stderr=subprocess.PIPE, timeout=timeout_s)
    return done.returncode, done.stderr.decode("utf-8", "replace")


def read_log(log: IO[bytes], limit: int = 65536) -> str:
    """The first `limit` bytes of a log as text."""
    log.seek(0)
    return log.read(limit).decode("utf-8", "replace")


def reason(log_text: str) -> str:
    """The last line of an ffmpeg log that says something, without addresses."""
    lines = [re.sub(r"^\[[^\]]*\]\s*", "", line.strip()) for line in log_text.splitlines()]
    lines = [line for line in lines if line and not line.startswith(("Error opening", "Conversion failed"))]
    return lines[-1][:160] if lines else "ffmpeg gave no reason"


def check_regular_file(path: Path, what: str = "video") -> None:
    """VideoError unless `path` is a readable regular file with something in it."""
    try:
        status = path.stat()
    except FileNotFoundError:
        raise VideoError(f"{what} {path}: no such file; check the path") from None
    except (OSError, ValueError) as error:
        raise VideoError(f"{what} {path}: cannot be looked at ({error}); check the path") from error
    if not stat.S_ISREG(status.st_mode):
        raise VideoError(f"{what} {path}: not a regular file; give a video, an image or a folder of frames")
    if not os.access(path, os.R_OK):
        raise VideoError(f"{what} {path}: no permission to read it; change its permissions or copy it")
    if status.st_size == 0:
        raise VideoError(f"{what} {path}: the file is empty; give a video, an image or a folder of frames")


def check_size(width: int, height: int, path: Path, what: str = "video") -> None:
    """VideoError if a picture of this size could not be meant."""
    if width < 1 or height < 1:
        raise VideoError(f"{what} {path}: has no picture size ({width}x{height}); the file is damaged")
    if max(width, height) > MAX_SIDE:
        size = f"{width}x{height}"
        raise VideoError(f"{what} {path}: {size} is over {MAX_SIDE} pixels a side; scale it down first")


def read_header(path: Path, what: str = "video") -> StreamHeader:
    """Describe the first real video stream of a file; VideoError when there is none. Decodes no picture."""
    check_regular_file(path, what)
    args = [*base_args("info"), *input_args(path)]
    try:
        _, text = run_quiet(args, PROBE_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise VideoError(f"{what} {path}: no stream found in {PROBE_TIMEOUT_S} s; re-encode it") from None
    return parse_header(text, path, what)


def parse_header(text: str, path: Path, what: str = "video") -> StreamHeader:
    """Read what `ffmpeg -i` prints. Metadata is indented deeper, so it cannot pose as a stream."""
    lines = text.splitlines()
    if not any(line.startswith("Input #0") for line in lines):
        raise VideoError(_refusal(text, path, what))
    if any(line.startswith("  Stream group #") and "Tile Grid" in line for line in lines):
        raise VideoError(f"{what} {path}: is a tiled still image; convert it to PNG or JPEG first")
    streams = [(i, line) for i, line in enumerate(lines) if re.match(r"  Stream #0:\d+", line)]
    audio = next((m for _, line in streams if (m := re.search(r": Audio: (\w+)", line))), None)
    # 0:V in ffmpeg's own selection: cover art and thumbnails are not video.
    video = next(
        (
            (i, line)
            for i, line in streams
            if ": Video: " in line and not line.endswith(("(attached pic)", "(timed thumbnails)"))
        ),
        None,
    )
    if video is None:
        kind = "only sound" if audio else "no picture stream"
        raise VideoError(f"{what} {path}: holds {kind}; give a file with video")
    index, line = video
    picture = re.search(r", (\w+)(?:\([^)]*\))?, (\d{1,9})x(\d{1,9})(?=[\s,\[]|$)", line)
    codec = re.search(r": Video: (\w+)", line)
    if picture is None or codec is None:
        raise VideoError(f"{what} {path}: has no readable picture size; damaged, or an unknown codec")
    side_data = _indented_block(lines, index)
    rotation = re.search(r"rotation of (-?\d+(?:\.\d+)?) degrees", side_data)
    rotation_deg = round(float(rotation.group(1))) % 360 if rotation else 0
    width, height = int(picture.group(2)), int(picture.group(3))
    if rotation_deg in (90, 270):
        width, height = height, width
    check_size(width, height, path, what)
    aspect = re.search(r"SAR (\d{1,9}):(\d{1,9})", line)
    return StreamHeader(
        width=width,
        height=height,
        fps=_frame_rate(line),
        duration_s=_duration(lines),
        rotation_deg=rotation_deg,
        codec=codec.group(1),
        pix_fmt=picture.group(1),
        pixel_aspect=(int(aspect.group(1)), int(aspect.group(2))) if aspect else (1, 1),
        audio_codec=audio.group(1) if audio else None,
    )


def frame_rate_fraction(fps: float) -> Fraction:
    """`fps` as a fraction that players know: 29.97 becomes 30000/1001."""
    for nominal in (24, 30, 48, 60, 120):
        exact = Fraction(nominal * 1000, 1001)
        if abs(fps - float(exact)) < 0.006:
            return exact
    return Fraction(fps).limit_denominator(1000)


def _indented_block(lines: list[str], index: int) -> str:
    """The lines under stream line `index`, up to the next stream."""
    block = []
    for line in lines[index + 1 :]:
        if not line.startswith("    "):
            break
        block.append(line)
    return "\n".join(block)


def _frame_rate(line: str) -> float | None:
    for unit in ("fps", "tbr"):
        found = re.search(rf"(\d+(?:\.\d+)?)(k?) {unit}\b", line)
        if found:
            rate = float(found.group(1)) * (1000 if found.group(2) else 1)
            if 0 < rate <= 1000:
                return float(frame_rate_fraction(rate))
    return None


def _duration(lines: list[str]) -> float | None:
    pattern = re.compile(r"  Duration: (\d+):(\d+):(\d+(?:\.\d+)?)")
    found = next((m for line in lines if (m := pattern.match(line))), None)
    return int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3]) if found else None


def _refusal(text: str, path: Path, what: str) -> str:
    """Why ffmpeg did not open a file, in a person's words."""
    if "whitelist" in text:
        return f"{what} {path}: is a playlist or a script, not a video; give the video file itself"
    if "moov atom not found" in text:
        return f"{what} {path}: its index is missing (cut off while written); copy it again"
    return f"{what} {path}: not a video that ffmpeg can read ({reason(text)}); convert it to MP4"
