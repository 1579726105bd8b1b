"""Pixel formats by what their names say, and the one that an output has for a source's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Family = Literal["yuv", "grey", "rgb"]

# Formats of interleaved or unusual layout: (chroma columns per sample, chroma rows per sample, bits).
_YUV_NAMES = {
    "nv12": (2, 2, 8),
    "nv21": (2, 2, 8),
    "nv16": (2, 1, 8),
    "nv24": (1, 1, 8),
    "nv42": (1, 1, 8),
    "nv20le": (2, 1, 10),
    "yuyv422": (2, 1, 8),
    "uyvy422": (2, 1, 8),
    "yvyu422": (2, 1, 8),
    "uyyvyy411": (4, 1, 8),
    "y210le": (2, 1, 10),
    "y212le": (2, 1, 12),
    "xv30le": (1, 1, 10),
    "xv36le": (1, 1, 12),
    "vuyx": (1, 1, 8),
    "vuya": (1, 1, 8),
    "vyu444": (1, 1, 8),
}
_SUBSAMPLING = {"420": (2, 2), "422": (2, 1), "444": (1, 1), "440": (1, 2), "411": (4, 1), "410": (4, 4)}
# Written as: full chroma has no 4:4:0, 4:1:1 and 4:1:0 in H.264.
_WRITTEN = {(2, 2): "420", (2, 1): "422", (1, 1): "444", (1, 2): "444", (4, 1): "422", (4, 4): "420"}


@dataclass(frozen=True)
class PixelFormat:
    """A format of ffmpeg: one chroma sample covers `columns` x `rows` pixels of `bits` a channel."""

    name: str
    family: Family
    columns: int = 1
    rows: int = 1
    bits: int = 8
    alpha: bool = False

    @classmethod
    def of(cls, name: str) -> PixelFormat:
        """Any name; an unknown one is taken for RGB of 8 bit, which ffmpeg converts by itself."""
        alpha = name.startswith(
            ("yuva", "rgba", "bgra", "argb", "abgr", "gbrap", "ya8", "ya16", "pal8", "ayuv", "vuya")
        )
        planar = re.fullmatch(r"yuvj?a?(420|422|444|440|411|410)p(\d{1,2})?(le|be)?", name)
        if planar:
            return cls(name, "yuv", *_SUBSAMPLING[planar[1]], int(planar[2] or 8), alpha)
        semi = re.fullmatch(r"p([024])(10|12|16)(le|be)", name)
        if semi:
            chroma = {"0": (2, 2), "2": (2, 1), "4": (1, 1)}[semi[1]]
            return cls(name, "yuv", *chroma, int(semi[2]))
        if name in _YUV_NAMES:
            columns, rows, bits = _YUV_NAMES[name]
            return cls(name, "yuv", columns, rows, bits, alpha)
        grey = re.fullmatch(r"(?:gray|ya)(\d{1,2})?(le|be)?", name)
        if grey or name.startswith("mono"):
            return cls(name, "grey", bits=int(grey[1] or 8) if grey else 8, alpha=alpha)
        deep = re.search(r"(?:gbra?p|48|64)(9|10|12|14|16)?(le|be)$", name)
        bits = (int(deep[1]) if deep[1] else 16) if deep else 8
        return cls(name, "rgb", bits=bits, alpha=alpha)


def written_format(source: PixelFormat, height: int, width: int, offsets: tuple[int, int] = (0, 0)) -> PixelFormat:
    """What an H.264 file of `height` x `width` keeps of a source whose picture lies at `offsets` (top, left) in it.

    Chroma stays as it is where the size and the offsets are whole chroma samples, else it becomes full (4:4:4). More
    than 8 bit becomes 10. RGB, grey and transparency become 4:2:0 of 8 bit.
    """
    kept = source.family == "yuv" and not source.alpha
    chroma = _WRITTEN[source.columns, source.rows] if kept else "420"
    columns, rows = _SUBSAMPLING[chroma]
    if width % columns or height % rows or offsets[0] % rows or offsets[1] % columns:
        chroma, columns, rows = "444", 1, 1
    deep = kept and source.bits > 8
    return PixelFormat(f"yuv{chroma}p{'10le' if deep else ''}", "yuv", columns, rows, 10 if deep else 8)
