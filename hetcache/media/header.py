"""What a media file holds, read from what `ffmpeg -i` prints: imageio-ffmpeg brings no ffprobe."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from hetcache.media import ffmpeg as ff
from hetcache.media.ffmpeg import VideoError

PROBE_TIMEOUT_S = 60

# First bytes of files that name other files, and of images: only for a better message.
_PLAYLISTS = (
    b"#EXTM3U",
    b"ffconcat",
    b"[playlist]",
    b"<?xml",
    b"<MPD",
    b"<ASX",
    b"v=0",
    b"[InternetShortcut]",
)
_IMAGES = (b"\x89PNG", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*", b"RIFF", b"P5", b"P6")


@dataclass(frozen=True)
class StreamHeader:
    """What ffmpeg says about one media file; `width` and `height` are after rotation."""

    width: int
    height: int
    fps: float | None
    duration_s: float | None
    rotation_deg: int
    codec: str
    pix_fmt: str
    pixel_aspect: tuple[int, int]
    audio_codec: str | None
    alpha_beside: bool = False
    """A second picture of transparency, as Matroska keeps for VP8 and VP9."""


def read_header(path: Path, what: str = "video") -> StreamHeader:
    """Describe the first real video stream of a file; VideoError when there is none. Decodes no picture."""
    ff.check_regular_file(path, what)
    args = [*ff.base_args("info"), *ff.input_args(path)]
    try:
        _, text = ff.run_quiet(args, PROBE_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise VideoError(f"{what} {path}: no stream found in {PROBE_TIMEOUT_S} s; re-encode it") from None
    return parse_header(text, path, what)


def parse_header(text: str, path: Path, what: str = "video") -> StreamHeader:
    """Read what `ffmpeg -i` prints. Metadata is indented deeper, so it cannot pose as a stream."""
    lines = text.splitlines()
    if not any(line.startswith("Input #0") for line in lines):
        raise VideoError(_refusal(text, path, what))
    if any(line.startswith("  Stream group #") and "Tile Grid" in line for line in lines):
        raise VideoError(f"{what} {path}: is a tiled still image; convert it to PNG or JPEG first")
    streams = [(i, line) for i, line in enumerate(lines) if re.match(r"  Stream #0:\d+", line)]
    audio = next((m for _, line in streams if (m := re.search(r": Audio: (\w+)", line))), None)
    # 0:V in ffmpeg's own selection: cover art and thumbnails are not video.
    video = next(
        (
            (i, line)
            for i, line in streams
            if ": Video: " in line and not line.endswith(("(attached pic)", "(timed thumbnails)"))
        ),
        None,
    )
    if video is None:
        kind = "only sound" if audio else "no picture stream"
        raise VideoError(f"{what} {path}: holds {kind}; give a file with video")
    index, line = video
    picture = re.search(r", (\w+)(?:\([^)]*\))?, (\d{1,9})x(\d{1,9})(?=[\s,\[]|$)", line)
    codec = re.search(r": Video: (\w+)", line)
    if picture is None or codec is None:
        raise VideoError(f"{what} {path}: has no readable picture size; damaged, or an unknown codec")
    side_data = _indented_block(lines, index)
    rotation = re.search(r"rotation of (-?\d+(?:\.\d+)?) degrees", side_data)
    rotation_deg = round(float(rotation.group(1))) % 360 if rotation else 0
    width, height = int(picture.group(2)), int(picture.group(3))
    found = re.search(r"SAR (\d{1,9}):(\d{1,9})", line)
    aspect = (int(found.group(1)), int(found.group(2))) if found else (1, 1)
    if rotation_deg in (90, 270):
        width, height = height, width
        aspect = (aspect[1], aspect[0])
    ff.check_size(width, height, path, what)
    return StreamHeader(
        width=width,
        height=height,
        fps=_frame_rate(line),
        duration_s=_duration(lines),
        rotation_deg=rotation_deg,
        codec=codec.group(1),
        pix_fmt=picture.group(1),
        pixel_aspect=aspect if min(aspect) > 0 else (1, 1),
        audio_codec=audio.group(1) if audio else None,
        alpha_beside=re.search(r"(?im)^ +alpha_mode +: 1$", side_data) is not None,
    )


def _indented_block(lines: list[str], index: int) -> str:
    """The lines under stream line `index`, up to the next stream."""
    block = []
    for line in lines[index + 1 :]:
        if not line.startswith("    "):
            break
        block.append(line)
    return "\n".join(block)


def _frame_rate(line: str) -> float | None:
    for unit in ("fps", "tbr"):
        found = re.search(rf"(\d+(?:\.\d+)?)(k?) {unit}\b", line)
        if found:
            rate = float(found.group(1)) * (1000 if found.group(2) else 1)
            if 0 < rate <= 1000:
                return float(ff.frame_rate_fraction(rate))
    return None


def _duration(lines: list[str]) -> float | None:
    pattern = re.compile(r"  Duration: (\d+):(\d+):(\d+(?:\.\d+)?)")
    found = next((m for line in lines if (m := pattern.match(line))), None)
    return int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3]) if found else None


def _refusal(text: str, path: Path, what: str) -> str:
    """Why ffmpeg did not open a file, in a person's words."""
    with path.open("rb") as file:
        start = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(_PLAYLISTS):
        return f"{what} {path}: is a playlist, which is not followed; give the video file itself"
    if "moov atom not found" in text and "misdetection" not in text:
        return f"{what} {path}: its index is missing (cut off while written); copy it again"
    if start.startswith(_IMAGES) and b"AVI" not in start:
        return f"{what} {path}: the image is damaged or of an unknown kind; save it again as PNG"
    return f"{what} {path}: neither a video nor an image that can be read; convert it to MP4 or PNG"
