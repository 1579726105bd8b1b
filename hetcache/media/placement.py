"""Placement: where a source frame lies in the model's frame, and the way back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hetcache.media.ffmpeg import VideoError
from hetcache.media.masks import resize_frames, resize_mask
from hetcache.media.options import Fit

Frames = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Size = tuple[int, int]
Box = tuple[int, int, int, int]


def placements_at(index: int, spans: Iterable[tuple[range, Placement]]) -> set[Placement]:
    """The placements of the spans of frames that hold frame `index`."""
    return {placement for frames, placement in spans if index in frames}


@dataclass(frozen=True)
class Placement:
    """Sizes are (height, width). `stretch` scales both sides to the model's; `pad` keeps the proportions and repeats
    the border pixels around; `crop` keeps them and leaves out what sticks out. `focus` is the only part of the source
    that the model sees, as (top, left, height, width); it is stretched to the model's size, whatever `fit` says."""

    fit: Fit
    source: Size
    model: Size
    focus: Box | None = None

    @property
    def cuts(self) -> bool:
        """Whether the model sees a part of the source only."""
        return self.fit == "crop" or self.focus is not None

    @property
    def scale(self) -> float:
        """Pixels of the model's frame for one of the source's (height; `stretch` changes the width a little more or
        less)."""
        _, _, height, _ = self._box()
        return self.model[0] / height if self.cuts else height / self.source[0]

    def unscaled(self) -> Placement:
        """What the model sees of the source (with `pad` and `crop` all of it), at the source's own pixels."""
        return Placement("stretch", self.source, self.source if self.focus is None else self.focus[2:], self.focus)

    def rest(self) -> Placement:
        """From what `unscaled` gives to the model's size."""
        return self if self.focus is None else Placement("stretch", self.focus[2:], self.model)

    def frames_to_model(self, frames_THWC: Frames) -> Frames:
        """[T, *source, 3] to [T, *model, 3]."""
        top, left, height, width = self._box()
        if self.cuts:
            return resize_frames(frames_THWC[:, top : top + height, left : left + width], *self.model)
        inner = resize_frames(frames_THWC, height, width)
        return np.pad(inner, ((0, 0), *self._borders(self.model), (0, 0)), mode="edge")

    def mask_to_model(self, mask_THW: Mask) -> Mask:
        """[T, *source] to [T, *model]. Raises VideoError for a mask in what `crop` or `focus` leaves out."""
        top, left, height, width = self._box()
        if self.cuts:
            self.check_mask(mask_THW)
            return self.part_to_model(mask_THW)
        inner = resize_mask(mask_THW, height, width)
        return np.pad(inner, ((0, 0), *self._borders(self.model)), mode="edge")

    def part_to_model(self, mask_THW: Mask) -> Mask:
        """`mask_to_model` of what the model sees; a mask in what is left out does not matter."""
        top, left, height, width = self._box()
        if self.cuts:
            return resize_mask(mask_THW[:, top : top + height, left : left + width], *self.model)
        return self.mask_to_model(mask_THW)

    def check_mask(self, mask_THW: Mask) -> None:
        """Raises VideoError for a mask in what `crop` or `focus` leaves out."""
        if not self.cuts:
            return
        top, left, height, width = self._box()
        if mask_THW[:, top : top + height, left : left + width].sum() < mask_THW.sum():
            kept = f"{width}x{height} of {self.source[1]}x{self.source[0]} pixels"
            remedy = (
                "--fit crop leaves out ({}); use --fit pad"
                if self.focus is None
                else "--focus leaves out ({}); use --focus off"
            )
            raise VideoError(f"the mask reaches into what {remedy.format(f'{kept} are kept')}")

    def frames_to_source(self, frames_THWC: Frames) -> Frames:
        """[T, *model, 3] to [T, *source, 3]; what was left out is filled with the nearest pixels."""
        top, left, height, width = self._box()
        if self.cuts:
            inner = resize_frames(frames_THWC, height, width)
            return np.pad(inner, ((0, 0), *self._borders(self.source), (0, 0)), mode="edge")
        return resize_frames(frames_THWC[:, top : top + height, left : left + width], *self.source)

    def _box(self) -> tuple[int, int, int, int]:
        """(top, left, height, width): of the picture in the model's frame, or where something is cut of the part that
        is kept in the source's."""
        if self.focus is not None:
            return self.focus
        if self.fit == "stretch":
            return 0, 0, *self.model
        ratios = [model / source for model, source in zip(self.model, self.source, strict=True)]
        if self.fit == "pad":
            outer, wanted = self.model, [side * min(ratios) for side in self.source]
        else:
            outer, wanted = self.source, [side / max(ratios) for side in self.model]
        height, width = (min(max(round(want), 1), side) for want, side in zip(wanted, outer, strict=True))
        return (outer[0] - height) // 2, (outer[1] - width) // 2, height, width

    def _borders(self, outer: Size) -> tuple[tuple[int, int], tuple[int, int]]:
        top, left, height, width = self._box()
        return (top, outer[0] - height - top), (left, outer[1] - width - left)
