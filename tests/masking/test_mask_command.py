"""`hetcache-mask`: its files, its messages, and that the library writes the same."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from discs import discs, jaccard
from PIL import Image
from video_files import ffmpeg, make

from hetcache.masking import command
from hetcache.masking.make import make_mask
from hetcache.masking.options import parse
from hetcache.masking.prompts import Box, Painted, Point, Polygon
from hetcache.masking.saving import save_mask
from hetcache.media.mask_pace import check_shape, choose_pace
from hetcache.media.masks import read_mask
from hetcache.media.probe import probe
from hetcache.media.timeline import read_timeline

ROOT = Path(__file__).resolve().parents[2]
LOSSLESS = ("-c:v", "libx264", "-qp", "0", "-pix_fmt", "yuv444p")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return make(tmp_path / "clip.mp4", *LOSSLESS, frames=discs(5).frames_THWC)


def test_files_of_a_run(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    box = ",".join(map(str, discs(5).box()))
    assert command.main([str(clip), "--box", box, "--output", str(tmp_path / "mask.mp4")]) == 0
    masks = read_mask(tmp_path / "mask.mp4", 5, (96, 128))
    assert min(jaccard(m, t) for m, t in zip(masks, discs(5).truth_THW, strict=True)) > 0.9
    record = json.loads((tmp_path / "mask.json").read_text())
    assert record["tool"] == "hetcache-mask" and record["engine"]["name"] == "flow"
    assert record["prompts"] == [{"kind": "box", "frame": 0, "box": [float(v) for v in discs(5).box()]}]
    assert len(record["confidence"]) == record["frames"] == 5 and record["keyframes"] == [0]
    assert Image.open(tmp_path / "mask_sheet.png").size[0] > 128
    out = capsys.readouterr().out
    assert "5 frames, the mask covers" in out and "mask_sheet.png" in out


def test_the_library_writes_the_bytes_of_the_command(clip: Path, tmp_path: Path) -> None:
    box = discs(5).box()
    words = [str(clip), "--box", ",".join(map(str, box)), "--point", "50,48@3", "--output"]
    for name in ("a", "b"):
        assert command.main([*words, str(tmp_path / f"{name}.mp4")]) == 0
    marks = [Box(*box), Point(50, 48, frame=3)]
    save_mask(make_mask(clip, marks), clip, marks, tmp_path / "c.mp4")
    assert len({(tmp_path / f"{name}.mp4").read_bytes() for name in "abc"}) == 1
    assert len({(tmp_path / f"{name}_sheet.png").read_bytes() for name in "abc"}) == 1
    records = [json.loads((tmp_path / f"{name}.json").read_text()) for name in "abc"]
    for record in records:
        record.pop("outputs")
    assert records[0] == records[1] == records[2]


@pytest.mark.parametrize(
    "name, words",
    [
        ("plain.mp4", ("-pix_fmt", "yuv420p")),
        ("ntsc.mp4", ("-pix_fmt", "yuv420p", "-r", "30000/1001")),
        ("uneven.mkv", ("-vf", "setpts='N*N/24/TB'", "-fps_mode", "passthrough", "-pix_fmt", "yuv420p")),
        ("wide.mp4", ("-vf", "setsar=4/3", "-pix_fmt", "yuv420p")),
        ("odd.mp4", ("-vf", "crop=127:95:0:0", "-pix_fmt", "yuv444p")),
    ],
)
def test_the_mask_fits_its_clip_without_a_warning(name: str, words: tuple[str, ...], tmp_path: Path) -> None:
    clip = make(tmp_path / name, *words, frames=discs(5).frames_THWC)
    assert command.main([str(clip), "--box", "18,28,60,68", "--output", str(tmp_path / "mask.mp4")]) == 0
    fits(clip, tmp_path / "mask.mp4")


def test_a_turned_clip_gives_an_upright_mask(tmp_path: Path) -> None:
    plain = make(tmp_path / "plain.mp4", "-pix_fmt", "yuv420p", frames=discs(3).frames_THWC)
    turned = tmp_path / "turned.mp4"
    ffmpeg("-display_rotation", "90", "-i", plain, "-c", "copy", turned)
    assert (probe(turned).width, probe(turned).height) == (96, 128)
    assert command.main([str(turned), "--box", "20,60,76,120", "--output", str(tmp_path / "mask.mp4")]) == 0
    fits(turned, tmp_path / "mask.mp4")


def fits(clip: Path, mask: Path) -> None:
    video, info = probe(clip), probe(mask, "mask")
    assert (video.width, video.height) == (info.width, info.height) and info.rotation_deg == 0
    assert check_shape(video, info) is None
    assert choose_pace(video, info) == (None, None)
    wanted, found = (read_timeline(each) for each in (video, info))
    starts = [[float(time - each.times_s[0]) for time in each.times_s] for each in (wanted, found)]
    assert np.allclose(*starts, atol=1e-3)
    assert not has_soft_edges(mask)


def has_soft_edges(mask: Path) -> bool:
    from hetcache.media.mask_reading import read_rules

    reading = read_rules(mask)
    assert not reading.warnings
    return reading.soft > 0


def test_weak_and_empty_frames_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    away = discs(16, centre=lambda t: (100 + 5 * t, 48))
    clip = make(tmp_path / "away.mp4", *LOSSLESS, frames=away.frames_THWC)
    box = ",".join(map(str, away.box()))
    assert command.main([str(clip), "--box", box, "--output", str(tmp_path / "mask.mp4")]) == 0
    assert "empty in frame" in capsys.readouterr().out


def test_spans() -> None:
    assert command.spans([3]) == "frame 3"
    assert command.spans([3, 4, 5, 9]) == "frames 3-5, 9"


def test_marks_as_typed() -> None:
    words = "clip.mp4 --box 1,2,3,4 --box 5,6,7,8@9 --point 1.5,2@3 --not-point 4,5 --polygon 1,1,9,1,5,9@2"
    marks = parse([*words.split(), "--painted", "a@b.png", "--painted", "c.png@7"]).marks.prompts.marks
    assert marks[:5] == (
        Box(1, 2, 3, 4),
        Box(5, 6, 7, 8, frame=9),
        Point(1.5, 2, frame=3),
        Point(4, 5, positive=False),
        Polygon(((1, 1), (9, 1), (5, 9)), frame=2),
    )
    painted = [mark for mark in marks if isinstance(mark, Painted)]
    assert [(str(mark.mask), mark.frame) for mark in painted] == [("a@b.png", 0), ("c.png", 7)]


@pytest.mark.parametrize(
    "words, message",
    [
        ("", "nothing is marked"),
        ("--box 1,2,3", "'1,2,3' is not X0,Y0,X1,Y1[@FRAME] in pixels, as"),
        ("--box 1,2,3,x", "'1,2,3,x' is not X0,Y0,X1,Y1[@FRAME]"),
        ("--point 1,2@x", "'1,2@x' is not X,Y[@FRAME]"),
        ("--point nan,2", "'nan,2' is not X,Y[@FRAME]"),
        ("--point 1,2@-3", "the clip has 5 frames, from 0 to 4"),
        ("--polygon 1,2,3,4", "with three corners or more"),
        ("--point 999,2", "point 999,2@0: lies outside the picture, which is 128x96"),
        ("--box 10,10,50,50@5", "box 10,10,50,50@5: the clip has 5 frames, from 0 to 4"),
        ("--box 10,10,10,50", "box 10,10,10,50@0: is empty"),
        ("--not-point 10,10", "only what is not the thing is marked"),
        ("--painted clip.mp4", "painted clip.mp4@0: is no still image"),
        ("--box 1,1,9,9 --sam2 x", "--sam2 x: goes with --engine sam2"),
        ("--box 1,1,9,9 --output mask.mov", "must end in .mp4"),
        ("--box 1,1,9,9 --output clip.mp4", "is also an input, which would be lost"),
        ("--box 1,1,9,9 --output no/mask.mp4", "there is no folder no"),
        ("--box 1,1,9,9 --output other.mp4", "other.json: is not a mask's record and would be lost"),
        ("--bxo 1,1,9,9", "unrecognized arguments: --bxo"),
    ],
)
def test_bad_commands_are_told_in_one_line(
    words: str,
    message: str,
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.json").write_text("{}")
    try:
        code = command.main(["clip.mp4", *words.split()])
    except SystemExit as end:
        code = end.code
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "frame/s" not in line and line.strip()]
    assert code == 2 and line.startswith("hetcache-mask: error: ") and message in line
    assert not list(tmp_path.glob("*_sheet.png"))


def test_a_clip_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([str(tmp_path / "no.mp4"), "--box", "1,1,9,9", "--output", str(tmp_path / "m.mp4")]) == 2
    assert "no such file" in capsys.readouterr().err


def test_help_teaches_at_once_and_loads_nothing() -> None:
    code = (
        "import sys\nfrom hetcache.masking.command import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'cv2', 'scipy', 'PIL'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
        seconds.append(time.perf_counter() - start)
        assert done.returncode == 0, done.stderr
        assert "--not-point X,Y[@FRAME]" in done.stdout and "examples:" in done.stdout
    assert min(seconds) < 1, seconds
