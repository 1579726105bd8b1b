"""Every bad input ends in one line that says what is wrong, where and what to do, before the model is loaded."""

from __future__ import annotations

import os
import re
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from bad_media import (
    Build,
    broken_image,
    cut_in_the_middle,
    dangling,
    folder_named,
    good,
    headless,
    images,
    locked,
    locked_video,
    mask_at_the_edge,
    mask_of_another_rate,
    mask_picture,
    mask_that_leaves_the_middle,
    model_with,
    pipe,
    png_of_size,
    renamed,
    short_mask,
    sound,
    turned_mask,
    wide_video,
    wrote,
)

import inference  # noqa: E402
from diffsynth_patches import loader

TEXT = b"hello, this is text\n" * 50
NOISE = np.random.default_rng(3).bytes(4000)
PNG_OF_NOTHING = png_of_size(64, 48)
MANY = "--window 9 --overlap 5 --frames 12"

VIDEOS: dict[str, tuple[str, str, Build | None]] = {
    "missing": ("--video none.mp4", "video none.mp4: no such file; check the path", None),
    "name too long": ("--video " + "a" * 5000, "cannot be opened .*check the path", None),
    "empty": ("--video a.mp4", "video a.mp4: the file is empty; give a video", wrote("a.mp4", b"")),
    "text": ("--video a.mp4", "video a.mp4: neither a video nor an image .*convert it", wrote("a.mp4", TEXT)),
    "a program": ("--video a.py", "video a.py: neither a video nor an image", wrote("a.py", b"import os\n" * 9)),
    "noise": ("--video a.mp4", "video a.mp4: neither a video nor an image", wrote("a.mp4", NOISE)),
    "zeros": ("--video a.mkv", "video a.mkv: neither a video nor an image", wrote("a.mkv", bytes(4000))),
    "cut before its index": ("--video a.mp4", "video a.mp4: its index is missing .*copy it again", headless),
    "cut in the middle": ("--video a.ts", r"video a.ts: 9 frames asked, \d there; use --frames 5", cut_in_the_middle),
    "cut before the last window": (f"--video a.ts {MANY}", r"video a.ts: 12 frames asked, \d there", cut_in_the_middle),
    "only sound": ("--video a.wav", "video a.wav: holds only sound; give a file with video", sound),
    "hls": (
        "--video a.m3u8",
        "video a.m3u8: is a playlist, which is not followed; give the video file itself",
        wrote("a.m3u8", b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nv.mp4\n#EXT-X-ENDLIST\n"),
    ),
    "hls that reads a file": (
        "--video a.mp4",
        "is a playlist",
        wrote("a.mp4", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n"),
    ),
    "ffconcat": ("--video a.mp4", "is a playlist", wrote("a.mp4", b"ffconcat version 1.0\nfile v.mp4\n")),
    "sdp": (
        "--video a.sdp",
        "is a playlist",
        wrote("a.sdp", b"v=0\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n"),
    ),
    "dash": ("--video a.mpd", "is a playlist", wrote("a.mpd", b'<?xml version="1.0"?><MPD></MPD>')),
    "absurd image": ("--video a.png", "absurd size|over 8192 pixels", wrote("a.png", png_of_size(100_000, 100_000))),
    "absurd video": ("--video wide.mkv", "video wide.mkv: 9000x16 is over 8192 pixels a side; scale it", wide_video),
    "absurd length": ("--frames 4000000001", "4000000001 frames of 64x48 do not fit in memory; give smaller", None),
    "broken image": ("--video a.png --frames 1", "video a.png: .*save it again as PNG", wrote("a.png", PNG_OF_NOTHING)),
    "cut image": ("--video a.png --frames 1", "video a.png: .*PNG", wrote("a.png", PNG_OF_NOTHING[:40])),
    "folder without images": ("--video frames", "video frames: a folder without images; it needs", images()),
    "folder of two sizes": (
        "--video frames --frames 5",
        "2.png: is 32x48, the first frame 64x48; give frames of one",
        images((64, 48), (64, 48), (32, 48), (64, 48), (64, 48)),
    ),
    "folder with a cut image": ("--video frames --frames 5", "frames/1.png: .*save it again as PNG", broken_image),
    "named pipe": ("--video pipe.mp4", "video pipe.mp4: not a regular file; give a video", pipe),
    "dangling link": ("--video link.mp4", "video link.mp4: no such file; check the path", dangling),
    "locked file": ("--video locked.mp4", "video locked.mp4: no permission to read it; change", locked_video),
    "locked folder": ("--video locked", "video locked: cannot be read .*check permissions", locked("locked")),
    "in a locked folder": ("--video locked/v.mp4", "video locked/v.mp4: .*check", locked("locked")),
    "too short": ("--frames 13", "video v.mp4: 13 frames asked, 12 there; use --frames 9 or fewer", None),
    "without a mask": ("--mask", "expected one argument", None),
}
MASKS: dict[str, tuple[str, str, Build | None]] = {
    "missing": ("--mask none.mp4", "mask none.mp4: no such file; check the path", None),
    "empty": ("--mask a.mp4", "mask a.mp4: the file is empty", wrote("a.mp4", b"")),
    "text": ("--mask a.png", "mask a.png: neither a video nor an image", wrote("a.png", TEXT)),
    "playlist": ("--mask a.m3u8", "mask a.m3u8: is a playlist", wrote("a.m3u8", b"#EXTM3U\n#EXTINF:1,\nm.mp4\n")),
    "only sound": ("--mask a.wav", "mask a.wav: holds only sound", sound),
    "shorter": ("--mask short.mp4", "mask short.mp4: 9 frames asked, 5 there; .*--mask-extend hold", short_mask),
    "shorter than all": ("--mask short.mp4 --frames all", "mask short.mp4: 12 frames asked, 5 there", short_mask),
    "damaged image": ("--mask a.png", "mask a.png: .*save it again as PNG", wrote("a.png", PNG_OF_NOTHING)),
    "folder without images": ("--mask frames", "mask frames: a folder without images", images()),
    "too dark": (
        "--mask a.png",
        "nothing reaches the threshold 128, .* is 60; give --mask-th",
        mask_picture("a.png", white=60),
    ),
    "of two shapes": (
        "--mask a.png",
        "mask a.png: its colours and its alpha hold different shapes; give --mask-channel",
        mask_picture("a.png", mode="RGBA"),
    ),
    "without alpha": (
        "--mask m.mp4 --mask-channel alpha",
        "mask m.mp4: has no alpha channel; give --mask-channel luma",
        None,
    ),
    "without the object": (
        "--mask a.png --mask-object 3",
        "mask a.png: no object 3 in .*; found: 1",
        mask_picture("a.png", white=1),
    ),
    "without objects": ("--mask-object 3", "mask m.mp4: a lossy file keeps no object numbers; save", None),
    "on its side": (
        "--mask a.png",
        "mask a.png: is 48x64 .*: it lies on its side, turn it",
        mask_picture("a.png", (48, 64)),
    ),
    "turned by its metadata": ("--mask turned.mp4", "turn it by 90 degrees.: it lies on its side", turned_mask),
    "of another rate": (
        "--mask rate.mp4",
        "9 frames at 60 a second for 12 at 24, .* --mask-timing frames or time",
        mask_of_another_rate,
    ),
    "in the cropped part": (
        "--mask edge.mp4 --fit crop --height 96 --width 64",
        "reaches into what --fit crop leaves out .*use --fit pad",
        mask_at_the_edge,
    ),
    "in the cropped part of the last frame": (
        f"--mask edge.mp4 --fit crop --height 96 --width 64 {MANY}",
        "--fit crop leaves out",
        mask_that_leaves_the_middle,
    ),
}
FLAGS: dict[str, str] = {
    "--frames 10": "--frames 10: the model takes 4k.1 frames, nearest 9 or 13",
    "--frames 0": "nearest 1",
    "--frames -1": "nearest 1",
    "--frames x": "'x' is neither a number of frames nor all",
    "--frames 33 --window 9": "video v.mp4: 33 frames asked, 12 there; use --frames 9",
    "--window 10": "--window 10: the model takes 4k.1 frames, nearest 9 or 13",
    "--window 0": "--window 0: at least 5",
    "--window 33 --overlap 33": "--overlap 33: must be less than --window 33",
    "--overlap 8": "--overlap 8: .*nearest 5 or 9",
    "--overlap -3": "--overlap -3: .*nearest 1",
    "--outpaint 1,2,3": "'1,2,3' is not LEFT,TOP,RIGHT,BOTTOM in pix",
    "--outpaint -1,0,0,0": "expected one argument",
    "--outpaint=-1,0,0,0": "--outpaint -1,0,0,0: give the pixels to add",
    "--outpaint 0,0,0,0": "at least one over 0",
    "--outpaint 99999,0,0,0": "--outpaint 99999,0,0,0: 100063x48 is over 8192 pixels a side; add fewer",
    "--outpaint 4000,4000,4000,4000 --frames 33": "33 frames of 8064x8048 do not fit in memory; give smaller --frames",
    "--mask-threshold 0": "--mask-threshold 0: from 1 to 255",
    "--mask-threshold 300": "--mask-threshold 300: from 1",
    "--mask-object 0": "--mask-object 0: from 1 to 65535; 0 is the background",
    "--mask-object 1 --mask-threshold 9": "--mask-object names a value and --mask-threshold a range; leave one",
    "--mask-channel cyan": "invalid choice: 'cyan'",
    "--mask-timing never": "invalid choice: 'never'",
    "--mask-dilate -1": "--mask-dilate -1: pixels .* from 0",
    "--mask-feather -3": "--mask-feather -3: pixels",
    "--mask-dilate 99999": "--mask-dilate 99999: .* to 8192",
    "--mask-extend once": "invalid choice: 'once'",
    "--fit zoom": "invalid choice: 'zoom'",
    "--cache-budget-gib -1": "--cache-budget-gib -1.0: GiB, not negative",
    "--cache-budget-gib nan": "--cache-budget-gib: 'nan' is not a finite number",
    "--resume": "--resume: these 9 frames are one window",
    f"--compare {MANY}": "--compare and --report show one window and these 12 frames need 2: give --frames 9",
    f"--report {MANY}": "--compare and --report show one window",
    "--height 100": "--height 100: .*nearest 96 or 112",
    "--width -16": "--width -16: .*nearest 16",
    "--height 160000": "--height 160000: at most 8192",
    "--height 8192 --width 8192 --frames 33": "33 frames of 8192x8192 do not fit in memory; give smaller --frames, --",
    "--steps 0": "--steps 0: at least 1",
    "--steps many": "invalid int value: 'many'",
    "--seed -1": "--seed -1: from 0",
    "--seed 99999999999999999999": "--seed 9+: from 0 to 2",
    "--cfg-scale -1": "--cfg-scale -1.0: not negative",
    "--cfg-batch --cfg-scale 1": "--cfg-batch: guidance scale 1 runs one branch alone, leave the flag out",
    "--compile --vram-limit 8": "--compile: with --vram-limit .* leave one of the two out",
    "--cfg-scale nan": "--cfg-scale: 'nan' is not a finite number",
    "--sigma-shift 0": "--sigma-shift 0.0: greater than 0",
    "--vram-limit 0": "--vram-limit 0.0: GiB, greater than 0",
    "--dtype int8": "invalid choice: 'int8'",
    "--mode warp": "unknown --mode 'warp': choose from",
    "--model wan9": "unknown model 'wan9': use auto",
    "--mode baseline --margin-ratio 0.5": "--margin-ratio is a setting of --mode .*, not of baseline",
    "--context-ratio 1.5": "context-ratio .*between 0 and 1",
    "--frmaes 9": "unrecognized arguments: --frmaes",
    "--target-speedup 0.5": "--target-speedup 0.5: at least 1",
    "--mode hetcache --target-speedup 5 --cache-thresh 0.1": "--cache-thresh and --target-speedup both decide the plan",
    "--mode hetcache --quality 50 --cache-thresh 0.1": "--cache-thresh and --quality both decide the plan",
    "--mode hetcache --quality 400": "--quality 400.0: at most 80 dB",
    "--mode adacache --plan": "adacache .*has no plan",
    "--mode baseline --target-speedup 2": "--mode baseline",
    "--device cuda": "--device cuda: no CUDA device here, use",
    "--device banana": "--device banana: use auto, cpu, cuda or cuda:N",
    "--device cuda:99": "--device cuda:99: .*CUDA",
}
OUTPUTS: dict[str, tuple[str, str, Build | None]] = {
    "no folder": ("--output no/such/out.mp4", "output no/such/out.mp4: there is no folder no/such; create it", None),
    "not mp4": ("--output out.avi", "output out.avi: must end in .mp4; use out.mp4", None),
    "a folder": ("--output dir.mp4", "output dir.mp4: is a folder; give a file name", folder_named("dir.mp4")),
    "the video": ("--output v.mp4", "output v.mp4: is also an input, which would be lost", None),
    "the mask": ("--output m.mp4", "output m.mp4: is also an input", None),
    "raw is the mask": (
        "--mask out_raw.mp4 --save-raw",
        "output out_raw.mp4: is also an input",
        renamed("m.mp4", "out_raw.mp4"),
    ),
    "record is a folder": ("", "output out.json: is a folder; choose another --output", folder_named("out.json")),
    "report is a folder": ("--report", "output out.html: is a folder; choose", folder_named("out.html")),
    "windows folder is a file": (
        MANY,
        "out_windows: cannot keep finished windows there .*choose another --output",
        wrote("out_windows", b"mine"),
    ),
    "model without JSON": ("--model weights", "model weights/config.json: not JSON .*fetch", model_with(b"{")),
    "model with a list": ("--model weights", "model weights/config.json: not a JSON object", model_with(b"[]")),
}
BAD = {
    **{f"video {name}": case for name, case in VIDEOS.items()},
    **{f"mask {name}": case for name, case in MASKS.items()},
    **{flags: (flags, message, None) for flags, message in FLAGS.items()},
    **{f"output {name}": case for name, case in OUTPUTS.items()},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    good(folder)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loader, "load_pipeline", lambda *_: pytest.fail("the model was loaded"))
    return tmp_path


def contents(folder: Path) -> dict[str, bytes | None]:
    return {
        path.name: path.read_bytes() if path.is_file() and os.access(path, os.R_OK) else None
        for path in folder.iterdir()
    }


def run(flags: str) -> int:
    """The exit code, also where argparse ends it."""
    usual = "--video v.mp4 --mask m.mp4 --frames 9 --steps 2 --height 64 --width 96 --output out.mp4 --model tiny"
    try:
        return inference.main([*usual.split(), *flags.split()])
    except SystemExit as end:
        assert isinstance(end.code, int)
        return end.code


@pytest.mark.parametrize("name", BAD)
def test_a_bad_input_is_one_line_and_harms_nothing(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags, message, build = BAD[name]
    if "locked" in name and os.geteuid() == 0:
        pytest.skip("root may read everything")
    if "--device cuda" in flags and torch.cuda.is_available() and "99" not in flags:
        pytest.skip("has CUDA")
    if build is not None:
        build(folder)
    before = contents(folder)
    assert run(flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("inference.py: error: ") and re.search(message, line)
    assert contents(folder) == before
    assert (folder / "out.mp4").read_bytes() == b"an earlier result"


def test_there_is_a_video_but_nothing_says_which_part(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inference.main("--video v.mp4 --frames 9 --output out.mp4".split()) == 2
    assert capsys.readouterr().err.endswith("which part is to be edited? Give --mask or --outpaint\n")


def test_a_playlist_reaches_no_host(folder: Path) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.setblocking(False)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"
        Path("a.m3u8").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{url}\n#EXT-X-ENDLIST\n")
        Path("a.ffconcat").write_text(f"ffconcat version 1.0\nfile {url}\n")
        for name in ("a.m3u8", "a.ffconcat"):
            assert run(f"--video {name}") == 2
            assert run(f"--mask {name}") == 2
        with pytest.raises(BlockingIOError):
            server.accept()


def test_debug_shows_the_traceback(folder: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        run("--video none.mp4 --debug")
