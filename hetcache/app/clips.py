"""A clip that a browser opens: checked against the limits, kept under a harmless name, its frames as JPEG."""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from hetcache.app.options import AppOptions
from hetcache.files import UserError
from hetcache.media.probe import VideoInfo, probe
from hetcache.media.read import iter_frames

SHOWN_SIDE = 960
"""The page shows frames at most so wide and high; the edit works on the clip itself."""

JPEG_QUALITY = 88
MAX_NAME = 80


@dataclass(frozen=True)
class OpenClip:
    """A clip in a session. `version` counts the clips that the session has opened; `file` is relative to the session's
    folder; `shown` is (height, width) of the JPEG frames."""

    version: int
    name: str
    file: str
    width: int
    height: int
    num_frames: int
    fps: float
    shown: tuple[int, int]


def safe_name(name: str) -> str:
    """A file name of letters, digits, dots, dashes and underscores that is no path and hides nothing."""
    last = re.split(r"[/\\]", name)[-1]
    clean = re.sub(r"[^A-Za-z0-9._-]+", "_", last).strip("._-") or "clip"
    stem, dot, ending = clean.rpartition(".")
    return clean[:MAX_NAME] if not dot else f"{stem[: MAX_NAME - 8]}.{ending[:7]}"


def too_large(size: int | None, options: AppOptions) -> str | None:
    """Why a file of so many bytes cannot be opened, or None."""
    if size is None or size <= options.max_mib * 2**20:
        return None
    return f"the file is larger than {options.max_mib:g} MiB: cut or re-encode it, or start the page with --max-mib"


def check_clip(path: Path, options: AppOptions) -> VideoInfo:
    """What is read from the file. Raises UserError for one that is no video or image and for one over the limits."""
    if path.stat().st_size == 0:
        raise UserError("the file is empty: choose a video")
    info = probe(path, "clip")
    if info.kind == "folder":
        raise UserError("a folder cannot be opened here: choose a video")
    if info.width * info.height > options.max_pixels:
        raise UserError(
            f"{info.width}x{info.height} is more than {options.max_pixels} pixels a frame: scale it down, or start the "
            "page with --max-pixels"
        )
    if info.duration_s is not None and info.duration_s > options.max_seconds:
        raise UserError(
            f"the clip lasts {info.duration_s:.0f} s, more than {options.max_seconds:g} s: cut it, or start the page "
            "with --max-seconds"
        )
    return info


def write_frames(info: VideoInfo, folder: Path, options: AppOptions) -> tuple[int, tuple[int, int]]:
    """(number of frames, their height and width) of the JPEG files `00000.jpg` and up in `folder`. Raises UserError for
    too many frames and for a clip that cannot be decoded."""
    scale = min(1.0, SHOWN_SIDE / max(info.width, info.height))
    shown = max(1, round(info.height * scale)), max(1, round(info.width * scale))
    folder.mkdir(parents=True)
    count = 0
    with closing(iter_frames(info, what="clip")) as frames:
        for frame in frames:
            if count == options.max_frames:
                raise UserError(
                    f"the clip has more than {options.max_frames} frames: cut it, or start the page with --max-frames"
                )
            picture = Image.fromarray(frame)
            if shown != frame.shape[:2]:
                picture = picture.resize((shown[1], shown[0]), Image.Resampling.BILINEAR)
            picture.save(folder / f"{count:05d}.jpg", quality=JPEG_QUALITY)
            count += 1
    if count == 0:
        raise UserError("no frame can be decoded: re-encode the clip as MP4")
    return count, shown


def without_paths(error: BaseException, path: Path, name: str) -> str:
    """The message of an error with the file's own name in place of where the server keeps it."""
    return str(error).replace(str(path), name)
