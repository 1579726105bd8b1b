"""Videos side by side, in step by construction: all of them are tiles of one video, drawn on canvases.

Several <video> elements drift apart and seek at their own pace; tiles of one frame cannot.
"""

from __future__ import annotations

import base64
import io
import math
import tempfile
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hetcache.files import to_json
from hetcache.media.masks import resize_frames
from hetcache.media.write import write_video

Frames = NDArray[np.uint8]
MAX_TILE_WIDTH = 640
MAX_MOSAIC_WIDTH = 3840
CRF = 22


@dataclass(frozen=True)
class Viewer:
    """`tiles` are (name, frames [T, H, W, 3]) of one size. `panels` say what is drawn, in order: `{"tile": i}`,
    `{"choose": i}` (a menu of all tiles, i at first), `{"difference": [panel, i]}` (4 x the difference of what that
    panel shows to tile i), `{"wipe": [i, j]}` (i left of a handle, j right of it)."""

    name: str
    fps: float
    tiles: list[tuple[str, Frames]]
    panels: list[dict[str, Any]] = field(default_factory=list)


def viewer_html(viewer: Viewer) -> str:
    """The viewer's element; page.js brings it to life."""
    names = [name for name, _ in viewer.tiles]
    frames = [even(frames_THWC) for _, frames_THWC in viewer.tiles]
    mosaic, columns = tile(frames)
    height, width = frames[0].shape[1:3]
    data = {
        "names": names,
        "columns": columns,
        "width": width,
        "height": height,
        "frames": len(mosaic),
        "fps": viewer.fps,
        "panels": viewer.panels,
        "poster": jpeg_uri(mosaic[0], 82),
        "video": data_uri("video/mp4", encode(mosaic, viewer.fps)),
    }
    text = to_json(data, indent=None).replace("<", "\\u003c")
    panels = "".join(_panel(panel, index, names) for index, panel in enumerate(viewer.panels))
    return (
        f'<div class="viewer" data-viewer><script type="application/json">{text}</script>'
        f'<div class="panels">{panels}</div>'
        '<div class="controls"><button type="button" data-back aria-label="one frame back">&#9664;</button>'
        '<button type="button" data-play aria-label="play">play</button>'
        '<button type="button" data-forward aria-label="one frame on">&#9654;</button>'
        f'<input type="range" data-scrub min="0" max="{len(mosaic) - 1}" value="0" aria-label="frame">'
        f"<output data-frame-name>1 / {len(mosaic)}</output></div></div>"
    )


def tile(videos: list[Frames]) -> tuple[Frames, int]:
    """(mosaic [T, rows * H, columns * W, 3], columns) of videos of one size; empty tiles are black."""
    num_frames, height, width = videos[0].shape[:3]
    columns = max(1, min(len(videos), MAX_MOSAIC_WIDTH // width, math.ceil(math.sqrt(len(videos)))))
    rows = math.ceil(len(videos) / columns)
    mosaic = np.zeros((num_frames, rows * height, columns * width, 3), np.uint8)
    for index, video in enumerate(videos):
        row, column = divmod(index, columns)
        mosaic[:, row * height : (row + 1) * height, column * width : (column + 1) * width] = video
    return mosaic, columns


def even(frames_THWC: Frames) -> Frames:
    """At most MAX_TILE_WIDTH wide, both sides even, so that no colour bleeds into the next tile."""
    height, width = frames_THWC.shape[1:3]
    scale = min(1.0, MAX_TILE_WIDTH / width)
    target = (round(height * scale / 2) * 2, round(width * scale / 2) * 2)
    return frames_THWC if target == (height, width) else resize_frames(frames_THWC, *target)


def encode(frames_THWC: Frames, fps: float) -> bytes:
    """H.264 MP4."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mosaic.mp4"
        write_video(path, frames_THWC, fps, crf=CRF)
        return path.read_bytes()


def jpeg_uri(frame_HWC: NDArray[np.uint8], quality: int = 85) -> str:
    buffer = io.BytesIO()
    Image.fromarray(frame_HWC).save(buffer, "JPEG", quality=quality)
    return data_uri("image/jpeg", buffer.getvalue())


def data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _panel(panel: dict[str, Any], index: int, names: list[str]) -> str:
    if "choose" in panel:
        options = "".join(
            f'<option value="{number}"{" selected" if number == panel["choose"] else ""}>{escape(name)}</option>'
            for number, name in enumerate(names)
        )
        caption = f'<select data-choice="{index}" aria-label="video">{options}</select>'
    elif "tile" in panel:
        caption = escape(names[panel["tile"]])
    elif "wipe" in panel:
        caption = f"{escape(names[panel['wipe'][0]])} | {escape(names[panel['wipe'][1]])}, drag"
    else:
        caption = f"difference to {escape(names[panel['difference'][1]])}, 4x"
    wide = ' class="wide"' if "wipe" in panel else ""
    return f'<figure{wide}><canvas data-panel="{index}"></canvas><figcaption>{caption}</figcaption></figure>'
