"""One short clip stored as a video in every way, and how other tools see the result.

The clip: a ramp, three patches of known colours, and a corner that flashes white while the sound beeps.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from imageio_ffmpeg import get_ffmpeg_exe
from numpy.typing import NDArray
from PIL import Image
from video_files import ffmpeg

Build = Callable[[Path], Path]

NUM_FRAMES, HEIGHT, WIDTH, FPS = 12, 96, 128, 10
FLASH = 4
FLASH_S, FLASH_END_S = FLASH / FPS, (FLASH + 2) / FPS
PATCHES = {"red": (200, 40, 30), "green": (12, 220, 2), "blue": (50, 70, 210)}
SOUND_RATE = 48000


def clip(num_frames: int = NUM_FRAMES, height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.uint8]:
    """[T, H, W, 3] uint8."""
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    ramp = np.linspace(40, 160, width)[None, :] + np.linspace(0, 40, height)[:, None]
    for index in range(num_frames):
        frames[index] = (ramp + 2 * index)[..., None]
        for rows, columns, colour in patches(height, width):
            frames[index, rows, columns] = colour
        frames[index, : height // 6, : width // 6] = 255 if FLASH <= index < FLASH + 2 else 0
    return frames


def patches(height: int, width: int) -> list[tuple[slice, slice, tuple[int, int, int]]]:
    rows = slice(height // 2, height * 3 // 4)
    return [
        (rows, slice(width * (2 * place + 1) // 8, width * (2 * place + 2) // 8), colour)
        for place, colour in enumerate(PATCHES.values())
    ]


def sound(path: Path, seconds: float = NUM_FRAMES / FPS, rate: int = SOUND_RATE, channels: int = 1) -> Path:
    """A WAV that is silent but for a beep while the corner is white."""
    times = np.arange(round(seconds * rate)) / rate
    loud = (times >= FLASH_S) & (times < FLASH_END_S)
    wave = np.where(loud, 20000 * np.sin(2 * np.pi * 1000 * times), 0).astype("<i2")
    data = np.repeat(wave[:, None], channels, axis=1).tobytes()
    raw = path.with_suffix(".pcm")
    raw.write_bytes(data)
    ffmpeg("-f", "s16le", "-ar", rate, "-ac", channels, "-i", raw, path)
    return path


@dataclass(frozen=True)
class Clip:
    """How the clip is stored. `matrix` and `span` are what a player takes, `tags` what the file says of matrix,
    primaries and transfer. `picture` and `out` are ffmpeg's output options, `inputs` those before each input."""

    name: str
    picture: tuple[object, ...]
    pix_fmt: str = "yuv420p"
    matrix: str = "bt601"
    span: str = "tv"
    tags: tuple[str, str, str] | None = None
    sound: tuple[object, ...] | None = None
    channels: int = 1
    sound_rate: int = SOUND_RATE
    sound_s: float = NUM_FRAMES / FPS
    size: tuple[int, int] = (HEIGHT, WIDTH)
    num_frames: int = NUM_FRAMES
    rate: object = FPS
    late_picture_s: float = 0.0
    late_sound_s: float = 0.0
    filters: str = ""
    out: tuple[object, ...] = ()

    def build(self, folder: Path) -> Path:
        """Write the file into `folder`."""
        raw, path = folder / "clip.rgb", folder / self.name
        raw.write_bytes(clip(self.num_frames, *self.size).tobytes())
        height, width = self.size
        args: list[object] = ["-itsoffset", self.late_picture_s] if self.late_picture_s else []
        args += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", self.rate, "-i", raw]
        if self.sound is not None:
            args += ["-itsoffset", self.late_sound_s] if self.late_sound_s else []
            args += ["-i", sound(folder / "clip.wav", self.sound_s, self.sound_rate, self.channels)]
        convert = f"scale=out_color_matrix={self.matrix}:out_range={self.span}:flags=accurate_rnd+full_chroma_int"
        matrix, primaries, transfer = self.tags or ("unknown", "unknown", "unknown")
        marks = f"setparams=colorspace={matrix}:color_primaries={primaries}:color_trc={transfer}"
        filters = [f"{convert},format={self.pix_fmt}", marks] if self.pix_fmt.startswith("yuv") else []
        filters += [self.filters] if self.filters else []
        args += ["-vf", ",".join(filters)] if filters else []
        args += self.picture if self.pix_fmt == "" else ("-pix_fmt", self.pix_fmt, *self.picture)
        ffmpeg(*args, *(self.sound or ()), *self.out, path)
        raw.unlink()
        return path


def remuxed(clip_of: Clip, name: str, *args: object, before: tuple[object, ...] = ()) -> Build:
    """A build: the clip, then copied into `name` with ffmpeg's options."""

    def build(folder: Path) -> Path:
        ffmpeg(*before, "-i", clip_of.build(folder), "-c", "copy", *args, folder / name)
        return folder / name

    return build


def images(folder: Path) -> Path:
    (folder / "frames").mkdir()
    for index, frame in enumerate(clip()):
        Image.fromarray(frame).save(folder / "frames" / f"{index + 5}.png")
    return folder / "frames"


def run(*args: object) -> tuple[bytes, str]:
    """ffmpeg's standard output and log."""
    command = [get_ffmpeg_exe(), "-hide_banner", "-nostdin", *map(str, args)]
    done = subprocess.run(command, capture_output=True, timeout=120)
    return done.stdout, done.stderr.decode("utf-8", "replace")


def stream_line(path: Path, kind: str = "Video") -> str:
    """What ffmpeg prints about the first stream of a kind."""
    return next(line for line in run("-i", path)[1].splitlines() if "Stream #" in line and f": {kind}: " in line)


def player_matrix(path: Path, height: int, width: int) -> str:
    """The matrix that a player takes for a file: its tag, else by its size."""
    found = re.search(r"\((?:pc|tv)(?:, ([\w-]+))?", stream_line(path))
    matrix = (found and found.group(1) or "unknown").split("/")[0]
    if matrix in ("unknown", "progressive", "top", "bottom"):
        return "bt709" if height >= 720 or width >= 1280 else "bt601"
    return {"smpte170m": "bt601", "bt470bg": "bt601", "bt2020nc": "bt2020"}.get(matrix, matrix)


def shown(path: Path, matrix: str, size: tuple[int, int], before: tuple[object, ...] = ()) -> NDArray[np.uint8]:
    """[T, H, W, 3] uint8: every frame as a player shows it that takes this matrix ("" for RGB)."""
    taken = f"in_color_matrix={matrix}:" if matrix else ""
    convert = f"scale={taken}flags=accurate_rnd+full_chroma_int+full_chroma_inp,format=rgb24"
    args = ["-map", "0:V:0", "-fps_mode", "passthrough", "-vf", convert, "-f", "rawvideo", "-"]
    data, _ = run("-loglevel", "error", *before, "-i", path, *args)
    return np.frombuffer(data, np.uint8).reshape(-1, *size, 3)


def picture_times(path: Path) -> list[float]:
    """When each frame is shown, in seconds, and when the last one ends."""
    _, log = run(
        "-copyts", "-i", path, "-map", "0:V:0", "-fps_mode", "passthrough", "-vf", "showinfo", "-f", "null", "-"
    )
    found = re.findall(r"n: *\d+ pts: *-?\d+ pts_time:(\S+) +duration: *\S+ duration_time:(\S+)", log)
    times = [float(time) for time, _ in found]
    return [*times, times[-1] + float(found[-1][1])]


def beep(path: Path) -> tuple[float, int]:
    """(when the beep begins, on the clock of picture_times(); number of samples a channel)."""
    args = ["-map", "0:a:0", "-af", "ashowinfo", "-f", "s16le", "-c:a", "pcm_s16le", "-"]
    data, log = run("-copyts", "-i", path, *args)
    line = stream_line(path, "Audio")
    rate = int(re.search(r"(\d+) Hz", line).group(1))
    first = re.search(r"pts_time:(\S+) .*? channels:(\d+)", log) or re.search(r"pts_time:(\S+).*?chlayout:(\w+)", log)
    samples = sum(map(int, re.findall(r"nb_samples:(\d+)", log)))
    wave = np.frombuffer(data, "<i2").reshape(samples, -1)
    onset = int(np.argmax(np.abs(wave.astype(int)).max(axis=1) > 6000))
    return float(first.group(1)) + onset / rate, samples
