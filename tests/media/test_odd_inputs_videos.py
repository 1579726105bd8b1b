"""Odd inputs, videos: one clip stored in every way and returned by a run whose mask is empty.

Colours, background, times, duration and sound of the result are judged by ffmpeg's filters against what was put in.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from odd_videos import (
    FLASH,
    FPS,
    HEIGHT,
    NUM_FRAMES,
    SOUND_RATE,
    WIDTH,
    Build,
    Clip,
    beep,
    images,
    patches,
    picture_times,
    player_matrix,
    remuxed,
    shown,
    stream_line,
)
from PIL import Image

import inference
from diffsynth_patches import loader

H264 = ("-c:v", "libx264", "-crf", 4, "-preset", "veryfast")
AAC = ("-c:a", "aac")
BT709 = ("bt709", "bt709", "bt709")
PLAIN = Clip("v.mp4", H264)
SOUND = replace(PLAIN, sound=AAC)


@dataclass(frozen=True)
class Odd:
    """`clip` says what is in the file, `build` how it is made if not by the clip alone. `colour_slack`: levels by which
    a patch may differ from what was put in, by the input's own coding. `samples`: of the sound, within two AAC
    frames. `decoder`: input options that other tools need for the source. `matrix` "" for RGB, which comes back with
    the chroma of 4:2:0 and a lower `background_db` (PSNR). `exact`: picture and sound stay together to 3 ms."""

    clip: Clip
    build: Build | None = None
    colour_slack: int = 7
    samples: int | None = None
    says: str = ""
    decoder: tuple[object, ...] = ()
    matrix: str | None = None
    background_db: float = 38
    exact: bool = True


def with_sound(codec: tuple[object, ...], name: str, rate: int = SOUND_RATE, channels: int = 1) -> Odd:
    clip = replace(SOUND, name=name, sound=codec, sound_rate=rate, channels=channels)
    return Odd(clip, samples=round(rate * NUM_FRAMES / FPS))


KINDS: dict[str, Odd] = {
    "sd without tags": Odd(PLAIN),
    "sd tagged bt709": Odd(replace(PLAIN, matrix="bt709", tags=BT709)),
    "sd tagged ntsc": Odd(replace(PLAIN, tags=("smpte170m", "smpte170m", "smpte170m"))),
    "sd tagged pal": Odd(replace(PLAIN, tags=("bt470bg", "bt470bg", "bt470bg"))),
    "hd without tags": Odd(replace(PLAIN, matrix="bt709", size=(720, 1280), num_frames=5)),
    "full range": Odd(replace(PLAIN, pix_fmt="yuvj420p", span="pc", matrix="bt709", tags=BT709)),
    "4:2:2": Odd(replace(PLAIN, pix_fmt="yuv422p")),
    "4:4:4": Odd(replace(PLAIN, pix_fmt="yuv444p")),
    "10 bit": Odd(replace(PLAIN, pix_fmt="yuv420p10le", matrix="bt709", tags=BT709), says="10 bit"),
    "odd sides": Odd(replace(PLAIN, pix_fmt="yuv444p", size=(95, 127))),
    "hevc": Odd(Clip("v.mp4", ("-c:v", "libx265", "-crf", 6, "-x265-params", "log-level=none"))),
    "hevc of 10 bit in mkv": Odd(
        Clip("v.mkv", ("-c:v", "libx265", "-crf", 6, "-x265-params", "log-level=none"), "yuv420p10le")
    ),
    "av1": Odd(Clip("v.mkv", ("-c:v", "libaom-av1", "-cpu-used", 8, "-crf", 6))),
    "vp9": Odd(Clip("v.webm", ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-crf", 4, "-b:v", 0))),
    "vp8": Odd(Clip("v.webm", ("-c:v", "libvpx", "-crf", 4, "-b:v", "4M"))),
    "mpeg4 in avi": Odd(Clip("v.avi", ("-c:v", "mpeg4", "-q:v", 2)), colour_slack=10),
    "mpeg2 in ts": Odd(Clip("v.ts", ("-c:v", "mpeg2video", "-q:v", 2), rate=25), colour_slack=10),
    "mpeg2, interlaced": Odd(
        Clip(
            "v.ts",
            ("-c:v", "mpeg2video", "-q:v", 2, "-flags", "+ilme+ildct"),
            rate=25,
            filters="setfield=tff",
        ),
        colour_slack=10,
        says="interlaced",
    ),
    "motion jpeg": Odd(Clip("v.avi", ("-c:v", "mjpeg", "-q:v", 2), "yuvj420p", span="pc"), colour_slack=10),
    "theora": Odd(Clip("v.ogv", ("-c:v", "libtheora", "-q:v", 10)), colour_slack=10),
    "wmv2": Odd(Clip("v.wmv", ("-c:v", "wmv2", "-q:v", 2)), colour_slack=10),
    "flash video": Odd(Clip("v.flv", ("-c:v", "flv1", "-q:v", 2)), colour_slack=10),
    "prores 4:2:2": Odd(Clip("v.mov", ("-c:v", "prores_ks"), "yuv422p10le", matrix="bt709", tags=BT709)),
    "ffv1 in rgb": Odd(Clip("v.mkv", ("-c:v", "ffv1"), "bgr0"), matrix="", background_db=32),
    "huffyuv": Odd(Clip("v.avi", ("-c:v", "huffyuv"), "yuv422p")),
    "y4m": Odd(Clip("v.y4m", ())),
    "apng": Odd(Clip("v.apng", ("-f", "apng"), "rgb24"), matrix="", background_db=32),
    "quicktime animation": Odd(Clip("v.mov", ("-c:v", "qtrle"), "rgb24"), matrix="", background_db=32),
    "rate 15000/1001": Odd(replace(PLAIN, rate="15000/1001")),
    "1000 ticks a second": Odd(Clip("v.mkv", H264, filters="setpts=PTS+0.012*mod(N\\,2)/TB", out=("-fps_mode", "vfr"))),
    "wide pixels": Odd(replace(PLAIN, filters="setsar=16/11")),
    "two pictures": Odd(PLAIN, remuxed(PLAIN, "two.mkv", "-map", 0, "-map", 0)),
}
STREAMS: dict[str, Odd] = {
    "aac": with_sound(AAC, "v.mp4"),
    "stereo mp3 in mkv": with_sound(("-c:a", "libmp3lame"), "v.mkv", 44100, 2),
    "opus in webm": replace(with_sound(("-c:a", "libopus"), "v.mkv"), samples=round(SOUND_RATE * NUM_FRAMES / FPS)),
    "pcm of 8 kHz in avi": with_sound(("-c:a", "pcm_s16le"), "v.avi", 8000),
    "flac": with_sound(("-c:a", "flac"), "v.mkv"),
    "5.1 ac3": with_sound(("-c:a", "ac3"), "v.mkv", SOUND_RATE, 6),
    "vorbis": with_sound(("-c:a", "libvorbis"), "v.mkv", 44100, 2),
    "theora and vorbis in ogg": Odd(
        Clip("v.ogv", ("-c:v", "libtheora", "-q:v", 10), sound=("-c:a", "libvorbis")), colour_slack=10, samples=57600
    ),
    "flash video with mp3": Odd(
        Clip("v.flv", ("-c:v", "flv1", "-q:v", 2), sound=("-c:a", "libmp3lame"), sound_rate=44100), colour_slack=10
    ),
    "wmv2 and wma": Odd(
        Clip("v.wmv", ("-c:v", "wmv2", "-q:v", 2), sound=("-c:a", "wmav2"), sound_rate=44100),
        colour_slack=10,
        samples=52920,
    ),
    "mp2 in ts": Odd(Clip("v.ts", ("-c:v", "mpeg2video", "-q:v", 2), rate=25, sound=("-c:a", "mp2")), colour_slack=10),
    "sound that goes on": Odd(replace(SOUND, sound_s=2.0), samples=round(SOUND_RATE * NUM_FRAMES / FPS)),
    "sound that ends early": Odd(replace(SOUND, sound_s=0.8), samples=round(SOUND_RATE * 0.8)),
    "picture that starts late": Odd(replace(SOUND, late_picture_s=0.537)),
    "picture that starts between two frames": Odd(
        replace(SOUND, name="v.mkv", late_picture_s=0.537, out=("-fps_mode", "passthrough", "-enc_time_base", "1:1000"))
    ),
    "sound that starts late": Odd(replace(SOUND, late_sound_s=0.317)),
    "late picture in mkv": Odd(replace(SOUND, name="v.mkv", late_picture_s=0.713)),
    "a clock that starts at 1.4 s": Odd(
        replace(SOUND, rate=25, picture=("-c:v", "mpeg2video", "-q:v", 2), name="v.ts"), colour_slack=10
    ),
    "variable rate": Odd(replace(SOUND, filters="setpts=(N+floor(N/3))/10/TB", out=("-fps_mode", "vfr"), sound_s=1.6)),
}
TABLE = {**{f"kind: {name}": odd for name, odd in KINDS.items()}, **{f"sound: {n}": o for n, o in STREAMS.items()}}


@pytest.fixture
def edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run `inference.py` on a video with an empty mask: (exit code, output, what was printed, errors)."""
    monkeypatch.setattr(loader, "load_pipeline", lambda *_: pytest.fail("the model was loaded"))

    def run(video: Path, size: tuple[int, int], *flags: str) -> tuple[int, Path, str, str]:
        blank, out = tmp_path / "blank.png", tmp_path / "result.mp4"
        Image.new("L", size[::-1]).save(blank)
        argv = ["--video", str(video), "--mask", str(blank), "--frames", "all", "--output", str(out), "--model", "tiny"]
        code = inference.main([*argv, *flags])
        said = capsys.readouterr()
        return code, out, said.out, said.err

    return run


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = float(((a.astype(float) - b.astype(float)) ** 2).mean())
    return 99.0 if error == 0 else 10 * np.log10(255**2 / error)


@pytest.mark.parametrize("name", TABLE)
def test_the_clip_comes_back(name: str, edit, tmp_path: Path) -> None:
    odd = TABLE[name]
    clip = odd.clip
    source = clip.build(tmp_path) if odd.build is None else odd.build(tmp_path)
    code, out, said, errors = edit(source, clip.size)
    assert code == 0, errors
    assert odd.says in said

    before = shown(source, clip.matrix if odd.matrix is None else odd.matrix, clip.size, odd.decoder)
    after = shown(out, player_matrix(out, *clip.size), clip.size)
    assert len(after) == len(before) == clip.num_frames
    assert psnr(before, after) > odd.background_db
    for rows, columns, colour in patches(*clip.size):
        inner = after[:, rows.start + 4 : rows.stop - 4, columns.start + 4 : columns.stop - 4]
        assert np.abs(inner.reshape(-1, 3).mean(axis=0) - colour).max() <= odd.colour_slack
    if clip.tags is not None:
        assert all(tag in stream_line(out) for tag in clip.tags)

    old, new = picture_times(source), picture_times(out)
    frame_s = 1.01 * (old[-2] - old[0]) / (clip.num_frames - 1)
    assert np.abs(np.subtract(np.subtract(new, new[0]), np.subtract(old, old[0])))[:-1].max() < 0.02
    assert abs((new[-1] - new[0]) - (old[-1] - old[0])) <= frame_s
    if clip.sound is None:
        return
    old_beep, _ = beep(source)
    new_beep, samples = beep(out)
    assert abs((new_beep - new[FLASH]) - (old_beep - old[FLASH])) < 0.02
    if odd.exact:
        assert abs((new_beep - new[FLASH]) - (old_beep - old[FLASH])) < 0.003
    if odd.samples is not None:
        assert abs(samples - odd.samples) <= 2 * 1024


def test_still_images_and_folders_come_back(edit, tmp_path: Path) -> None:
    code, out, _, errors = edit(images(tmp_path), (HEIGHT, WIDTH))
    assert code == 0, errors
    expected = np.stack([np.asarray(Image.open(tmp_path / "frames" / f"{n + 5}.png")) for n in range(NUM_FRAMES)])
    assert psnr(shown(out, player_matrix(out, HEIGHT, WIDTH), (HEIGHT, WIDTH)), expected) > 32
    times = picture_times(out)
    assert len(times) == NUM_FRAMES + 1 and abs(times[-1] - NUM_FRAMES / 16) < 1 / 16


def test_a_turned_video_comes_back_upright(edit, tmp_path: Path) -> None:
    source = remuxed(PLAIN, "turned.mp4", before=("-display_rotation", 90))(tmp_path)
    code, out, _, errors = edit(source, (WIDTH, HEIGHT))
    assert code == 0, errors
    upright = shown(source, "bt601", (WIDTH, HEIGHT))
    assert psnr(upright, shown(out, player_matrix(out, WIDTH, HEIGHT), (WIDTH, HEIGHT))) > 38


@pytest.mark.parametrize("strict", [False, True])
def test_half_a_file_is_said_to_be_half(strict: bool, edit, tmp_path: Path) -> None:
    source = replace(PLAIN, num_frames=30, out=("-movflags", "+faststart")).build(tmp_path)
    data = source.read_bytes()
    source.write_bytes(data[: len(data) * 6 // 10])
    code, out, said, errors = edit(source, (HEIGHT, WIDTH), *(["--strict"] if strict else []))
    if strict:
        assert code == 2 and len(errors.splitlines()) == 1 and not out.exists()
        return
    assert code == 0, errors
    size = (HEIGHT, WIDTH)
    kept = len(shown(source, "bt601", size))
    assert 3 <= kept < 29
    warning = re.search(
        r"cut off: it ends after ([\d.]+) s of the 3.00 s that its header promises, (\d+)% is missing", said
    )
    assert warning is not None
    # Of the last packets some cannot be shown, because what they build on is missing.
    assert kept / FPS <= float(warning[1]) <= kept / FPS + 0.5
    assert int(warning[2]) == round(100 * (1 - float(warning[1]) / 3))
    record = json.loads(out.with_suffix(".json").read_text())
    assert [warning[0] in line for line in record["warnings"]] == [True] and record["source"]["truncated"] is True
    assert psnr(shown(source, "bt601", size), shown(out, "bt601", size)) > 38


def test_pq_is_kept_and_said(edit, tmp_path: Path) -> None:
    tags = ("bt2020nc", "bt2020", "smpte2084")
    source = Clip("v.mkv", H264, "yuv420p10le", matrix="bt2020", tags=tags).build(tmp_path)
    code, out, said, errors = edit(source, (HEIGHT, WIDTH))
    if code == 2:
        assert len(errors.splitlines()) == 1 and "HDR" in errors
        return
    assert "HDR" in said and all(tag in stream_line(out) for tag in tags)
    size = (HEIGHT, WIDTH)
    assert psnr(shown(source, "bt2020", size), shown(out, "bt2020", size)) > 38
