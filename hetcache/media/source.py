"""Source: the video, its mask and the asked changes to them, as frames and masks of one size (the canvas)."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, repeat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hetcache.media.ffmpeg import VideoError
from hetcache.media.mask_growth import hull_mask, shadow_mask
from hetcache.media.mask_pace import Pace, check_shape, choose_pace
from hetcache.media.mask_reading import MaskReading, MaskRequest, read_rules
from hetcache.media.masks import dilate_mask, iter_mask, outpaint, outpainted_size
from hetcache.media.options import InputOptions
from hetcache.media.probe import scanned, truncation
from hetcache.media.read import MAX_READ_BYTES, VideoInfo, count_frames, iter_frames, probe, read_frames, too_few
from hetcache.media.timeline import Timeline, read_timeline

Frames = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def check_asked(video: Path, mask: Path | None, options: InputOptions) -> None:
    """Raises VideoError where nothing says what is to be edited."""
    if mask is None and options.outpaint is None:
        raise VideoError(f"video {video}: which part is to be edited? Give --mask or --outpaint")


def check_files(video: Path, mask: Path | None, options: InputOptions) -> None:
    """The cheap part of what `Source.open` checks. Raises VideoError for a file that is missing or cannot be read."""
    check_asked(video, mask, options)
    probe(video)
    if mask is not None:
        probe(mask, "mask")


@dataclass(frozen=True)
class Source:
    """`mask` None asks for the outpainted border alone. `info` describes the video file, `reading` says what the mask's
    pixels mean, `pace` which mask a frame has, and `mask_notes` what is odd about mask and video together."""

    video: Path
    mask: Path | None
    options: InputOptions
    info: VideoInfo
    reading: MaskReading | None = None
    pace: Pace | None = None
    mask_notes: tuple[str, ...] = ()

    @classmethod
    def open(cls, video: Path, mask: Path | None, options: InputOptions | None = None) -> Source:
        """Looks at some frames of the mask. Raises VideoError for a video that cannot be read, no mask where one is
        needed, a mask that cannot be understood or does not belong to the video, or a canvas that is too large."""
        options = options or InputOptions()
        check_asked(video, mask, options)
        info = scanned(probe(video))
        cut_off = truncation(info)
        if options.strict and cut_off is not None:
            raise VideoError(cut_off)
        if options.outpaint is not None:
            outpainted_size(options.outpaint, info.height, info.width)
        if mask is None:
            return cls(video, mask, options, info)
        mask_info = probe(mask, "mask")
        stretched = check_shape(info, mask_info)
        pace, timed = choose_pace(info, mask_info, options.mask_timing)
        asked = MaskRequest(options.mask_channel, options.mask_threshold, options.mask_object)
        reading = read_rules(mask, asked)
        notes = tuple(note for note in (stretched, timed) if note is not None)
        return cls(video, mask, options, info, reading, pace, notes)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the canvas: the video's, widened by `outpaint`."""
        size = self.info.height, self.info.width
        return outpainted_size(self.options.outpaint, *size) if self.options.outpaint else size

    def length(self, asked: int | None = None) -> int:
        """`asked` frames, or all of the video. Decodes both files to their ends; raises VideoError when video or mask
        (unless extended) has fewer frames."""
        found = len(self.timeline().times_s)
        num_frames = found if asked is None else asked
        if found < max(num_frames, 1):
            raise VideoError(too_few(f"video {self.video}", found, max(num_frames, 1), 0))
        if self.mask is None or self.options.mask_extend != "error" or probe(self.mask, "mask").kind == "image":
            return num_frames
        masks = count_frames(self.mask, "mask", decode=True)
        if self.pace is not None:
            masks = self.pace.num_frames(masks)
        if masks < num_frames:
            raise VideoError(_mask_ended(self.mask, masks, num_frames))
        return num_frames

    def timeline(self, count: int | None = None) -> Timeline:
        """When the first `count` frames (all, if None) are shown. Decodes them, the first time that it is asked."""
        return _timeline(self.info, count)

    def every_mask(self, count: int) -> Generator[NDArray[np.bool_], None, None]:
        """The mask [H, W] of each of `count` frames of the canvas, without decoding the video."""
        with closing(self.masks(count)) as masks:
            if self.mask is None:
                yield from repeat(next(masks)[0], count)
                return
            for mask in masks:
                yield mask[0]

    def masks(self, count: int) -> Generator[Mask, None, None]:
        """The first `count` masks [1, H, W] of the canvas, without decoding the video."""
        size, blank = (self.info.height, self.info.width), np.zeros((1, self.info.height, self.info.width, 3), np.uint8)
        if self.mask is None:
            yield self._canvas(blank, np.zeros((1, *size), np.bool_))[1]
            return
        with closing(self._file_masks(self.mask)) as masks:
            for mask in islice(masks, count):
                yield self._canvas(blank, mask[None])[1]

    def read(self, count: int) -> tuple[Frames, Mask]:
        """The first `count` frames and masks of the canvas, [T, H, W, 3] uint8 and [T, H, W] bool. Raises
        VideoError."""
        height, width = self.size
        if count * height * width * 3 > MAX_READ_BYTES:
            size = f"{count} frames of {width}x{height}"
            raise VideoError(f"video {self.video}: {size} do not fit in memory; ask for fewer")
        frames = read_frames(self.info, count=count)
        if self.mask is None:
            mask = np.zeros(frames.shape[:3], np.bool_)
        else:
            with closing(self._file_masks(self.mask)) as stream:
                masks = list(islice(stream, count))
            if len(masks) < count:
                raise VideoError(_mask_ended(self.mask, len(masks), count))
            mask = np.stack(masks)
        return self._canvas(frames, mask)

    def stream(self, start: int = 0) -> Generator[tuple[Frames, Mask], None, None]:
        """Frames [1, H, W, 3] and masks [1, H, W] of the canvas from frame `start` to the end of the video, in memory
        that does not grow. Raises VideoError when the mask ends before."""
        size = self.info.height, self.info.width
        with closing(iter_frames(self.info, start)) as frames:
            if self.mask is None:
                for frame in frames:
                    yield self._canvas(frame[None], np.zeros((1, *size), np.bool_))
                return
            with closing(self._file_masks(self.mask)) as masks:
                later = islice(masks, start, None)
                for index, frame in enumerate(frames, start):
                    mask = next(later, None)
                    if mask is None:
                        raise VideoError(_mask_ended(self.mask, index, index + 1))
                    yield self._canvas(frame[None], mask[None])

    def _file_masks(self, mask: Path) -> Generator[Mask, None, None]:
        options, size = self.options, (self.info.height, self.info.width)
        return iter_mask(
            mask, size, None, options.invert_mask, options.mask_extend, reading=self.reading, pace=self.pace
        )

    def _canvas(self, frames_THWC: Frames, mask_THW: Mask) -> tuple[Frames, Mask]:
        options = self.options
        if options.mask_hull:
            mask_THW = hull_mask(mask_THW)
        if options.mask_dilate_px:
            mask_THW = dilate_mask(mask_THW, options.mask_dilate_px)
        if options.mask_shadow_px:
            mask_THW = shadow_mask(mask_THW, options.mask_shadow_px)
        if options.outpaint is None:
            return frames_THWC, mask_THW
        left, top, _, _ = options.outpaint
        wide_THWC, wide_mask_THW = outpaint(frames_THWC, *options.outpaint)
        height, width = mask_THW.shape[1:]
        wide_mask_THW[:, top : top + height, left : left + width] = mask_THW
        return wide_THWC, wide_mask_THW


@lru_cache(maxsize=4)
def _timeline(info: VideoInfo, count: int | None) -> Timeline:
    return read_timeline(info, count)


def _mask_ended(mask: Path, found: int, asked: int) -> str:
    return too_few(f"mask {mask}", found, asked, 0) + (", or --mask-extend hold|loop" if found else "")
