"""A mask and its video in time and shape: which mask belongs to which frame, and whether one lies on its side."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

from hetcache.media.ffmpeg import VideoError
from hetcache.media.options import Timing
from hetcache.media.probe import VideoInfo, scanned
from hetcache.media.timeline import read_timeline

SAME_RATE = 1e-4
"""Rates that differ by less, relatively, are one rate."""

SAME_ASPECT = 0.03
"""Shapes whose width / height differs by less, relatively, are one shape."""

_SLACK = 1e-3


@dataclass(frozen=True)
class Pace:
    """A mask of `mask_fps` for a video of `video_fps`: a frame has the mask that a player shows at its time. Both begin
    with their first frames. `frame_times_s` and `mask_times_s` are the times since then where a rate varies; beyond
    them, and without them, frames follow at the rate."""

    mask_fps: float
    video_fps: float
    frame_times_s: tuple[float, ...] = (0.0,)
    mask_times_s: tuple[float, ...] = (0.0,)

    def index(self, frame: int) -> int:
        """The mask of a frame of the video."""
        last = len(self.frame_times_s) - 1
        time_s = self.frame_times_s[min(frame, last)] + max(frame - last, 0) / self.video_fps
        beyond_s = time_s - self.mask_times_s[-1]
        if beyond_s < 0:
            return max(bisect_right(self.mask_times_s, time_s + _SLACK / self.mask_fps) - 1, 0)
        return len(self.mask_times_s) - 1 + int(beyond_s * self.mask_fps + _SLACK)

    def num_frames(self, num_masks: int) -> int:
        """Frames of the video that so many masks last for. The last may stay for as long as one mask does beyond its
        end, because streams of one length in seconds end up to a frame apart."""
        return next(frame for frame in count() if self.index(frame) > num_masks)

    def spread(self, masks: Iterator[Any]) -> Generator[Any, None, None]:
        """The mask of each frame of the video in turn, as long as there are masks."""
        current, index = None, -1
        for frame in count():
            wanted = self.index(frame)
            while index < wanted:
                following = next(masks, None)
                if following is None:
                    break
                current, index = following, index + 1
            if current is None or wanted > index + 1:
                return
            yield current


def choose_pace(video: VideoInfo, mask: VideoInfo, timing: Timing = "auto") -> tuple[Pace | None, str | None]:
    """(pace or None for frame by frame, a warning or None). Only files that both know their rate are compared.

    Of unequal rates: as many masks as frames go frame by frame, the same length in seconds goes by time, and the rest
    is a VideoError because either could be meant.
    """
    if video.kind != "video" or mask.kind != "video":
        if timing == "time":
            raise VideoError(f"mask {mask.path}: images have no time; leave out --mask-timing time")
        return None, None
    if timing == "frames":
        return None, None
    (mask_fps, num_masks), (video_fps, num_frames) = _rate_and_length(mask), _rate_and_length(video)
    rates = f"{mask_fps:.5g} frames a second, the video {video_fps:.5g}"
    by_time = f"the mask has {rates}: each frame takes the mask of its time"
    if timing == "time":
        return _by_time(mask, mask_fps, video, video_fps), by_time
    if abs(mask_fps / video_fps - 1) < SAME_RATE:
        return None, None
    if num_masks == num_frames:
        return None, f"the mask has {rates}, and as many frames: taken frame by frame"
    mask_s, video_s = num_masks / mask_fps, num_frames / video_fps
    if abs(mask_s - video_s) <= max(1.5 / min(mask_fps, video_fps), 0.005 * video_s):
        return _by_time(mask, mask_fps, video, video_fps), by_time
    if abs(mask_fps / video_fps - 1) < 0.005:
        return None, None
    raise VideoError(
        f"mask {mask.path}: {num_masks} frames at {mask_fps:.5g} a second for {num_frames} at {video_fps:.5g}, neither "
        "as many nor as long; give --mask-timing frames or time"
    )


def _rate_and_length(info: VideoInfo) -> tuple[float, int]:
    """(frames a second, frames) by the packets of a video: the header's rate unless the mean is another."""
    packets = scanned(info).packets
    assert packets is not None
    mean = info.fps if packets.mean_rate is None else float(packets.mean_rate)
    return (info.fps if abs(mean / info.fps - 1) < 0.01 else mean), packets.video.num_packets


def _by_time(mask: VideoInfo, mask_fps: float, video: VideoInfo, video_fps: float) -> Pace:
    """Decodes both files for the times of their frames."""
    return Pace(mask_fps, video_fps, _times_s(video), _times_s(mask))


def _times_s(info: VideoInfo) -> tuple[float, ...]:
    times = read_timeline(info).times_s
    return tuple(float(time - times[0]) for time in times) or (0.0,)


def check_shape(video: VideoInfo, mask: VideoInfo) -> str | None:
    """A warning for a mask that has to be stretched to another shape, or None. Raises VideoError for one that lies on
    its side: it fits the video only when turned by 90 degrees, or its metadata turn it and it does not fit then."""
    wanted, shape = video.width / video.height, mask.width / mask.height
    if _close(shape, wanted) or _close(_shown(mask), _shown(video)):
        return None
    sizes = f"{mask.width}x{mask.height} for a video of {video.width}x{video.height}"
    turned = [
        f"the {what}'s metadata turn it by {info.rotation_deg} degrees"
        for what, info in (("mask", mask), ("video", video))
        if info.rotation_deg in (90, 270)
    ]
    if _close(1 / shape, wanted) or mask.rotation_deg in (90, 270):
        reason = f" ({' and '.join(turned)})" if turned else ""
        raise VideoError(f"mask {mask.path}: is {sizes}{reason}: it lies on its side, turn it by 90 degrees first")
    return f"the mask is stretched from another shape: {sizes}"


def _shown(info: VideoInfo) -> float:
    return info.width * info.pixel_aspect[0] / (info.height * info.pixel_aspect[1])


def _close(shape: float, other: float) -> bool:
    return abs(shape / other - 1) < SAME_ASPECT
