"""One record of what a source holds; everything downstream goes by it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from hetcache.files import StrPath
from hetcache.media import ffmpeg as ff
from hetcache.media.colour import BT709, Colour, understand
from hetcache.media.ffmpeg import VideoError
from hetcache.media.hdr10 import StaticHdr
from hetcache.media.header import Fields, StreamHeader, read_header
from hetcache.media.images import image_size, list_frames
from hetcache.media.packets import Packets, read_packets
from hetcache.media.pixels import PixelFormat

DEFAULT_FPS = 16.0
"""Frames a second of images, which carry no rate: the rate Wan2.1 was trained at."""

HIGHEST_RATE = 240
"""A header that says more frames a second than this speaks of its clock, not of its pictures."""


@dataclass(frozen=True)
class VideoInfo:
    """What a source holds: pixels after rotation; `num_frames` is None for a video (see count_frames()). `rate` is
    `fps` exactly: of a variable rate, the header's guess or, without one, the mean. `start_s` and `audio_start_s` are
    the times of the first frame and sound on the file's clock. `duration_s` is what the header promises; `packets`,
    what reading the file to its end found, is None before `scanned`."""

    path: Path
    width: int
    height: int
    fps: float
    num_frames: int | None
    has_audio: bool
    kind: Literal["video", "image", "folder"] = "video"
    duration_s: float | None = None
    rotation_deg: int = 0
    codec: str = ""
    pix_fmt: str = ""
    pixel_aspect: tuple[int, int] = (1, 1)
    alpha_beside: bool = False
    """Transparency in a picture of its own (VP8, VP9), which ffmpeg's own decoders leave out."""
    rate: Fraction = Fraction(16)
    colour: Colour = BT709
    fields: Fields = "progressive"
    audio_codec: str | None = None
    start_s: Fraction = Fraction(0)
    audio_start_s: Fraction | None = None
    packets: Packets | None = None
    static_hdr: StaticHdr | None = None
    dynamic_hdr: str | None = None
    """The kind of metadata that change from frame to frame."""

    @property
    def pixels(self) -> PixelFormat:
        return PixelFormat.of(self.pix_fmt or "rgb24")

    @property
    def interlaced(self) -> bool:
        return self.fields in ("top", "bottom")

    @property
    def missing(self) -> float | None:
        """The share of the promised duration that is not there; 0 for a whole file, None where nothing is promised."""
        if self.packets is None or self.duration_s is None or self.duration_s <= 0:
            return None
        gap_s = self.duration_s - self.packets.duration_s
        # Headers round, and count the last frame's time or do not.
        slack_s = max(0.25, 2 / self.fps)
        return gap_s / self.duration_s if gap_s > slack_s else 0.0


def probe(path: StrPath, what: str = "video") -> VideoInfo:
    """Describe a video file, an image or a folder of frames; of a video, one frame is decoded.

    `what` names the input in messages ("video", "mask"). VideoError: missing, unreadable, empty, not a video,
    only sound, a playlist, over 8192 pixels a side, or of colours that cannot be converted. A video's frames are not
    counted here: see count_frames().
    """
    path = Path(path)
    if _is_dir(path):
        frames = list_frames(path, what)
        size = frame_size(frames[0], what)
        return VideoInfo(path, size[1], size[0], DEFAULT_FPS, len(frames), False, "folder")
    still = image_size(path, what)
    if still is not None:
        return VideoInfo(path, still[1], still[0], DEFAULT_FPS, 1, False, "image")
    return _video_info(path, what, read_header(path, what))


def _video_info(path: Path, what: str, header: StreamHeader) -> VideoInfo:
    rate = header.rate or (None if header.fps is None else ff.frame_rate_fraction(header.fps))
    packets = None
    if rate is None or rate > HIGHEST_RATE or not header.has_average_rate:
        # A clock of milliseconds without a duration, as browsers record, looks like 1000 frames a second.
        packets = read_packets(path)
        mean = packets.mean_rate
        if mean is not None and 0 < mean <= 1000:
            rate = mean if rate is None or abs(mean / rate - 1) > 0.001 else rate
    rate = rate or Fraction(DEFAULT_FPS)
    pixels = PixelFormat.of(header.pix_fmt)
    is_rgb = pixels.family == "rgb"
    return VideoInfo(
        path=path,
        width=header.width,
        height=header.height,
        fps=float(rate),
        num_frames=None,
        has_audio=header.audio_codec is not None,
        duration_s=header.duration_s,
        rotation_deg=header.rotation_deg,
        codec=header.codec,
        pix_fmt=header.pix_fmt,
        pixel_aspect=header.pixel_aspect,
        alpha_beside=header.alpha_beside and header.codec in ("vp8", "vp9"),
        rate=rate,
        colour=understand(header.tags, header.height, header.width, is_rgb, f"{what} {path}"),
        fields=header.fields,
        audio_codec=header.audio_codec,
        start_s=header.start_s or Fraction(0),
        audio_start_s=header.audio_start_s,
        packets=packets,
        static_hdr=header.static_hdr,
        dynamic_hdr=header.dynamic_hdr,
    )


def scanned(info: VideoInfo) -> VideoInfo:
    """The record with `packets`: reads a video file to its end. Images come back as they are."""
    if info.kind != "video" or info.packets is not None:
        return info
    return replace(info, packets=read_packets(info.path))


def truncation(info: VideoInfo) -> str | None:
    """What is missing of a file that ends before its header says, or None."""
    if info.packets is None:
        return None
    missing, found_s = info.missing or 0.0, info.packets.duration_s
    if missing > 0:
        return (
            f"video {info.path}: cut off: it ends after {found_s:.2f} s of the {info.duration_s:.2f} s that its header "
            f"promises, {missing:.0%} is missing; copy or download it again"
        )
    if info.packets.cut_off:
        return f"video {info.path}: damaged or cut off: some of what its index lists cannot be read; copy it again"
    return None


def probe_facts(info: VideoInfo) -> dict[str, Any]:
    """The record as JSON values; exact rates and times as fractions."""
    pixels, packets = info.pixels, info.packets
    facts: dict[str, Any] = {
        "kind": info.kind,
        "width": info.width,
        "height": info.height,
        "pixel_aspect": "{}:{}".format(*info.pixel_aspect),
        "rotation_deg": info.rotation_deg,
        "rate": str(info.rate),
    }
    if info.kind != "video":
        return {**facts, "frames": info.num_frames}
    return {
        **facts,
        "codec": info.codec,
        "pixel_format": info.pix_fmt,
        "bits": pixels.bits,
        "alpha": pixels.alpha,
        "fields": info.fields,
        "colour": {
            "matrix": info.colour.matrix,
            "primaries": info.colour.primaries,
            "transfer": info.colour.transfer,
            "range": info.colour.range,
            "assumed": list(info.colour.assumed),
        },
        "hdr_display": None if info.static_hdr is None else info.static_hdr.display,
        "hdr_light": None if info.static_hdr is None else info.static_hdr.light,
        "start_s": float(info.start_s),
        "audio": info.audio_codec,
        "audio_start_s": None if info.audio_start_s is None else float(info.audio_start_s),
        "duration_promised_s": info.duration_s,
        "duration_found_s": None if packets is None else round(packets.duration_s, 6),
        "packets": None if packets is None else packets.video.num_packets,
        "truncated": None if packets is None else truncation(info) is not None,
    }


def frame_size(path: Path, what: str) -> tuple[int, int]:
    """(height, width) of one image of a folder; VideoError."""
    size = image_size(path, what)
    if size is None:
        raise VideoError(f"{what} {path}: not a still image that can be read; save it as PNG")
    return size


def _is_dir(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False
