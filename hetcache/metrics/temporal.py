"""Temporal figures of one video: flicker, and the warping error of Lai et al. 2018 (arXiv:1808.00449)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from hetcache.metrics.errors import MetricError, optional_import
from hetcache.metrics.frames import masked_mean
from hetcache.metrics.metric import VideoMetric, decimals, nan_mean

MIN_SIDE = 16

Flow = NDArray[np.float32]


class TemporalMeter:
    """Takes the frames of one video in order and keeps only the last one.

    flicker: mean |x(t+1) - x(t)| in grey levels (0..255), motion included. warp_error: mean squared
    difference, in the 0..1 scale, between x(t) and x(t+1) carried back along the optical flow, over the
    pixels that the flow explains both ways; so motion is taken out. Both are averaged over frame pairs, and
    each region is the one at t. The flow is OpenCV's DIS, between the frames of this very video.
    """

    def __init__(self) -> None:
        self._cv2 = optional_import("cv2", "opencv-python-headless", "the warping error")
        self._dis = self._cv2.DISOpticalFlow_create(self._cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._last: tuple[NDArray[np.uint8], NDArray[np.uint8], dict[str, NDArray[np.bool_]]] | None = None
        self._flicker: dict[str, list[float]] = {}
        self._warp: dict[str, list[float]] = {}

    def update(self, frames_THWC: NDArray[np.uint8], regions: Mapping[str, NDArray[np.bool_]]) -> None:
        """Add frames [T, H, W, 3] uint8, with the mask [T, H, W] of each region."""
        if min(frames_THWC.shape[1:3]) < MIN_SIDE:
            size = f"{frames_THWC.shape[2]}x{frames_THWC.shape[1]}"
            raise MetricError(f"frames of {size} are too small for optical flow: each side needs {MIN_SIDE} pixels")
        for index, frame in enumerate(frames_THWC):
            grey = self._cv2.cvtColor(frame, self._cv2.COLOR_RGB2GRAY)
            if self._last is not None:
                self._add_pair(frame, grey)
            inside = {name: mask[index] for name, mask in regions.items()}
            self._last = (frame, grey, inside)

    def result(self) -> dict[str, dict[str, float]]:
        """{"all" or region: {"flicker": levels, "warp_error": squared 0..1}}; nan where nothing was seen."""
        return {
            name: {"flicker": nan_mean(self._flicker[name]), "warp_error": nan_mean(self._warp[name])}
            for name in self._flicker
        }

    def _add_pair(self, frame: NDArray[np.uint8], grey: NDArray[np.uint8]) -> None:
        assert self._last is not None
        last_frame, last_grey, inside = self._last
        change = np.abs(frame.astype(np.float32) - last_frame).mean(axis=2)
        forward = self._dis.calc(last_grey, grey, None)
        backward = self._dis.calc(grey, last_grey, None)
        carried = self._carry(frame.astype(np.float32), forward)
        seen = self._visible(forward, backward)
        error = np.square((carried - last_frame) / 255.0).mean(axis=2)
        for name, mask in {"all": None, **inside}.items():
            self._flicker.setdefault(name, []).append(masked_mean(change, mask))
            visible = seen if mask is None else seen & mask
            self._warp.setdefault(name, []).append(masked_mean(error, visible))

    def _carry(self, image: NDArray[np.float32], flow: Flow) -> NDArray[np.float32]:
        """The image at t+1 seen from t: image[p + flow(p)], bilinear."""
        height, width = flow.shape[:2]
        x = np.arange(width, dtype=np.float32) + flow[..., 0]
        y = np.arange(height, dtype=np.float32)[:, None] + flow[..., 1]
        cv2 = self._cv2
        return np.asarray(cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))

    def _visible(self, forward: Flow, backward: Flow) -> NDArray[np.bool_]:
        """Pixels at t that both flows agree on and that stay in the frame (Sundaram et al. 2010)."""
        height, width = forward.shape[:2]
        x = np.arange(width, dtype=np.float32) + forward[..., 0]
        y = np.arange(height, dtype=np.float32)[:, None] + forward[..., 1]
        inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
        back = self._carry(backward, forward)
        gap = np.square(forward + back).sum(axis=2)
        length = np.square(forward).sum(axis=2) + np.square(back).sum(axis=2)
        return np.asarray(inside & (gap <= 0.01 * length + 0.5))


WARP_ERROR = VideoMetric(
    "warp_error",
    "warp",
    "mean squared difference (0..1 scale) of frame t and frame t+1 carried back by DIS flow, non-occluded pixels; of "
    "the prediction (_ref: of the other video)",
    unit="x1e3",
    show=lambda value: f"{value * 1e3:.3f}",
    family="temporal",
    needs={"cv2": "opencv-python-headless"},
    meter=TemporalMeter,
)
FLICKER = VideoMetric(
    "flicker",
    "flicker",
    "mean absolute difference of neighbouring frames, 0..255; of the prediction (_ref: of the other video)",
    show=decimals(2),
    family="temporal",
    needs={"cv2": "opencv-python-headless"},
    meter=TemporalMeter,
)
