"""What a media file holds, read from what ffmpeg prints about it and its first frame: imageio-ffmpeg brings no ffprobe.

The program that decodes the frames is the one that is asked, so that there is one truth about them.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal

from hetcache.media import ffmpeg as ff
from hetcache.media.ffmpeg import VideoError
from hetcache.media.hdr10 import StaticHdr, dynamic_hdr, is_dolby_alone

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


# What stands in brackets behind a pixel format: `(tv, bt709, top coded first (swapped))`.
_DETAILS = r"\((?:[^()]|\([^()]*\))*\)"

Fields = Literal["progressive", "top", "bottom", "unknown"]
Tags = tuple[str, str, str, str]
UNTAGGED: Tags = ("unknown", "unknown", "unknown", "unknown")


@dataclass(frozen=True)
class StreamHeader:
    """What ffmpeg says about one media file; `width` and `height` are after rotation. `tags` are its colour's (matrix,
    primaries, transfer, range). `start_s` and `audio_start_s` are the times of the first frame and the first sample
    that is heard, on the file's own clock; they and `rate` are exact, and None where nothing can be decoded."""

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
    tags: Tags = UNTAGGED
    fields: Fields = "unknown"
    rate: Fraction | None = None
    start_s: Fraction | None = None
    audio_start_s: Fraction | None = None
    has_average_rate: bool = True
    static_hdr: StaticHdr | None = None
    dynamic_hdr: str | None = None


def read_header(path: Path, what: str = "video") -> StreamHeader:
    """Describe the first real video stream of a file; VideoError when there is none. Decodes one picture."""
    ff.check_regular_file(path, what)
    picture = ["-map", "0:V:0", "-vf", "showinfo=checksum=0", "-fps_mode", "passthrough", "-frames:v", "1"]
    header = parse_header(_ask(path, what, picture), path, what)
    if header.audio_codec is None:
        return header
    # Not both at once: ffmpeg writes of picture and sound from two threads, and words of one get into the other's.
    sound = _ask(path, what, ["-map", "0:a:0", "-af", "ashowinfo", "-frames:a", "1"]).splitlines()
    first = _first(r"^\[Parsed_ashowinfo.*\] n:\s*0 pts:\s*-?\d+ pts_time:(-?[\d.]+)", sound)
    return replace(header, audio_start_s=Fraction(first[1]) if first else None)


def _ask(path: Path, what: str, asked: list[str]) -> str:
    args = [*ff.base_args("info"), "-nostats", "-max_pixels", str(ff.MAX_SIDE**2), "-copyts", *ff.input_args(path)]
    args += asked
    try:
        _, text = ff.run_quiet([*args, "-f", "null", "-"], PROBE_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise VideoError(f"{what} {path}: no stream found in {PROBE_TIMEOUT_S} s; re-encode it") from None
    return text


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
    picture = re.search(rf", (\w+)(?:{_DETAILS})?, (\d{{1,9}})x(\d{{1,9}})(?=[\s,\[]|$)", line)
    codec = re.search(r": Video: (\w+)", line)
    if picture is None or codec is None:
        raise VideoError(f"{what} {path}: has no readable picture size; damaged, or an unknown codec")
    side_data = _indented_block(lines, index)
    if is_dolby_alone(side_data):
        raise VideoError(
            f"{what} {path}: its colours are Dolby Vision's own (profile 5) and cannot be converted; export it as HDR10"
        )
    rotation = re.search(r"rotation of (-?\d+(?:\.\d+)?) degrees", side_data)
    rotation_deg = round(float(rotation.group(1))) % 360 if rotation else 0
    width, height = int(picture.group(2)), int(picture.group(3))
    found = re.search(r"SAR (\d{1,9}):(\d{1,9})", line)
    aspect = (int(found.group(1)), int(found.group(2))) if found else (1, 1)
    if rotation_deg in (90, 270):
        width, height = height, width
        aspect = (aspect[1], aspect[0])
    ff.check_size(width, height, path, what)
    header = StreamHeader(
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
        tags=_line_tags(line),
        fields=_line_fields(line),
        has_average_rate=re.search(r"\d k?fps\b", line) is not None,
    )
    return _with_first_frame(header, lines, index)


def _with_first_frame(header: StreamHeader, lines: list[str], index: int) -> StreamHeader:
    """The header with what decoding says, which goes before what the container says at line `index`."""
    shown = [line for line in lines if re.match(r"\[(Parsed_)?showinfo", line)]
    config = _first(r"config in time_base: (\d+)/(\d+), frame_rate: (\d+)/(\d+)", shown)
    frame = _first(r"\] n:\s*0 pts:\s*(-?\d+|NOPTS) .* fmt:(\w+) .* i:([PTB]) ", shown)
    if config is None or frame is None:
        return header
    rate = Fraction(int(config[3]), int(config[4]) or 1)
    base = Fraction(int(config[1]), int(config[2]) or 1)
    colour = _first(r"color_range:(\S+) color_space:(\S+) color_primaries:(\S+) color_trc:(\S+)", shown)
    tags = (colour[2], colour[3], colour[4], colour[1]) if colour else UNTAGGED

    def one(index: int) -> str:
        return tags[index] if tags[index] not in ("unknown", "reserved") else header.tags[index]

    # Of the first frame, and of the stream, which older versions of ffmpeg do not give to its frames.
    side_data = [line for line in shown if "side data" in line]
    side_data += _indented_block(lines, index).partition("Side data:")[2].splitlines()
    fields: dict[str, Fields] = {"P": "progressive", "T": "top", "B": "bottom"}
    return replace(
        header,
        tags=(one(0), one(1), one(2), one(3)),
        # Players go by the frames' marks; those of a mixed stream begin progressive.
        fields=header.fields if frame[3] == "P" and header.fields != "unknown" else fields[frame[3]],
        # The alpha of HEVC shows in the frames alone, and only newer versions of ffmpeg decode it.
        pix_fmt=frame[2],
        rate=rate if 0 < rate <= 1000 else None,
        start_s=None if frame[1] == "NOPTS" else int(frame[1]) * base,
        static_hdr=StaticHdr.of("\n".join(side_data)),
        dynamic_hdr=dynamic_hdr("\n".join(side_data)),
    )


def _first(pattern: str, lines: list[str]) -> re.Match[str] | None:
    return next((found for line in lines if (found := re.search(pattern, line))), None)


def _line_tags(line: str) -> Tags:
    """(matrix, primaries, transfer, range) of a stream's line: `(tv, bt709/bt2020/smpte2084, top first)`."""
    inner = re.search(rf", \w+({_DETAILS})", line.partition(": Video: ")[2])
    words = [] if inner is None else [word.strip() for word in inner[1][1:-1].split(",")]
    span = next((word for word in words if word in ("tv", "pc")), "unknown")
    others = [w for w in words if w not in ("tv", "pc", "progressive") and " first" not in w and " bpc" not in w]
    parts = others[0].split("/") if others else []
    if len(parts) == 1 and re.fullmatch(r"[\w-]+", parts[0]):
        parts = parts * 3
    return (parts[0], parts[1], parts[2], span) if len(parts) == 3 else ("unknown", "unknown", "unknown", span)


def _line_fields(line: str) -> Fields:
    if "progressive" in line:
        return "progressive"
    return "top" if "top first" in line or "top coded first" in line else "bottom" if " first" in line else "unknown"


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
