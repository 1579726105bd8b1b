"""Frames in: video files, still images and folders of frames, as a stream or as one array."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import closing
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hetcache.files import StrPath
from hetcache.media import ffmpeg as ff
from hetcache.media import hdr
from hetcache.media.ffmpeg import VideoError
from hetcache.media.images import list_frames, over_black, read_image
from hetcache.media.pam import read_pam
from hetcache.media.probe import DEFAULT_FPS, VideoInfo, probe
from hetcache.media.sizes import largest_4k_plus_1

__all__ = ["DEFAULT_FPS", "StrPath", "VideoInfo", "probe"]

MAX_READ_BYTES = 4 << 30
"""The most that read_frames() puts into memory; longer videos go through iter_frames()."""

Frames = Generator[NDArray[np.uint8], None, None]


def count_frames(path: StrPath, what: str = "video", decode: bool = False) -> int:
    """How many frames a source has. A video is not decoded for it unless asked to be, which takes longer and counts
    what iter_frames() gives; a damaged or trimmed one may decode to fewer than it holds."""
    info = probe(path, what)
    if info.num_frames is not None:
        return info.num_frames
    args = [*ff.base_args(), "-stats", *ff.input_args(info.path)]
    args += ["-map", "0:V:0", *(["-fps_mode", "passthrough"] if decode else ["-c", "copy"]), "-f", "null", "-"]
    _, log = ff.run_quiet(args)
    counts = re.findall(r"frame=\s*(\d+)", log)
    return int(counts[-1]) if counts else 0


def iter_frames(
    path: StrPath | VideoInfo,
    start: int = 0,
    count: int | None = None,
    size: tuple[int, int] | None = None,
    what: str = "video",
) -> Frames:
    """Yield frames [H, W, 3] uint8 RGB from frame `start`, at most `count`, in memory that does not grow.

    Frames come in the source's own order, one per coded frame whatever its time stamp (variable frame rate),
    upright, 10 bit reduced to 8, HDR tone-mapped (see hdr.py), grey as RGB, transparency over black. `size` = (height,
    width) resizes each.
    A source that ends early just ends; VideoError if it cannot be opened, or if it breaks before its first
    frame.
    """
    if start < 0 or (count is not None and count < 0):
        raise ValueError(f"start {start} and count {count} cannot be negative")
    info = path if isinstance(path, VideoInfo) else probe(path, what)
    source = _iter_video if info.kind == "video" else _iter_stills
    frames = source(info, start, count, what)
    with closing(frames):
        for frame in frames:
            yield frame if size is None or frame.shape[:2] == size else _resize(frame, size)


def read_frames(
    path: StrPath | VideoInfo, count: int | None = None, start: int = 0, what: str = "video"
) -> NDArray[np.uint8]:
    """Read `count` frames (all, if None) from frame `start`: [T, H, W, 3] uint8 RGB.

    VideoError when there are fewer than `count`, saying how many there are and the largest 4k+1 that fits,
    and when the frames would not fit in memory.
    """
    info = path if isinstance(path, VideoInfo) else probe(path, what)
    path = info.path
    limit = MAX_READ_BYTES // (info.width * info.height * 3)
    if count is not None and count > limit:
        raise VideoError(f"{what} {path}: {count} frames of this size do not fit in memory; ask for fewer")
    with closing(iter_frames(info, start, count, what=what)) as stream:
        frames = list(islice(stream, limit + 1))
    if len(frames) > limit:
        raise VideoError(f"{what} {path}: over {limit} frames do not fit in memory; ask for fewer")
    if count is not None and len(frames) < count:
        raise VideoError(too_few(f"{what} {path}", len(frames), count, start))
    if not frames:
        raise VideoError(f"{what} {path}: has no frame from {start} on")
    return np.stack(frames)


def too_few(name: str, found: int, asked: int, start: int) -> str:
    """The message when a source is shorter than asked, with the largest number that works."""
    after = f" after frame {start}" if start else ""
    if found == 0 and start == 0:
        return f"{name}: no frame can be decoded; re-encode it"
    if found == 0:
        return f"{name}: {asked} frames asked, none there{after}; start earlier"
    fits = largest_4k_plus_1(found)
    return f"{name}: {asked} frames asked, {found} there{after}; use --frames {fits} or fewer"


def _resize(frame: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    height, width = size
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC))


def _iter_stills(info: VideoInfo, start: int, count: int | None, what: str) -> Frames:
    files = [info.path] if info.kind == "image" else list_frames(info.path, what)
    stop = None if count is None else start + count
    for file in files[start:stop]:
        frame = read_image(file, what)
        if frame.shape[:2] != (info.height, info.width):
            sizes = f"is {frame.shape[1]}x{frame.shape[0]}, the first frame {info.width}x{info.height}"
            raise VideoError(f"{what} {file}: {sizes}; give frames of one size")
        yield frame


def _iter_video(info: VideoInfo, start: int, count: int | None, what: str) -> Frames:
    if count == 0:
        return
    channels = 4 if info.pixels.alpha else 3
    args = [*ff.base_args(), "-max_pixels", str(ff.MAX_SIDE**2), *ff.input_args(info.path), "-map", "0:V:0"]
    wanted = "rgba" if channels == 4 else "rgb48be" if info.colour.hdr else "rgb24"
    filters = [trim(start, count), *to_rgb(info), f"format={wanted}"]
    args += ["-vf", ",".join(filters), "-fps_mode", "passthrough", "-c:v", "pam", "-f", "image2pipe", "-"]
    num_frames = 0
    with ff.spawn(args, feed=False) as (process, log):
        assert process.stdout is not None
        while (frame := read_pam(process.stdout, info.path, what)) is not None:
            num_frames += 1
            if frame.shape[:2] != (info.height, info.width):
                sizes = f"{frame.shape[1]}x{frame.shape[0]}, its header says {info.width}x{info.height}"
                raise VideoError(f"{what} {info.path}: frame {num_frames} is {sizes}; re-encode it")
            if frame.dtype == np.uint16:
                frame = hdr.to_sdr(frame, info.colour)
            yield over_black(frame) if channels == 4 else frame
        if process.wait() != 0 and num_frames == 0:
            cause = ff.reason(ff.read_log(log))
            raise VideoError(f"{what} {info.path}: no frame can be decoded ({cause}); re-encode it as MP4")


def trim(start: int, count: int | None) -> str:
    """The filter that leaves `count` frames from `start` on."""
    return f"trim=start_frame={start}" + ("" if count is None else f":end_frame={start + count}")


def to_rgb(info: VideoInfo) -> list[str]:
    """The filter that reads a source's colours by the matrix and the range of its record."""
    flags = "flags=bicubic+accurate_rnd+full_chroma_int"
    if info.pixels.family != "yuv":
        return [f"scale={flags}"]
    colour = info.colour
    return [
        f"scale=in_color_matrix={colour.scale_matrix}:in_range={colour.range}:interl={int(info.interlaced)}:{flags}"
    ]
