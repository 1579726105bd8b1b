"""A dozen kinds of files through our reader and writer with an empty mask, judged by other tools: same colours, same
tags, same duration, picture and sound in step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from deliveries import delivered
from other_tools import beeps, flashes, rgb, stream, tags, times, tool
from video_files import ffmpeg

SIZE = (120, 160)
CHART = (
    "smptebars=s={w}x{h}:r={rate}:d=2,"
    "drawbox=x=0:y=0:w=24:h=24:t=fill:color=black,"
    "drawbox=x=0:y=0:w=24:h=24:t=fill:color=white:enable='between(mod(t,1),0.5,0.58)'"
)
BEEPS = "aevalsrc='sin(6283*t)*between(mod(t,1),0.5,0.58)':s=48000:d=2"
H264 = ["-c:v", "libx264", "-crf", "4", "-preset", "veryfast"]
AAC = ["-c:a", "aac"]


@dataclass(frozen=True)
class Kind:
    """A file of the chart: how it is made, and what a player that does right takes for its matrix and range. `tags` are
    what ffprobe must say of the output: the source's, and what had to be assumed."""

    name: str
    args: list[str]
    matrix: str
    tags: tuple[str, str, str, str]
    to: str = "format=yuv420p"
    size: tuple[int, int] = SIZE
    rate: str = "25"
    extra: str = "null"
    untagged: bool = False

    @property
    def said(self) -> tuple[str, ...]:
        """The tags that the file itself carries."""
        return () if self.untagged else self.tags[:3]

    def make(self, folder: Path) -> Path:
        path = folder / self.name
        height, width = self.size
        span = "pc" if self.tags[3] == "pc" else "tv"
        convert = f"scale=out_color_matrix={self.matrix}:out_range={span}:flags=accurate_rnd"
        matrix, primaries, transfer = (tag if tag in self.said else "unknown" for tag in self.tags[:3])
        marks = f"setparams=range={span}:colorspace={matrix}:color_primaries={primaries}:color_trc={transfer}"
        chart = f"{CHART.format(w=width, h=height, rate=self.rate)},format=gbrp,{convert},{self.to}"
        inputs = ["-f", "lavfi", "-i", chart, "-f", "lavfi", "-i", BEEPS]
        ffmpeg(*inputs, "-vf", f"{self.extra},{marks}", "-fps_mode", "passthrough", "-shortest", *self.args, path)
        return path


BT709 = ("bt709", "bt709", "bt709", "tv")
SD = ("smpte170m", "unknown", "unknown", "tv")
KINDS = [
    Kind(
        "hd_untagged.mp4",
        [*H264, *AAC],
        "bt709",
        ("bt709", "unknown", "unknown", "tv"),
        size=(720, 1280),
        rate="15",
        untagged=True,
    ),
    Kind("sd_untagged.mp4", [*H264, *AAC], "bt601", SD, untagged=True),
    Kind("sd_tagged_709.mp4", [*H264, *AAC], "bt709", BT709),
    Kind(
        "full_range.mp4",
        [*H264, *AAC],
        "bt709",
        ("bt709", "bt709", "bt709", "pc"),
        to="format=yuvj420p",
    ),
    Kind(
        "pal_601.mp4",
        [*H264, *AAC],
        "bt470bg",
        ("bt470bg", "bt470bg", "smpte170m", "tv"),
    ),
    Kind(
        "bt2020_10bit.mkv",
        [*H264, *AAC],
        "bt2020",
        ("bt2020nc", "bt2020", "bt2020-10", "tv"),
        to="format=yuv420p10le",
    ),
    Kind(
        "pq_10bit.mp4",
        [*H264, *AAC],
        "bt2020",
        ("bt2020nc", "bt2020", "smpte2084", "tv"),
        to="format=yuv420p10le",
    ),
    Kind(
        "prores_422.mov",
        ["-c:v", "prores_ks", "-c:a", "pcm_s16le"],
        "bt709",
        BT709,
        to="format=yuv422p10le",
    ),
    Kind("444.mkv", [*H264, "-c:a", "flac"], "bt709", BT709, to="format=yuv444p"),
    Kind(
        "vp9.webm",
        ["-c:v", "libvpx-vp9", "-crf", "8", "-b:v", "0", "-cpu-used", "8"],
        "bt709",
        BT709,
        rate="30000/1001",
    ),
    Kind(
        "interlaced.ts",
        ["-c:v", "mpeg2video", "-q:v", "1", "-flags", "+ildct+ilme", "-c:a", "mp2"],
        "smpte170m",
        ("smpte170m", "smpte170m", "smpte170m", "tv"),
        rate="30000/1001",
        extra="setfield=tff",
    ),
    Kind(
        "live.webm",
        ["-c:v", "libvpx-vp9", "-crf", "8", "-b:v", "0", "-cpu-used", "8", "-live", "1"],
        "bt709",
        BT709,
        rate="100",
        extra="select='not(mod(n,3))+eq(mod(n,21),7)'",
    ),
    Kind(
        "variable.mp4",
        [*H264, *AAC],
        "bt709",
        BT709,
        rate="60",
        extra="select='lt(t,0.4)+not(mod(n,5))'",
    ),
    Kind(
        "late_picture.mp4",
        [*H264, *AAC],
        "bt709",
        BT709,
        extra="select='gte(t,0.3)'",
    ),
    Kind("odd_rate.mp4", [*H264, *AAC], "bt709", BT709, rate="15000/1001"),
    Kind(
        "mjpeg.avi",
        ["-c:v", "mjpeg", "-q:v", "1", "-c:a", "pcm_s16le"],
        "bt601",
        ("bt470bg", "unknown", "unknown", "pc"),
        to="format=yuvj422p",
        untagged=True,
    ),
]


@pytest.mark.parametrize("program", ["imageio-ffmpeg's", "the system's"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_round_trip(tmp_path: Path, kind: Kind, program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    video = kind.make(tmp_path)
    if program == "the system's":
        # Another version: which flags set the tags differs between them.
        monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", tool("ffmpeg"))
    out = delivered(video)
    assert tags(out) == kind.tags
    said = tags(video)
    assert all(new == old for new, old in zip(tags(out), said, strict=True) if old != "unknown")
    span = kind.tags[3]
    chart, copy = (rgb(path, kind.matrix, span, kind.size, 3).astype(int) for path in (video, out))
    # Away from edges between colours, where the codecs ring.
    patches = [(0.5, (k + 0.5) / 7) for k in range(7)]
    for row, column in patches:
        y, x = int(row * kind.size[0]), int(column * kind.size[1])
        area = np.s_[:, y - 2 : y + 3, x - 2 : x + 3]
        assert np.abs(chart[area].mean((0, 1, 2)) - copy[area].mean((0, 1, 2))).max() <= 2
    shown, kept = times(video), times(out)
    assert len(kept) == len(shown)
    # What comes first begins at 0; the steps between the frames are the source's, rounded as its container does.
    assert np.ptp(np.array(kept) - np.array(shown)) < 0.002
    frame_s = max(np.diff(shown))
    assert abs((kept[-1] - kept[0]) - (shown[-1] - shown[0])) <= 0.002
    assert abs(float(stream(out)["duration"]) - (shown[-1] - shown[0] + frame_s)) <= 1.01 * frame_s
    seen, heard = flashes(out, kind.size), beeps(out)
    assert len(seen) == len(flashes(video, kind.size)) >= 1 and len(heard) == 2
    before = [s - h for s, h in zip(flashes(video, kind.size), beeps(video)[-len(seen) :], strict=True)]
    after = [s - h for s, h in zip(seen, heard[-len(seen) :], strict=True)]
    assert np.abs(np.array(after) - np.array(before)).max() < 0.02
    assert stream(out).get("field_order") == ("tt" if "interlaced" in kind.name else "progressive")
    assert stream(out)["sample_aspect_ratio"] == "1:1"


def test_the_made_files_differ_in_what_they_are_named_for(tmp_path: Path) -> None:
    made = {kind.name: kind.make(tmp_path) for kind in KINDS}
    assert tags(made["hd_untagged.mp4"])[0] == "unknown"
    assert stream(made["444.mkv"])["pix_fmt"] == "yuv444p"
    assert np.ptp(np.diff(times(made["variable.mp4"]))) > 0.05
    assert float(stream(made["late_picture.mp4"])["start_time"]) > 0.25
