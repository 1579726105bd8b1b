"""Whole runs of the embedded model on files whose times are odd: what was there stays where and when it was.

Judged by ffmpeg's own decoder and filters: the time of every frame, flash and beep, the background, the duration.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from odd_videos import HEIGHT, WIDTH, Build, Clip, beep, picture_times, player_matrix, remuxed, shown
from PIL import Image
from video_files import ffmpeg

import inference

SIZE = (HEIGHT, WIDTH)
SMALL = "--steps 1 --height 48 --width 64 --model tiny --mode baseline --mask-feather 0".split()
H264 = ("-c:v", "libx264", "-crf", 4, "-preset", "veryfast")
SOUND = Clip("v.mp4", H264, num_frames=13, sound=("-c:a", "aac"), sound_s=1.3)
# Far from the flash in the corner; the rest is background.
MASK = np.zeros(SIZE, np.bool_)
MASK[20:40, 60:90] = True


def browser_recording(folder: Path) -> Path:
    """A clock of milliseconds, frames at uneven times, no duration; one second of sound."""
    clock = ("-fps_mode", "passthrough", "-enc_time_base", "1:1000")
    clip = replace(SOUND, name="rec.mkv", filters="settb=1/1000,setpts=90*N+7*mod(N\\,3)", out=clock)
    path = clip.build(folder)
    codecs = ("-c:v", "libvpx", "-deadline", "realtime", "-crf", 4, "-b:v", "4M", "-c:a", "libopus")
    ffmpeg("-i", path, *clock, *codecs, "-live", 1, folder / "r.webm")
    return folder / "r.webm"


def cut_by_an_edit_list(folder: Path) -> Path:
    """A copy from 0.25 s on: its first frames are hidden, because they are needed and not to be seen."""
    path = replace(SOUND, num_frames=16, sound_s=1.6, picture=(*H264, "-g", 30)).build(folder)
    ffmpeg("-ss", 0.25, "-i", path, "-c", "copy", folder / "cut.mp4")
    return folder / "cut.mp4"


@dataclass(frozen=True)
class Case:
    """`in_step`: by so many seconds picture and sound may part, where there is a flash to compare."""

    build: Build
    frames: str = "9"
    in_step: float = 0.003


CASES = {
    "a browser's recording": Case(browser_recording, "13", in_step=0.02),
    "a picture that starts late": Case(replace(SOUND, late_picture_s=0.5).build),
    "a picture that starts between two frames": Case(
        replace(
            SOUND, name="v.mkv", late_picture_s=0.537, out=("-fps_mode", "passthrough", "-enc_time_base", "1:1000")
        ).build
    ),
    "a variable rate": Case(
        replace(SOUND, filters="setpts=(N+floor(N/3))/10/TB", out=("-fps_mode", "vfr"), sound_s=1.8).build
    ),
    "an edit list": Case(cut_by_an_edit_list),
    "sound that starts below zero": Case(
        replace(
            SOUND, name="v.webm", picture=("-c:v", "libvpx", "-crf", 4, "-b:v", "4M"), sound=("-c:a", "libopus")
        ).build
    ),
    "priming and offsets below zero": Case(remuxed(SOUND, "priming.mov", "-movflags", "+negative_cts_offsets")),
}


@pytest.mark.parametrize("name", CASES)
def test_an_edit_keeps_every_frame_and_the_sound_in_their_time(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    source, out = case.build(tmp_path), tmp_path / "out.mp4"
    Image.fromarray(MASK).save(tmp_path / "m.png")
    files = ["--video", str(source), "--mask", str(tmp_path / "m.png"), "--output", str(out)]
    assert inference.main([*files, "--frames", case.frames, *SMALL]) == 0

    count = int(case.frames)
    before = shown(source, player_matrix(source, *SIZE), SIZE)[:count].astype(int)
    after = shown(out, player_matrix(out, *SIZE), SIZE).astype(int)
    assert len(after) == count
    grown = MASK.copy()
    grown[18:42, 58:92] = True
    error = (before - after)[:, ~grown]
    assert 10 * np.log10(255**2 / max((error**2).mean(), 1e-9)) > 38
    assert np.abs(before - after)[:, MASK].mean() > 2, "the mask was not edited"

    old, new = picture_times(source)[: count + 1], picture_times(out)
    assert np.ptp(np.subtract(new, old)[:-1]) < 0.002
    assert abs((new[-1] - new[0]) - (old[-1] - old[0])) <= max(np.diff(old))
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["source"]["variable_rate"] == bool(np.ptp(np.diff(old[:-1])) > 0.002)
    white = [int(np.argmax(frames[:, 4:12, 4:12].mean((1, 2, 3)) > 150)) for frames in (before, after)]
    assert white[0] == white[1]
    gaps = [beep(path)[0] - times[white[0]] for path, times in ((source, old), (out, new))]
    assert abs(gaps[1] - gaps[0]) <= case.in_step


def test_labels_of_one_and_alpha_masks_are_edited(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows 6 and 7 of the list of faults, by the command."""
    source = replace(SOUND, sound=None).build(tmp_path)
    Image.fromarray(MASK.astype(np.uint8)).save(tmp_path / "zeroone.png")
    alpha = np.full((*SIZE, 4), 255, np.uint8)
    alpha[..., 3] = MASK * 255
    Image.fromarray(alpha).save(tmp_path / "alpha.png")
    for mask, said in (("zeroone.png", "labels 1"), ("alpha.png", "shape in the alpha channel")):
        out = tmp_path / f"{mask}.mp4"
        files = ["--video", str(source), "--mask", str(tmp_path / mask), "--output", str(out)]
        assert inference.main([*files, "--frames", "5", *SMALL]) == 0
        assert said in capsys.readouterr().out
        changed = np.abs(shown(out, "bt601", SIZE).astype(int) - shown(source, "bt601", SIZE)[:5]).mean((0, 3))
        assert changed[MASK].mean() > 2 > changed[44:].mean()
