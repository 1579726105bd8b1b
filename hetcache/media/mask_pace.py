"""A mask and its video in time and shape: which mask belongs to which frame, and whether one lies on its side."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

from hetcache.media.ffmpeg import VideoError
from hetcache.media.options import Timing
from hetcache.media.read import VideoInfo, count_frames

SAME_RATE = 1e-4
"""Rates that differ by less, relatively, are one rate."""

SAME_ASPECT = 0.03
"""Shapes whose width / height differs by less, relatively, are one shape."""

_SLACK = 1e-3


@dataclass(frozen=True)
class Pace:
    """A mask of `mask_fps` for a video of `video_fps`: frame k has the mask that a player shows at k / video_fps."""

    mask_fps: float
    video_fps: float

    def index(self, frame: int) -> int:
        """The mask of a frame of the video."""
        return int(frame * self.mask_fps / self.video_fps + _SLACK)

    def num_frames(self, num_masks: int) -> int:
        """Frames of the video that so many masks last for. The last may stay for as long as one mask does beyond its
        end, because streams of one length in seconds end up to a frame apart."""
        return int((num_masks + 1) * self.video_fps / self.mask_fps - _SLACK) + 1

    def spread(self, masks: Iterator[Any]) -> Generator[Any, None, None]:
        """The mask of each frame of the video in turn, as long as there are masks."""
        current, index, frame = None, -1, 0
        while True:
            wanted = self.index(frame)
            while index < wanted:
                following = next(masks, None)
                if following is None:
                    break
                current, index = following, index + 1
            if current is None or wanted > index + 1:
                return
            yield current
            frame += 1


def choose_pace(video: VideoInfo, mask: VideoInfo, timing: Timing = "auto") -> tuple[Pace | None, str | None]:
    """(pace or None for frame by frame, a warning or None). Only files that both know their rate are compared.

    Of unequal rates: as many masks as frames go frame by frame, the same length in seconds goes by time, and the rest
    is a VideoError because either could be meant.
    """
    if video.kind != "video" or mask.kind != "video":
        if timing == "time":
            raise VideoError(f"mask {mask.path}: images have no time; leave out --mask-timing time")
        return None, None
    if timing == "frames" or abs(mask.fps / video.fps - 1) < SAME_RATE:
        return None, None
    pace = Pace(mask.fps, video.fps)
    rates = f"{mask.fps:.5g} frames a second, the video {video.fps:.5g}"
    by_time = f"the mask has {rates}: each frame takes the mask of its time"
    if timing == "time":
        return pace, by_time
    num_masks, num_frames = count_frames(mask.path, "mask"), count_frames(video.path)
    if num_masks == num_frames:
        return None, f"the mask has {rates}, and as many frames: taken frame by frame"
    longest_frame_s = 1.5 / min(mask.fps, video.fps)
    mask_s, video_s = num_masks / mask.fps, num_frames / video.fps
    if abs(mask_s - video_s) <= max(longest_frame_s, 0.005 * video_s):
        return pace, by_time
    if abs(mask.fps / video.fps - 1) < 0.005:
        return None, None
    raise VideoError(
        f"mask {mask.path}: {num_masks} frames at {mask.fps:.5g} a second for {num_frames} at {video.fps:.5g}, neither "
        "as many nor as long; give --mask-timing frames or time"
    )


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
