"""The source's sound beside the edited pictures."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from hetcache.media import ffmpeg as ff

# Sound that MP4 players know: copied as it is. Anything else becomes AAC.
_COPIED = ("aac", "mp3", "ac3", "eac3", "alac")


@dataclass(frozen=True)
class Sound:
    """The first sound stream of `path`, of kind `codec`. `opening` is how ffmpeg is told what lies at time 0."""

    path: Path
    codec: str
    opening: tuple[str, ...]

    @classmethod
    def from_start(cls, path: Path, codec: str, start_s: float) -> Sound:
        """Time 0 is `start_s` after the file's start."""
        return cls(path, codec, ("-ss", f"{start_s:.6f}"))

    @classmethod
    def on_clock(cls, path: Path, codec: str, zero_s: Fraction) -> Sound:
        """Time 0 is `zero_s` on the file's clock."""
        return cls(path, codec, ("-copyts", "-itsoffset", f"{float(-zero_s):.6f}"))

    @property
    def input_args(self) -> list[str]:
        return [*self.opening, *ff.input_args(self.path)]

    @property
    def encoder_args(self) -> list[str]:
        return ["-c:a", "copy"] if self.codec in _COPIED else ["-c:a", "aac", "-b:a", "192k"]


def add_sound(silent: Path, target: Path, sound: Sound, end_s: float) -> str | None:
    """Write `silent` with the sound up to `end_s` to `target`; returns why that failed, if it did."""
    args = [*ff.base_args(), "-y", *ff.input_args(silent), *sound.input_args, "-map", "0:v:0", "-map", "1:a:0"]
    args += ["-c:v", "copy", *sound.encoder_args, "-t", f"{end_s:.6f}", "-map_metadata", "-1", *bitexact()]
    args += ["-f", "mp4", "-movflags", "+faststart", f"file:{target.absolute()}"]
    status, log = ff.run_quiet(args)
    return None if status == 0 else ff.reason(log)


def sound_fault(sound: Sound, end_s: float) -> str | None:
    """What is wrong with the sound itself: the reason when it cannot even be written to nowhere."""
    # The MP4 muxer does this by itself, but too late for an output that it cannot rewind.
    unpacked = ["-bsf:a", "aac_adtstoasc"] if sound.codec == "aac" else []
    args = [*ff.base_args(), *sound.input_args, "-map", "0:a:0", *sound.encoder_args, "-t", f"{end_s:.6f}", *unpacked]
    status, log = ff.run_quiet([*args, "-f", "mp4", "-movflags", "+delay_moov", "-"])
    return None if status == 0 else ff.reason(log)


def bitexact() -> list[str]:
    return ["-fflags", "+bitexact", "-flags:v", "+bitexact", "-flags:a", "+bitexact"]
