"""Raw pictures with time stamps for ffmpeg's standard input: a Matroska stream without an end.

A bare pipe of pictures has one rate. This is the smallest container that carries a time for each of them: one cluster
with one block per picture, see RFC 9559.
"""

from __future__ import annotations

from fractions import Fraction

TICK_S = Fraction(1, 1_000_000)
"""Times are written in microseconds."""

# What ffmpeg's rawvideo decoder takes for each pixel format, the colour space of an uncompressed track.
_FOURCC = {
    "yuv420p": b"I420",
    "yuv422p": b"Y42B",
    "yuv444p": b"444P",
    "yuv420p10le": b"Y3\x0b\x0a",
    "yuv422p10le": b"Y3\x0a\x0a",
    "yuv444p10le": b"Y3\x00\x0a",
    "gbrp": b"G3\x00\x08",
}


def stream_header(width: int, height: int, pix_fmt: str, rate: Fraction) -> bytes:
    """What goes before the first picture; `rate` is the mean one. Raises KeyError for a pixel format without a name
    here."""
    ebml = _element(
        "1a45dfa3",
        _element("4286", b"\1")
        + _element("42f7", b"\1")
        + _element("42f2", b"\4")
        + _element("42f3", b"\x08")
        + _element("4282", b"matroska")
        + _element("4287", b"\4")
        + _element("4285", b"\2"),
    )
    info = _element("1549a966", _element("2ad7b1", _number(int(TICK_S * 1_000_000_000))))
    video = _element("b0", _number(width)) + _element("ba", _number(height)) + _element("2eb524", _FOURCC[pix_fmt])
    track = _element("d7", b"\1") + _element("73c5", b"\1") + _element("83", b"\1") + _element("9c", b"\0")
    track += _element("23e383", _number(round(1_000_000_000 / rate)))
    track += _element("86", b"V_UNCOMPRESSED") + _element("e0", video)
    unknown_size = b"\x01" + b"\xff" * 7
    return ebml + bytes.fromhex("18538067") + unknown_size + info + _element("1654ae6b", _element("ae", track))


def picture(data: bytes, time: int, duration: int) -> bytes:
    """One picture's cluster; `time`, not negative, and `duration` in TICK_S."""
    block = _element("a1", b"\x81\0\0\0" + data) + _element("9b", _number(duration))
    return _element("1f43b675", _element("e7", _number(time)) + _element("a0", block))


def _number(value: int) -> bytes:
    return value.to_bytes(max(1, (value.bit_length() + 7) // 8), "big")


def _element(identifier: str, data: bytes) -> bytes:
    return bytes.fromhex(identifier) + (len(data) | 1 << 56).to_bytes(8, "big") + data
