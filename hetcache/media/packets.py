"""What a video file really holds, from its packets: read to the end, none decoded."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from hetcache.media import ffmpeg as ff

# What demuxers say when a file ends before they expect.
_CUT_OFF = re.compile(r"partial file|Truncat|File ended prematurely|premature|Packet corrupt|moov atom not found", re.I)


@dataclass(eq=False)
class StreamEnds:
    """Packets of one stream; times in seconds on the file's clock, None where no packet carries one."""

    num_packets: int = 0
    first_s: Fraction | None = None
    last_s: Fraction | None = None
    end_s: Fraction | None = None

    def add(self, time: Fraction, duration: Fraction) -> None:
        self.first_s = time if self.first_s is None else min(self.first_s, time)
        self.last_s = time if self.last_s is None else max(self.last_s, time)
        self.end_s = time + duration if self.end_s is None else max(self.end_s, time + duration)


@dataclass(frozen=True)
class Packets:
    """`cut_off`: reading ended with a complaint that the file is shorter than it says."""

    video: StreamEnds
    audio: StreamEnds
    cut_off: bool

    @property
    def duration_s(self) -> float:
        """From the first picture or sound to the end of the last."""
        streams = [s for s in (self.video, self.audio) if s.first_s is not None and s.end_s is not None]
        if not streams:
            return 0.0
        starts, ends = ([getattr(s, key) for s in streams] for key in ("first_s", "end_s"))
        return float(max(ends) - max(min(starts), Fraction(0)) if min(starts) < 0 else max(ends) - min(starts))

    @property
    def mean_rate(self) -> Fraction | None:
        """Pictures a second, from the time between the first and the last."""
        video = self.video
        if video.first_s is None or video.last_s is None or video.last_s <= video.first_s:
            return None
        return (video.num_packets - 1) / (video.last_s - video.first_s)


def read_packets(path: Path) -> Packets:
    """Read a file once, from its start to its end."""
    args = [*ff.base_args(), "-copyts", *ff.input_args(path), "-map", "0:V:0", "-map", "0:a:0?", "-c", "copy"]
    args += ["-copyinkf", "-f", "framecrc", "-"]
    with ff.spawn(args, feed=False) as (process, log):
        assert process.stdout is not None
        streams = _sum(line.decode("ascii", "replace") for line in process.stdout)
        process.wait()
        return Packets(*streams, _CUT_OFF.search(ff.read_log(log)) is not None)


def _sum(lines: Iterable[str]) -> tuple[StreamEnds, StreamEnds]:
    bases: dict[str, Fraction] = {}
    streams = {"0": StreamEnds(), "1": StreamEnds()}
    for line in lines:
        base = re.match(r"#tb (\d+): (\d+)/(\d+)", line)
        if base:
            bases[base[1]] = Fraction(int(base[2]), int(base[3]) or 1)
        # stream, decoding time, presentation time, duration, size, checksum ...
        packet = re.match(r"([01]),\s*(-?\d+|NOPTS),\s*(-?\d+|NOPTS),\s*(\d+),", line)
        if packet is None or packet[1] not in bases:
            continue
        stream, times = streams[packet[1]], [packet[3], packet[2]]
        stream.num_packets += 1
        known = [int(time) for time in times if time != "NOPTS" and abs(int(time)) < 1 << 62]
        if known:
            stream.add(known[0] * bases[packet[1]], int(packet[4]) * bases[packet[1]])
    return streams["0"], streams["1"]
