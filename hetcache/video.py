"""Frames in and out, and the masks over them: the one place from which the rest imports them.

Arrays are [T, H, W, 3] uint8 RGB for frames and [T, H, W] bool for masks (True = edit); sizes are (height,
width). Every bad file ends in a VideoError, one line for the person.
"""

from hetcache.masks import (
    composite,
    dilate_mask,
    feather_mask,
    iter_mask,
    outpaint,
    read_mask,
    resize_frames,
    resize_mask,
)
from hetcache.video_ffmpeg import VideoError
from hetcache.video_read import VideoInfo, count_frames, iter_frames, largest_4k_plus_1, probe, read_frames
from hetcache.video_write import atomic_output, check_writable, write_video

__all__ = [
    "VideoError",
    "VideoInfo",
    "atomic_output",
    "check_writable",
    "composite",
    "count_frames",
    "dilate_mask",
    "feather_mask",
    "iter_frames",
    "iter_mask",
    "largest_4k_plus_1",
    "outpaint",
    "probe",
    "read_frames",
    "read_mask",
    "resize_frames",
    "resize_mask",
    "write_video",
]
