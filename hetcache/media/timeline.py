"""When each frame of a video is shown."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from hetcache.media import ffmpeg as ff
from hetcache.media.probe import VideoInfo

# Containers round times to their clock: Matroska's has milliseconds.
_ROUNDING_S = Fraction(1, 1000)


@dataclass(frozen=True)
class Timeline:
    """`times_s` of N frames on the file's clock and the `end_s` of the last. `rate`: they are that many a second,
    evenly, up to the rounding of the file's clock; None for a variable rate. `tick_s` is that clock's."""

    times_s: tuple[Fraction, ...]
    end_s: Fraction
    rate: Fraction | None
    tick_s: Fraction

    @classmethod
    def even(cls, num_frames: int, rate: Fraction, start_s: Fraction = Fraction(0)) -> Timeline:
        return cls(tuple(start_s + k / rate for k in range(num_frames)), start_s + num_frames / rate, rate, 1 / rate)

    @property
    def duration_s(self) -> Fraction:
        return self.end_s - self.times_s[0]

    @property
    def mean_rate(self) -> Fraction:
        """Frames a second."""
        return self.rate or len(self.times_s) / self.duration_s

    def facts(self) -> dict[str, bool | float | None]:
        """For a record."""
        mean = round(float(self.mean_rate), 6) if self.times_s else None
        return {"variable_rate": self.rate is None, "mean_rate": mean}

    def shifted(self, by_s: Fraction) -> Timeline:
        return Timeline(tuple(t + by_s for t in self.times_s), self.end_s + by_s, self.rate, self.tick_s)


def read_timeline(info: VideoInfo, count: int | None = None) -> Timeline:
    """The times of the first `count` frames (all, if None) as iter_frames() gives them; decodes them.

    Frames without times, or whose times go backwards, are spaced evenly by the source's rate. Fewer frames than asked
    for, down to none, are no error here.
    """
    if info.kind != "video":
        number = info.num_frames or 1
        return Timeline.even(number if count is None else min(count, number), info.rate)
    # One more than asked for ends the last.
    trim = "null" if count is None else f"trim=end_frame={count + 1}"
    args = [*ff.base_args("info"), "-nostats", "-max_pixels", str(ff.MAX_SIDE**2), "-copyts", *ff.input_args(info.path)]
    args += ["-map", "0:V:0", "-vf", f"{trim},showinfo=checksum=0", "-fps_mode", "passthrough", "-f", "null", "-"]
    with ff.spawn(args, feed=False) as (process, log):
        process.wait()
        log.seek(0)
        base, ticks, last = _ticks(line.decode("utf-8", "replace") for line in log)
    number = len(ticks) if count is None else min(count, len(ticks))
    times = [None if tick is None else tick * base for tick in ticks]
    known = [time for time in times if time is not None]
    if len(known) < len(times) or any(b <= a for a, b in zip(known, known[1:], strict=False)):
        return Timeline.even(number, info.rate, info.start_s)
    if number == 0:
        return Timeline((), info.start_s, info.rate, base)
    end_s = known[number] if len(known) > number else _end(info, known, last * base)
    rate = _even_rate(known[:number], end_s, info.rate, base)
    if rate is not None:
        end_s = known[0] + number / rate
    return Timeline(tuple(known[:number]), end_s, rate, base)


def _ticks(lines: Iterable[str]) -> tuple[Fraction, list[int | None], int]:
    """(seconds of one tick, each frame's time, the last one's duration or 0) from showinfo's lines."""
    base, last = Fraction(1), 0
    ticks: list[int | None] = []
    for line in lines:
        if not line.startswith("[Parsed_showinfo"):
            continue
        config = re.search(r"config in time_base: (\d+)/(\d+)", line)
        if config:
            base = Fraction(int(config[1]), int(config[2]) or 1)
        frame = re.search(r"\] n:\s*\d+ pts:\s*(-?\d+|NOPTS) ", line)
        if frame:
            ticks.append(None if frame[1] == "NOPTS" else int(frame[1]))
            length = re.search(r" duration:\s*(\d+) ", line)
            last = int(length[1]) if length else 0
    return base, ticks, last


def _end(info: VideoInfo, times: list[Fraction], last_s: Fraction) -> Fraction:
    """When the last frame of a file ends: by its packet, by its decoder, or after one mean frame."""
    end_s = info.packets.video.end_s if info.packets is not None else None
    if end_s is not None and times[-1] < end_s <= times[-1] + 10:
        return end_s
    if last_s > 0:
        return times[-1] + last_s
    mean_s = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 1 / info.rate
    return times[-1] + mean_s


def _even_rate(times: list[Fraction], end_s: Fraction, header: Fraction, tick_s: Fraction) -> Fraction | None:
    """The rate at which frames at these times are even, if there is one."""
    candidates = [header]
    if len(times) > 1:
        mean = (len(times) - 1) / (times[-1] - times[0])
        candidates.append(ff.frame_rate_fraction(float(mean)))
    for rate in candidates:
        slack_s = min(max(tick_s, _ROUNDING_S), 1 / rate / 4)
        if all(abs(time - times[0] - k / rate) <= slack_s for k, time in enumerate(times)):
            return rate
    return None
