"""The videos of one comparison: checked, cut to a common length and read once, in batches."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from hetcache.media.ffmpeg import base_args, input_args, run_quiet
from hetcache.media.mask_pace import choose_pace
from hetcache.media.masks import Mask, iter_mask
from hetcache.media.options import Timing
from hetcache.media.read import VideoInfo, count_frames, iter_frames, probe
from hetcache.metrics.errors import MetricError

MIN_FRAMES = 2
ROLES = ("pred", "gt", "reference")
_CUT_OFF = re.compile(r"partial file|ended prematurely|truncat|moov atom not found", re.IGNORECASE)

Size = tuple[int, int]
T = TypeVar("T", bound=np.generic)


class FewerFramesError(MetricError):
    """A video shows fewer frames than it has coded: `found` of them, in the video of role `what`."""

    def __init__(self, source: Source, what: str, found: int) -> None:
        super().__init__(
            f"{what} {source.path}: only {found} of its {source.num_frames} coded frames can be shown; "
            "encode it again if it should have more"
        )
        self.what = what
        self.found = found


@dataclass(frozen=True)
class Source:
    """A video that can be evaluated: its size (height, width) and its number of frames."""

    path: Path
    size: Size
    num_frames: int

    @property
    def size_text(self) -> str:
        return f"{self.size[1]}x{self.size[0]}"


def inspect(path: Path, what: str) -> Source:
    """Check a video without decoding it; `what` names its role in messages.

    VideoError when it is missing, empty, no video or only sound; MetricError when it is cut off or has a
    single frame (temporal figures and I3D need two).
    """
    info = probe(path, what)
    num_frames = _count(info, what)
    if num_frames < MIN_FRAMES:
        raise MetricError(f"{what} {path}: has {num_frames} frame; a video of {MIN_FRAMES} frames or more is needed")
    return Source(path, (info.height, info.width), num_frames)


def _count(info: VideoInfo, what: str) -> int:
    """Frames of a source; for a file, from its packets, whose reading also shows that the file is cut off."""
    if info.kind != "video":
        return count_frames(info.path, what)
    args = [*base_args(), "-stats", *input_args(info.path), "-map", "0:V:0", "-c", "copy", "-f", "null", "-"]
    _, log = run_quiet(args)
    counts = re.findall(r"frame=\s*(\d+)", log)
    if _CUT_OFF.search(log) or _is_cut_riff(info.path):
        raise MetricError(f"{what} {info.path}: the file is cut off; copy or encode it again")
    return int(counts[-1]) if counts else 0


def _is_cut_riff(path: Path) -> bool:
    """Whether an AVI is shorter than its own header says, which ffmpeg reads without complaint."""
    with path.open("rb") as stream:
        head = stream.read(8)
    return head[:4] == b"RIFF" and int.from_bytes(head[4:], "little") + 8 > path.stat().st_size


def frames_of(source: Source, count: int, size: Size, what: str) -> Generator[NDArray[np.uint8], None, None]:
    """Yield the first `count` frames [H, W, 3] at `size`; FewerFramesError at the end when there are fewer."""
    found = 0
    for frame in iter_frames(source.path, 0, count, size, what):
        found += 1
        yield frame
    if found < count:
        raise FewerFramesError(source, what, found)


def masks_of(
    path: Path, video: Source, size: Size, resize: bool, timing: Timing = "auto"
) -> Generator[Mask, None, None]:
    """Yield the masks [H, W] bool of the frames of `video` at `size`, by the rules of `iter_mask`; a still image holds
    for all frames, and a mask of another rate goes by `timing`, as in an edit.

    MetricError when the mask is shorter, or of another size without `resize`; VideoError when it is neither as long as
    the video nor has as many frames.
    """
    info, count = probe(path, "mask"), video.num_frames
    if (info.height, info.width) != size and not resize:
        raise MetricError(f"mask {path} is {info.width}x{info.height} and the video {size[1]}x{size[0]}: add --resize")
    pace, _ = choose_pace(probe(video.path), info, timing)
    found = 0
    with closing(iter_mask(path, size, pace=pace)) as masks:
        for mask in islice(masks, count):
            found += 1
            yield mask
    if found < count:
        raise MetricError(f"mask {path}: has {found} frames, the video {count}; give a mask as long as the video")


def take(frames: Iterator[NDArray[T]], count: int) -> NDArray[T] | None:
    """The next `count` items (fewer at the end) as one array, or None when there are none."""
    items = list(islice(frames, count))
    return np.stack(items) if items else None


def target_size(pred: Source, references: dict[str, Source], resize: str | None) -> Size:
    """The (height, width) to compare at. `resize`: None, "pred", "gt", "reference" or "WIDTHxHEIGHT".

    MetricError when the sizes differ and `resize` is None, naming both, or when it cannot be followed.
    """
    if resize is None:
        for role, source in references.items():
            if source.size != pred.size:
                raise MetricError(
                    f"the prediction {pred.path} is {pred.size_text} and the {role} {source.path} "
                    f"{source.size_text}: add --resize pred (or gt, or WxH) to compare them all the same"
                )
        return pred.size
    named = parse_resize(resize)
    if named is not None:
        return named
    if resize in ROLES[1:] and resize not in references:
        raise MetricError(f"--resize {resize}: no {resize} video was given")
    return pred.size if resize == "pred" else references[resize].size


def parse_resize(text: str | None) -> Size | None:
    """ "832x480" (width x height) as (height, width), None for a role; MetricError when it is neither."""
    if text is None or text in ROLES:
        return None
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match or not 16 <= min(map(int, match.groups())) <= max(map(int, match.groups())) <= 8192:
        raise MetricError(f"--resize takes pred, gt, reference or WIDTHxHEIGHT such as 832x480, not {text!r}")
    return int(match[2]), int(match[1])
