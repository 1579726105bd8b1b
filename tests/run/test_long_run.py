"""Several windows end to end: what comes out, how much is held, and what --resume accepts."""

from __future__ import annotations

import errno
import json
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from long_runs import NUM_FRAMES, NUM_WINDOWS, ONE, edits, make_clip, make_mask, run, saved
from video_files import ffmpeg, make

from diffsynth_patches import backend
from hetcache.media.placement import Placement
from hetcache.media.read import probe, read_frames
from hetcache.media.source import Source
from hetcache.media.windows import Window, plan_windows
from hetcache.metrics.joins import JoinMeter
from hetcache.run import edit
from hetcache.run import windows as long_run
from hetcache.run.editor import Editor
from hetcache.run.long_clip import WindowReader, finished_frames
from hetcache.run.window_store import WindowStore

__all__ = ["edits"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_clip(tmp_path)
    return tmp_path


@pytest.fixture
def interrupted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run that stopped in its second window."""
    with monkeypatch.context() as patch:
        patch.setattr(long_run, "edit_window", stopping_at(1, OSError(errno.EIO, "stopped by the test")))
        assert run(folder) == 2
    assert saved(folder) == ONE
    return folder


def stopping_at(call: int, error: BaseException) -> Any:
    """`edit_window` that raises `error` instead of editing window `call`."""
    real, calls = long_run.edit_window, []

    def edit_window(*args: Any) -> Any:
        calls.append(args)
        if len(calls) > call:
            raise error
        return real(*args)

    return edit_window


def test_a_resumed_run_knows_the_settings_of_its_finished_windows(
    interrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: list[Any] = []

    def editor(job: Any, studio: Any, kept: Any) -> Editor:
        known.append(kept)
        return Editor(job, studio, kept)

    monkeypatch.setattr(edit, "Editor", editor)
    facts = json.loads((interrupted / "out_windows" / ONE[0]).read_text())
    assert run(interrupted, "--resume") == 0
    assert known == [facts["settings"]]


def test_the_output_is_like_the_source_and_the_windows_are_gone(folder: Path, edits: list[int]) -> None:
    assert run(folder, "--save-raw") == 0
    info, source_info = probe(folder / "out.mp4"), probe(folder / "v.mp4")
    assert (info.width, info.height, info.fps) == (96, 72, 12.0)
    assert info.has_audio and source_info.has_audio
    output, video = read_frames(folder / "out.mp4"), read_frames(folder / "v.mp4")
    assert output.shape == video.shape == (NUM_FRAMES, 72, 96, 3)
    assert np.abs(output[:, :, :8].astype(int) - video[:, :, :8]).mean() < 4
    assert np.abs(output[:, 25:45].astype(int) - video[:, 25:45]).mean() > 8
    assert read_frames(folder / "out_raw.mp4").shape == (NUM_FRAMES, 48, 64, 3)
    assert sorted(path.name for path in folder.iterdir()) == ["m.mp4", "out.json", "out.mp4", "out_raw.mp4", "v.mp4"]
    assert len(edits) == NUM_WINDOWS


def test_the_record_lists_the_windows_and_their_sums(folder: Path) -> None:
    assert run(folder) == 0
    record = json.loads((folder / "out.json").read_text())
    windows = record["windows"]
    assert [each["window"] for each in windows] == [
        {"start": 0, "count": 9, "known": 0},
        {"start": 4, "count": 9, "known": 5},
        {"start": 8, "count": 9, "known": 5},
    ]
    assert record["config"]["frames"] == NUM_FRAMES
    assert record["flops"]["run"] == sum(each["flops"]["run"] for each in windows)
    assert record["blocks"]["dit"] == sum(each["blocks"]["dit"] for each in windows)
    denoise_s = sum(each["timing_s"]["denoise"] for each in windows)
    assert record["timing_s"]["denoise"] == pytest.approx(denoise_s, abs=1e-3)
    assert record["decisions"]["cond"].split() == [each["decisions"]["cond"] for each in windows]


def test_half_of_an_overlap_is_known_and_the_rest_is_made_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    real = backend.run_edit

    def seen(*args: Any) -> Any:
        given.append(args[2])
        return real(*args)

    monkeypatch.setattr(backend, "run_edit", seen)
    assert run(folder) == 0
    assert len(given) == NUM_WINDOWS
    for clip in given[1:]:
        assert not clip.mask_THW[0].any() and clip.mask_THW[1:].any((1, 2)).all()


def test_the_record_measures_the_joins_of_what_is_written(folder: Path) -> None:
    assert run(folder, "--lossless") == 0
    windows = json.loads((folder / "out.json").read_text())["windows"]
    meter = JoinMeter([Window(**each["window"]) for each in windows])
    with closing(Source.open(folder / "v.mp4", folder / "m.mp4").every_mask(NUM_FRAMES)) as masks:
        meter.update(read_frames(folder / "out.mp4"), {"in_mask": np.stack(list(masks))})
    assert "join" not in windows[0]
    for window, join in zip(windows[1:], meter.joins(), strict=True):
        assert window["join"]["change"] == pytest.approx(join.change, rel=0.05)
        assert window["join"]["seam_ratio"] == pytest.approx(join.seam_ratio, rel=0.05)
    assert windows[0]["hole"]["colour_drift_de"] == 0
    for window, hole in zip(windows, meter.holes(), strict=True):
        assert window["hole"]["colour_drift_de"] == pytest.approx(hole.colour_drift_de, abs=0.3)
        assert window["hole"]["detail"] == pytest.approx(hole.detail, rel=0.1)


@pytest.mark.parametrize(("masked", "skipped"), [(range(13, 17), [0, 1]), (range(3), [1, 2]), (range(0), [0, 1, 2])])
def test_a_window_with_nothing_to_edit_is_skipped_and_recorded(
    folder: Path, edits: list[int], masked: range, skipped: list[int]
) -> None:
    make_mask(folder / "m.mp4", masked)
    assert run(folder) == 0
    windows = json.loads((folder / "out.json").read_text())["windows"]
    assert [index for index, each in enumerate(windows) if "skipped" in each] == skipped
    assert len(edits) == NUM_WINDOWS - len(skipped)
    output, video = read_frames(folder / "out.mp4"), read_frames(folder / "v.mp4")
    plain = [index for index in range(NUM_FRAMES) if index not in masked]
    assert np.abs(output[plain].astype(int) - video[plain]).mean() < 4


def test_the_reader_holds_one_window_of_frames(folder: Path) -> None:
    opened = Source.open(folder / "v.mp4", folder / "m.mp4")
    windows, held = plan_windows(NUM_FRAMES, 9, 5), []
    with WindowReader(opened, Placement("stretch", opened.size, (48, 64)), NUM_FRAMES, 0) as reader:
        for window in windows:
            clip = reader.read(window)
            held.append(len(reader._held))
            assert clip.frames_THWC.shape == (9, 48, 64, 3) and clip.source_THWC is clip.frames_THWC
    assert held == [9] * NUM_WINDOWS


def test_finished_frames_are_loaded_a_window_at_a_time_and_the_last_word_wins() -> None:
    windows, loaded = plan_windows(NUM_FRAMES, 9, 5), []

    class Spy(WindowStore):
        def frames(self, index: int) -> np.ndarray:
            loaded.append(index)
            return np.full((9, 1, 1, 3), index, np.uint8)

    stream = finished_frames(Spy(Path("out.mp4")), windows, 0, NUM_FRAMES)
    assert loaded == []
    assert [int(frame[0, 0, 0]) for frame in stream] == [0] * 4 + [1] * 4 + [2] * 9
    assert loaded == [0, 1, 2]
    part = finished_frames(Spy(Path("out.mp4")), windows[:2], 8, 13)
    assert [int(frame[0, 0, 0]) for frame in part] == [1] * 5


def test_resume_goes_on_to_the_same_bytes(interrupted: Path, edits: list[int], capsys: pytest.CaptureFixture) -> None:
    assert run(interrupted, "--resume") == 0
    assert len(edits) == NUM_WINDOWS - 1
    assert "1 of 3 windows were finished before" in capsys.readouterr().out
    resumed = (interrupted / "out.mp4").read_bytes()
    assert run(interrupted) == 0
    assert (interrupted / "out.mp4").read_bytes() == resumed
    assert not (interrupted / "out_windows").exists()


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("--seed 1", "edit"),
        ("--steps 3", "edit"),
        ("--cache-thresh 0.2", "settings"),
        ("--mode baseline", "mode"),
        ("--window 13", "windows"),
        ("--height 64", "size"),
        ("--mask-dilate 2", "input options"),
        ("--mask v.mp4", "mask"),
        ("--mask-feather 9", "feather"),
        ("--dtype bfloat16", "dtype"),
    ],
)
def test_resume_with_other_flags_names_what_differs(
    interrupted: Path, flags: str, named: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(interrupted)
    assert run(interrupted, "--resume", *flags.split()) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "out_windows keeps the windows of another run" in error and named in error
    assert "delete the folder to start over" in error
    assert saved(interrupted) == ONE


@pytest.mark.parametrize("flags", ["--frames 13", "--overlap 1"])
def test_other_windows_after_the_finished_ones_are_a_run_of_their_own(interrupted: Path, flags: str) -> None:
    assert run(interrupted, "--resume", *flags.split()) == 0
    resumed = (interrupted / "out.mp4").read_bytes()
    assert run(interrupted, *flags.split()) == 0
    assert (interrupted / "out.mp4").read_bytes() == resumed


def test_a_changed_video_is_not_resumed(interrupted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.utime(interrupted / "v.mp4", (1, 1))
    assert run(interrupted, "--resume") == 2
    assert "another run (video differ)" in capsys.readouterr().err


def test_without_resume_an_interrupted_run_stays(interrupted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(interrupted) == 2
    assert "add --resume to go on with it, or delete the folder" in capsys.readouterr().err
    assert saved(interrupted) == ONE
    assert (interrupted / "out.mp4").read_bytes() == b"an earlier result"


def test_all_frames_of_a_trimmed_video_are_those_that_it_shows(folder: Path) -> None:
    make(folder / "long.mp4", "-c:v", "libx264", "-g", 8, "-pix_fmt", "yuv420p", frames=read_frames(folder / "v.mp4"))
    ffmpeg("-ss", 0.2, "-i", folder / "long.mp4", "-c", "copy", folder / "v.mp4")
    shown = len(read_frames(folder / "v.mp4"))
    assert 9 < shown < NUM_FRAMES
    assert run(folder) == 0
    assert len(read_frames(folder / "out.mp4")) == shown
