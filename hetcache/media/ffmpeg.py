"""How this package calls ffmpeg: arguments as lists, local files only, no shell."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import IO

import imageio_ffmpeg

from hetcache.files import UserError

MAX_SIDE = 8192

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


# Lines of ffmpeg's logs that only say that something went wrong.
_SAYS_NOTHING = (
    "Error opening",
    "Conversion failed",
    "Terminating thread",
    "Task finished with error",
    "Nothing was written into",
)


class VideoError(UserError):
    """A bad input or output."""


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
        with _started(args):
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
    with _started(args):
        done = subprocess.run(args, stdin=null, stdout=null, stderr=subprocess.PIPE, timeout=timeout_s)
    return done.returncode, done.stderr.decode("utf-8", "replace")


@contextmanager
def _started(args: list[str]) -> Iterator[None]:
    """VideoError when the program is not there or is none."""
    try:
        yield
    except OSError as error:
        raise VideoError(
            f"ffmpeg {args[0]}: cannot be run ({error.strerror or error}); set IMAGEIO_FFMPEG_EXE to another"
        ) from error


def read_log(log: IO[bytes], limit: int = 65536) -> str:
    """The first `limit` bytes of a log as text."""
    log.seek(0)
    return log.read(limit).decode("utf-8", "replace")


def reason(log_text: str) -> str:
    """The last line of an ffmpeg log that says something, without addresses."""
    lines = [re.sub(r"^(\[[^\]]*\]\s*)+", "", line.strip()) for line in log_text.splitlines()]
    lines = [line for line in lines if line and not line.startswith(_SAYS_NOTHING)]
    return lines[-1][:160] if lines else "ffmpeg gave no reason"


def check_regular_file(path: Path, what: str = "video") -> None:
    """VideoError unless `path` is a readable regular file with something in it."""
    try:
        status = path.stat()
    except FileNotFoundError:
        raise VideoError(f"{what} {path}: no such file; check the path") from None
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or error
        raise VideoError(f"{what} {path}: cannot be opened ({cause}); check the path") from error
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


def frame_rate_fraction(fps: float) -> Fraction:
    """`fps` as a fraction that players know: 29.97 becomes 30000/1001."""
    for nominal in (24, 30, 48, 60, 120):
        exact = Fraction(nominal * 1000, 1001)
        if abs(fps - float(exact)) < 0.006:
            return exact
    return Fraction(fps).limit_denominator(1000)
