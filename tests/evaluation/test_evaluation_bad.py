"""`evaluation.py quality` on videos, masks, flags and folders that cannot be measured: one line, exit code 2."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from metrics_helpers import LIGHT, moving_frames, noisy, write_lossless, write_mask
from video_files import ffmpeg, make

pytest.importorskip("skimage.metrics", reason="pip install scikit-image")
pytest.importorskip("cv2", reason="pip install opencv-python-headless")

BAD = {
    "missing": "no such file",
    "empty": "empty",
    "text": "convert it to MP4",
    "sound": "only sound",
    "one": "has 1 frame",
    "truncated": "cut off",
    "truncated_avi": "cut off",
    "no_index": "cut off",
}


def bad_video(kind: str, folder: Path) -> Path:
    path = folder / f"{kind}.mp4"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("not a video at all\n" * 50)
    elif kind == "sound":
        ffmpeg("-f", "lavfi", "-i", "sine=d=0.3", path)
    elif kind == "one":
        make(path, frames=moving_frames(1))
    elif kind == "truncated_avi":
        path = make(path.with_suffix(".avi"), "-c:v", "mpeg4", frames=noisy(moving_frames(40)))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind in ("truncated", "no_index"):
        flags = ("-movflags", "+faststart") if kind == "truncated" else ()
        make(path, *flags, frames=noisy(moving_frames(40)))
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
    return path


@pytest.mark.parametrize("role", ["gt", "pred"])
@pytest.mark.parametrize("kind", BAD)
def test_bad_inputs_say_what_to_do(quality, tmp_path, kind, role):
    good = make(tmp_path / "good.mp4", frames=moving_frames(5))
    files = {"gt": good, "pred": good, role: bad_video(kind, tmp_path)}
    code, out, err = quality("--gt", files["gt"], "--pred", files["pred"], *LIGHT)
    assert code == 2 and out == ""
    assert BAD[kind] in err and err.count("\n") == 1 and str(files[role]) in err


def test_bad_masks(quality, tmp_path):
    frames = moving_frames(5)
    video = write_lossless(tmp_path / "v.mkv", frames)
    short = write_mask(tmp_path / "short.mkv", np.ones((3, 48, 64), bool))
    other = write_mask(tmp_path / "other.mkv", np.ones((5, 32, 64), bool))
    for mask, words in ((short, "has 3 frames, the video 5"), (other, "64x32 and the video 64x48"),
                        (tmp_path / "none.mp4", "no such file")):  # fmt: skip
        code, _, err = quality("--gt", video, "--pred", video, "--mask", mask, *LIGHT)
        assert code == 2 and words in err, err
    code, _, _ = quality("--gt", video, "--pred", video, "--mask", other, "--resize", *LIGHT)
    assert code == 0


@pytest.mark.parametrize(
    "args, words",
    [
        (["--pred", "p.mp4"], "--gt, --reference or both"),
        (["--gt", "g.mp4"], "needs --pred"),
        ([], "give either --pred with --gt"),
        (["--pred", "p.mp4", "--gt-dir", "d"], "give either --pred with --gt"),
        (["--gt-dir", "d"], "--pred-dir is missing"),
        (["--pred", "p.mp4", "--gt", "g.mp4", "--method", "m"], "--method and --i3d-checkpoint go with --pred-dir"),
        (["--pred", "p.mp4", "--gt", "g.mp4", "--i3d-checkpoint", "i.pt"], "go with --pred-dir"),
        (["--pred", "p.mp4", "--gt", "g.mp4", "--device", "tpu9"], "--device tpu9 cannot be used"),
        (["--pred", "p.mp4", "--gt", "g.mp4", "--metrics", "vfid"], "use --gt-dir and --pred-dir"),
    ],
)
def test_flags_that_do_not_go_together(quality, args, words):
    code, _, err = quality(*args)
    assert code == 2 and words in err and err.count("\n") == 1


def test_outputs_are_checked_before_any_work(quality, tmp_path):
    for target, words in ((tmp_path, "is a folder"), (Path("/proc/none/r.json"), "")):
        code, _, err = quality("--gt", "none.mp4", "--pred", "none.mp4", "--output", target)
        assert code == 2 and words in err and "none.mp4" not in err


def test_no_pairs(quality, tmp_path):
    for name in ("gt", "pred"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.mp4").write_bytes(b"x")
    code, _, err = quality("--gt-dir", tmp_path / "gt", "--pred-dir", tmp_path / "pred", "--method", "m")
    assert code == 2 and "0 pairs" in err and err.count("\n") == 1
