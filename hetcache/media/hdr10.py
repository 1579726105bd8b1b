"""What an HDR file says of its pictures as a whole: HDR10's static metadata, read from ffmpeg's words."""

from __future__ import annotations

import re
from dataclasses import dataclass

_PAIR = r"\(([\d.]+)[, ]+([\d.]+)\)"
_DISPLAY = re.compile(
    rf"Mastering display.*?has_primaries:1 has_luminance:1 r{_PAIR} g{_PAIR} b{_PAIR} wp{_PAIR} "
    r"min_luminance=([\d.]+), max_luminance=([\d.]+)",
    re.I,
)
_LIGHT = re.compile(r"Content light level.*?MaxCLL=(\d+), MaxFALL=(\d+)", re.I)
_DYNAMIC = {"Dolby Vision": re.compile(r"DOVI configuration|Dolby Vision", re.I), "HDR10+": re.compile(r"HDR10\+")}


@dataclass(frozen=True)
class StaticHdr:
    """`display` (SMPTE ST 2086): x, y of red, green, blue and white, then the least and the most cd/m2 of the display
    that the pictures were graded on. `light` (CTA-861.3): the brightest pixel and the brightest frame, cd/m2."""

    display: tuple[float, ...] | None = None
    light: tuple[int, int] | None = None

    @classmethod
    def of(cls, text: str) -> StaticHdr | None:
        """From what ffmpeg prints as side data; None if that says nothing."""
        display, light = _DISPLAY.search(text), _LIGHT.search(text)
        if display is None and light is None:
            return None
        return cls(
            None if display is None else tuple(float(number) for number in display.groups()),
            None if light is None else (int(light[1]), int(light[2])),
        )

    def x264_params(self) -> list[str]:
        """The parameters with which x264 writes it."""
        params = []
        if self.display is not None:
            *places, least, most = self.display
            red, green, blue, white = (
                "({},{})".format(*(round(50_000 * number) for number in places[at : at + 2])) for at in range(0, 8, 2)
            )
            light = f"({round(10_000 * most)},{round(10_000 * least)})"
            params.append(f"mastering-display=G{green}B{blue}R{red}WP{white}L{light}")
        if self.light is not None:
            params.append("cll={},{}".format(*self.light))
        return params

    def describe(self) -> str:
        """For a person."""
        parts = []
        if self.display is not None:
            parts.append(f"graded on a display of {self.display[-1]:g} cd/m2")
        if self.light is not None:
            parts.append("brightest pixel {} and frame {} cd/m2".format(*self.light))
        return ", ".join(parts)


def dynamic_hdr(text: str) -> str | None:
    """The kind of metadata that change from frame to frame, by what ffmpeg prints."""
    return next((name for name, pattern in _DYNAMIC.items() if pattern.search(text)), None)


def is_dolby_alone(text: str) -> bool:
    """Whether the colours are Dolby Vision's own (its profile 5), which no other player shows right."""
    return re.search(r"DOVI configuration record:.*compatibility id: 0\b", text) is not None
