"""Planes into an H.264 file, each picture at its own time, with tags that say what its colours are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from hetcache.media import ffmpeg as ff
from hetcache.media import matroska
from hetcache.media.colour import Colour, tag_filter
from hetcache.media.ffmpeg import VideoError
from hetcache.media.hdr10 import StaticHdr
from hetcache.media.header import Fields, read_header
from hetcache.media.pixels import PixelFormat
from hetcache.media.planes import Planes
from hetcache.media.timeline import Timeline

# Fixed, and not the machine's number of cores: x264's output depends on it.
ENCODER_THREADS = 4

REMEDY = "free disk space or choose another folder"


@dataclass(frozen=True)
class Look:
    """How the pictures of a file are to be shown and kept: `crf` None is without loss."""

    pixels: PixelFormat
    colour: Colour
    crf: int | None = 16
    pixel_aspect: tuple[int, int] = (1, 1)
    fields: Fields = "progressive"
    static_hdr: StaticHdr | None = None


def encode_planes(target: Path, frames: Iterator[Planes], timeline: Timeline, look: Look, path: Path) -> int:
    """Write `frames`, as many as `timeline` has times, to `target` and return their number; messages name `path`.
    VideoError: no frames, or ffmpeg failed; an error among the frames passes."""
    first = next(frames, None)
    if first is None:
        raise VideoError(f"output {path}: there are no frames to write")
    height, width = first[0].shape
    ff.check_size(width, height, path, "output")
    start_s = timeline.times_s[0]
    times = [round((time - start_s) / matroska.TICK_S) for time in (*timeline.times_s, timeline.end_s)]
    num_frames = 0
    with ff.spawn(_args(target, timeline, look), feed=True) as (process, log):
        assert process.stdin is not None
        try:
            process.stdin.write(matroska.stream_header(width, height, look.pixels.name, timeline.mean_rate))
            planes: Planes | None = first
            while planes is not None:
                data = b"".join(np.ascontiguousarray(plane).tobytes() for plane in planes)
                start, end = times[num_frames], times[num_frames + 1]
                process.stdin.write(matroska.picture(data, start, end - start))
                num_frames += 1
                planes = next(frames, None)
            process.stdin.close()
        except BrokenPipeError:
            pass  # ffmpeg stopped; its log says why
        if process.wait() != 0:
            raise VideoError(f"output {path}: not written ({ff.reason(ff.read_log(log))}); {REMEDY}")
    return num_frames


def check_tags(target: Path, look: Look, path: Path) -> None:
    """VideoError unless the written file says the colours that it was given."""
    wanted = look.colour
    found = read_header(target, "output").tags
    expected = (wanted.matrix, wanted.primaries, wanted.transfer, wanted.range)
    if look.pixels.family == "yuv" and found != expected:
        said, asked = ("/".join(tags) for tags in (found, expected))
        raise VideoError(f"output {path}: this ffmpeg tags the colours {said} instead of {asked}; use another ffmpeg")


def _args(target: Path, timeline: Timeline, look: Look) -> list[str]:
    args = [*ff.base_args(), "-y", "-protocol_whitelist", "pipe", "-f", "matroska", "-copyts", "-i", "pipe:0"]
    tick = 1 / timeline.rate if timeline.rate else _mp4_tick(timeline.tick_s)
    filters = [f"settb={tick.numerator}/{tick.denominator}", f"setsar={look.pixel_aspect[0]}/{look.pixel_aspect[1]}"]
    colour = look.colour
    if look.pixels.family == "yuv":
        filters.append(tag_filter(colour))
    interlaced = look.fields in ("top", "bottom")
    if interlaced:
        filters.append(f"setfield={'tff' if look.fields == 'top' else 'bff'}")
    args += [
        "-vf",
        ",".join(filters),
        "-fps_mode",
        "passthrough",
        "-enc_time_base",
        f"{tick.numerator}:{tick.denominator}",
    ]
    args += ["-c:v", "libx264" if look.pixels.family == "yuv" else "libx264rgb", "-preset", "medium"]
    if timeline.rate is None:
        # Frames that are stored out of order, at uneven times, would make the track's duration wrong.
        args += ["-bf", "0"]
    params = ["lookahead-threads=1", *(look.static_hdr.x264_params() if look.static_hdr else [])]
    args += ["-qp", "0"] if look.crf is None else ["-crf", str(look.crf)]
    args += ["-pix_fmt", look.pixels.name if look.pixels.family == "yuv" else "rgb24"]
    args += ["-threads", str(ENCODER_THREADS), "-x264-params", ":".join(params)]
    if look.pixels.family == "yuv":
        args += ["-color_range", colour.range, "-colorspace", colour.matrix]
    flags = "+bitexact+ildct+ilme" if interlaced else "+bitexact"
    args += ["-fflags", "+bitexact", "-flags:v", flags, "-video_track_timescale", str(_timescale(tick))]
    # Not among the frames' own times: an even rate counts them in whole frames, and a start need not be one.
    args += ["-output_ts_offset", f"{float(timeline.times_s[0]):.6f}"]
    return [*args, "-f", "mp4", "-movflags", "+faststart", f"file:{target.absolute()}"]


def _mp4_tick(tick_s: Fraction) -> Fraction:
    """The source's clock where MP4 can keep it, else one of 90000 ticks a second."""
    return tick_s if tick_s.numerator == 1 and 1000 <= tick_s.denominator <= 1_000_000 else Fraction(1, 90_000)


def _timescale(tick_s: Fraction) -> int:
    """Ticks a second of the MP4 track: a whole number, in which `tick_s` is one too."""
    scale = tick_s.denominator
    return scale * -(-10_000 // scale)
