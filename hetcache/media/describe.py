"""A source's record in a person's words: for `--probe` and for the plan before a run."""

from __future__ import annotations

from fractions import Fraction

from hetcache.media.probe import VideoInfo, truncation
from hetcache.media.timeline import Timeline

Rows = list[tuple[str, str]]


def picture_text(info: VideoInfo) -> str:
    """Codec, pixel format, fields and shape."""
    if info.kind == "image":
        return f"a still image of {info.width}x{info.height}"
    if info.kind == "folder":
        return f"{info.num_frames} images of {info.width}x{info.height}"
    pixels = info.pixels
    parts = [f"{info.codec} {info.pix_fmt} ({pixels.bits} bit{', with transparency' if pixels.alpha else ''})"]
    parts.append("progressive" if not info.interlaced else f"interlaced, {info.fields} field first")
    if info.pixel_aspect != (1, 1):
        parts.append("pixels {}:{}".format(*info.pixel_aspect))
    if info.rotation_deg:
        parts.append(f"turned by {info.rotation_deg} degrees")
    return ", ".join(parts)


def rate_text(info: VideoInfo, timeline: Timeline) -> str:
    """Frames a second, exactly, and whether they are even."""
    if timeline.rate is not None:
        return f"{_number(timeline.rate)} frames a second" + ("" if info.kind == "video" else " (images have no rate)")
    return f"variable, {float(timeline.mean_rate):.5g} frames a second on average; each frame's own time is kept"


def offset_text(info: VideoInfo) -> str | None:
    """How far apart picture and sound begin, where it is more than one frame's rounding."""
    if info.audio_start_s is None or abs(info.start_s - info.audio_start_s) < Fraction(1, 200):
        return None
    gap_s = float(info.start_s - info.audio_start_s)
    return f"the picture begins {abs(gap_s):.3f} s {'after' if gap_s > 0 else 'before'} the sound; kept so"


def source_rows(info: VideoInfo, timeline: Timeline) -> Rows:
    """The rows of a plan: what the source is, and a warning if it is cut off."""
    text = f"{picture_text(info)}, {rate_text(info, timeline)}"
    if info.kind == "video":
        text += f", {info.colour.describe()}"
    rows = [("source", text)]
    offset, cut = offset_text(info), truncation(info)
    rows += [("sound", offset)] if offset else []
    return rows + ([("warning", cut)] if cut else [])


def probe_rows(info: VideoInfo, timeline: Timeline) -> Rows:
    """Everything, for `--probe`."""
    rows = [("file", str(info.path)), ("size", f"{info.width}x{info.height}"), ("picture", picture_text(info))]
    rows.append(("rate", rate_text(info, timeline)))
    rows.append(("frames", str(len(timeline.times_s))))
    if info.kind != "video":
        return rows
    hdr = None if info.static_hdr is None else info.static_hdr.describe()
    rows.append(("colour", ", ".join(filter(None, [info.colour.describe(), hdr, info.dynamic_hdr]))))
    sound = "none" if info.audio_codec is None else info.audio_codec
    rows.append(("sound", ", ".join(filter(None, [sound, offset_text(info)]))))
    if timeline.times_s:
        rows.append(("time", f"from {float(timeline.times_s[0]):.6g} s to {float(timeline.end_s):.6g} s"))
    promised = "nothing" if info.duration_s is None else f"{info.duration_s:.2f} s"
    found = "" if info.packets is None else f", found {info.packets.duration_s:.2f} s"
    rows.append(("duration", f"promised {promised}{found}"))
    cut = truncation(info)
    return rows + ([("warning", cut)] if cut else [])


def _number(rate: Fraction) -> str:
    return str(rate) if rate.denominator == 1 else f"{rate} ({float(rate):.6g})"
