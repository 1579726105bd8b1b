"""`evaluation.py quality` from the command line: figures, files, regions, references, bad inputs."""

from __future__ import annotations

import csv
import itertools
import json
import math
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from metrics_helpers import load_evaluation, moving_frames, noisy, write_lossless, write_mask
from video_files import ffmpeg, make

from hetcache.metrics import psnr, regions, ssim

pytest.importorskip("skimage.metrics", reason="pip install scikit-image")
pytest.importorskip("cv2", reason="pip install opencv-python-headless")

LIGHT = ("--metrics", "psnr", "ssim", "temporal", "--device", "cpu")


@pytest.fixture(scope="module")
def evaluation():
    return load_evaluation()


@pytest.fixture
def quality(evaluation, capsys):
    """Run the subcommand: (exit code, stdout, stderr)."""

    def run(*args: object) -> tuple[int, str, str]:
        code = evaluation.main(["quality", *map(str, args)])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def no_weights(monkeypatch, tmp_path):
    """No metric weights anywhere."""
    torch = pytest.importorskip("torch")
    monkeypatch.setenv("HETCACHE_CACHE", str(tmp_path / "no-cache"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "no-hub"))


def strict_json(path: Path) -> dict[str, Any]:
    """Parse as RFC 8259 does: no bare NaN or Infinity."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_figures_are_scikit_images(quality, tmp_path):
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    gt = moving_frames(11)
    pred = noisy(gt)
    write_lossless(tmp_path / "gt.mkv", gt)
    write_lossless(tmp_path / "pred.mkv", pred)
    code, out, err = quality(
        "--gt", tmp_path / "gt.mkv", "--pred", tmp_path / "pred.mkv", *LIGHT, "--output", tmp_path / "r.json",
        "--batch-frames", 4,
    )  # fmt: skip
    assert code == 0, err
    (row,) = strict_json(tmp_path / "r.json")["per_video"]
    pairs = list(zip(gt, pred, strict=True))
    want_psnr = np.mean([peak_signal_noise_ratio(x, y, data_range=255) for x, y in pairs])
    want_ssim = np.mean([structural_similarity(x, y, channel_axis=-1, data_range=255) for x, y in pairs])
    assert abs(row["metrics"]["all"]["psnr"] - want_psnr) < 1e-6
    assert abs(row["metrics"]["all"]["ssim"] - want_ssim) < 1e-6
    assert f"{want_psnr:.4f}" in out and f"{want_ssim:.4f}" in out


def test_a_distance_between_sets_needs_sets(quality, tmp_path):
    video = write_lossless(tmp_path / "a.mkv", moving_frames(3))
    code, out, _ = quality("--gt", video, "--pred", video, "--metrics", "psnr", "vfid")
    assert code == 0 and "VFID: not measured. A distance between sets of clips needs several videos" in out


def test_identical_videos(quality, tmp_path):
    write_lossless(tmp_path / "a.mkv", moving_frames(5))
    code, out, _ = quality(
        "--gt", tmp_path / "a.mkv", "--pred", tmp_path / "a.mkv", *LIGHT, "--output", tmp_path / "r.json",
        "--csv", tmp_path / "r.csv",
    )  # fmt: skip
    assert code == 0 and " inf " in out and "1.0000" in out
    content = strict_json(tmp_path / "r.json")
    figures = content["per_video"][0]["metrics"]["all"]
    assert figures["psnr"] == "inf" and figures["ssim"] == 1.0 and figures["identical_frames"] == 5
    assert content["aggregate"]["gt"]["all"]["psnr"] == "inf"
    rows = list(csv.DictReader((tmp_path / "r.csv").open()))
    assert [row["psnr"] for row in rows] == ["inf", "inf"]


def test_gt_is_cut_to_the_predictions_length(quality, tmp_path):
    gt = moving_frames(9)
    write_lossless(tmp_path / "gt.mkv", gt)
    write_lossless(tmp_path / "pred.mkv", gt[:4])
    code, _, err = quality(
        "--gt", tmp_path / "gt.mkv", "--pred", tmp_path / "pred.mkv", *LIGHT, "--output", tmp_path / "r.json"
    )
    row = strict_json(tmp_path / "r.json")["per_video"][0]
    assert code == 0 and row["num_frames"] == 4 and row["metrics"]["all"]["psnr"] == "inf" and "warning" not in err
    code, _, err = quality("--gt", tmp_path / "pred.mkv", "--pred", tmp_path / "gt.mkv", *LIGHT)
    assert code == 0 and "only the first 4 are compared" in err


def test_regions(quality, tmp_path):
    gt, pred = moving_frames(4), noisy(moving_frames(4))
    mask = np.zeros(gt.shape[:3], bool)
    mask[:, 20:40, 24:50] = True
    write_lossless(tmp_path / "gt.mkv", gt)
    write_lossless(tmp_path / "pred.mkv", pred)
    code, out, _ = quality(
        "--gt", tmp_path / "gt.mkv", "--pred", tmp_path / "pred.mkv", "--mask", write_mask(tmp_path / "m.mkv", mask),
        "--seam-px", 3, *LIGHT, "--output", tmp_path / "r.json",
    )  # fmt: skip
    assert code == 0
    figures = strict_json(tmp_path / "r.json")["per_video"][0]["metrics"]
    assert list(figures) == ["all", "edit", "in_mask", "seam", "outside"]
    for name, part in regions(mask, 3).items():
        assert figures[name]["psnr"] == pytest.approx(psnr(pred, gt, part), abs=1e-9)
        assert figures[name]["ssim"] == pytest.approx(ssim(pred, gt, part), abs=1e-9)
        assert figures[name]["warp_error"] is not None and figures[name]["flicker_ref"] > 0
        assert name in out


def test_an_empty_mask_is_null_not_zero(quality, tmp_path):
    gt = moving_frames(3)
    write_lossless(tmp_path / "gt.mkv", gt)
    mask = write_mask(tmp_path / "m.mkv", np.zeros(gt.shape[:3], bool))
    args = ("--gt", tmp_path / "gt.mkv", "--pred", tmp_path / "gt.mkv", "--mask", mask)
    code, _, _ = quality(*args, *LIGHT, "--output", tmp_path / "r.json")
    figures = strict_json(tmp_path / "r.json")["per_video"][0]["metrics"]
    assert code == 0 and figures["in_mask"]["psnr"] is None and figures["outside"]["psnr"] == "inf"


def test_two_references_are_kept_apart(quality, tmp_path):
    gt = moving_frames(4)
    reference, pred = noisy(gt, 30, 5), noisy(gt, 6, 6)
    for name, frames in (("gt", gt), ("ref", reference), ("pred", pred)):
        write_lossless(tmp_path / f"{name}.mkv", frames)
    record = {"mode": "hetcache", "outputs": {"video": "pred.mkv", "raw": "pred_raw.mkv"}}
    (tmp_path / "pred.json").write_text(json.dumps(record))
    (tmp_path / "ref.json").write_text(json.dumps({"mode": "baseline", "outputs": {"raw": "ref.mkv"}}))
    code, out, err = quality(
        "--gt", tmp_path / "gt.mkv", "--reference", tmp_path / "ref.mkv", "--pred", tmp_path / "pred.mkv", *LIGHT,
        "--output", tmp_path / "r.json",
    )  # fmt: skip
    assert code == 0
    assert "against gt: the source video" in out and "against reference: the uncached output" in out
    assert "compared: composited outputs, with raw references" in out
    assert "the prediction is a composited output and the reference a raw one" in err
    content = strict_json(tmp_path / "r.json")
    by_role = {row["against"]: row for row in content["per_video"]}
    assert by_role["gt"]["metrics"]["all"]["psnr"] == pytest.approx(psnr(pred, gt), abs=1e-9)
    assert by_role["reference"]["metrics"]["all"]["psnr"] == pytest.approx(psnr(pred, reference), abs=1e-9)
    assert by_role["gt"]["pred_output"] == "composited" and by_role["gt"]["pred_mode"] == "hetcache"
    assert by_role["reference"]["other_output"] == "raw"
    assert content["aggregate"].keys() == {"gt", "reference"}


def test_sizes_differ(quality, tmp_path):
    write_lossless(tmp_path / "big.mkv", moving_frames(3, 64, 80))
    write_lossless(tmp_path / "small.mkv", moving_frames(3, 48, 64))
    pair = ("--gt", tmp_path / "big.mkv", "--pred", tmp_path / "small.mkv", *LIGHT)
    code, _, err = quality(*pair)
    assert code == 2 and "64x48" in err and "80x64" in err and "--resize" in err
    sizes = {}
    for to in ("pred", "gt", "40x32"):
        code, _, _ = quality(*pair, "--resize", to, "--output", tmp_path / "r.json")
        row = strict_json(tmp_path / "r.json")["per_video"][0]
        sizes[to] = (code, row["width"], row["height"])
    assert sizes == {"pred": (0, 64, 48), "gt": (0, 80, 64), "40x32": (0, 40, 32)}
    code, _, err = quality(*pair, "--resize", "small")
    assert code == 2 and "WIDTHxHEIGHT" in err
    code, _, err = quality(*pair, "--resize", "reference")
    assert code == 2 and "no reference video" in err


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


def test_frames_that_are_coded_but_never_shown_do_not_count(quality, tmp_path):
    """A cut made without encoding starts at the key frame before it and hides what lies between."""
    whole = make(tmp_path / "whole.mp4", "-g", 12, "-bf", 0, frames=noisy(moving_frames(40)), rate=10)
    ffmpeg("-ss", 1.8, "-i", whole, "-c", "copy", tmp_path / "cut.mp4")
    make(tmp_path / "pred.mp4", frames=moving_frames(30), rate=10)
    for gt, pred in (("cut.mp4", "pred.mp4"), ("pred.mp4", "cut.mp4")):
        args = ("--gt", tmp_path / gt, "--pred", tmp_path / pred, *LIGHT, "--output", tmp_path / "r.json")
        code, _, err = quality(*args)
        assert code == 0, err
        assert strict_json(tmp_path / "r.json")["per_video"][0]["num_frames"] == 22
        assert "only 22 of its 28 coded frames can be shown" in err


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


def test_batch_goes_on_past_bad_pairs(quality, tmp_path, no_weights):
    gt, pred = tmp_path / "gt", tmp_path / "pred"
    gt.mkdir()
    pred.mkdir()
    frames = moving_frames(4)
    for name in ("a", "b", "bad", "big"):
        write_lossless(gt / f"{name}.mkv", frames)
        write_lossless(pred / f"{name}_m.mkv", noisy(frames, seed=ord(name[0])))
    (pred / "bad_m.mkv").write_bytes(b"nonsense")
    write_lossless(pred / "big_m.mkv", moving_frames(4, 64, 80))
    write_lossless(gt / "lonely.mkv", frames[:2])
    code, out, err = quality(
        "--gt-dir",
        gt,
        "--pred-dir",
        pred,
        "--method",
        "m",
        "--output",
        tmp_path / "r.json",
        "--csv",
        tmp_path / "r.csv",
    )
    assert code == 1
    assert "failed: bad: " in err and "failed: big: " in err and f"unmatched gt: {gt / 'lonely.mkv'}" in err
    assert "mean of 2" in out
    assert "LPIPS: not measured. LPIPS weights are not installed: run `python scripts/fetch_weights.py lpips`" in out
    assert "VFID: not measured. I3D weights are not installed: run `python scripts/fetch_weights.py i3d`" in out
    content = strict_json(tmp_path / "r.json")
    assert content["schema"] == "hetcache.evaluation/1"
    assert [row["name"] for row in content["per_video"]] == ["a", "b"]
    assert [row["name"] for row in content["failures"]] == ["bad", "big"]
    assert content["missing"].keys() == {"lpips", "vfid"}
    assert content["unmatched"]["gt"] == [str(gt / "lonely.mkv")]
    assert content["parameters"]["method"] == "m" and content["parameters"]["target_frames"] == 8
    values = [row["metrics"]["all"]["psnr"] for row in content["per_video"]]
    assert content["aggregate"]["gt"]["all"]["psnr"] == pytest.approx(np.mean(values))
    rows = list(csv.DictReader((tmp_path / "r.csv").open()))
    assert [row["name"] for row in rows] == ["a", "b", "mean"] and float(rows[0]["psnr"]) == values[0]


def test_an_interrupted_batch_keeps_its_figures(quality, tmp_path, monkeypatch):
    from hetcache.metrics import quality as module

    for name in "abc":
        write_lossless(tmp_path / f"{name}.mkv", moving_frames(3))
        write_lossless(tmp_path / f"{name}_m.mkv", noisy(moving_frames(3)))
    real = module.compare

    def interrupted(job, *args):
        if job.name == "b":
            raise KeyboardInterrupt
        return real(job, *args)

    monkeypatch.setattr(module, "compare", interrupted)
    args = ("--gt-dir", tmp_path, "--pred-dir", tmp_path, "--method", "m", "--metrics", "psnr")
    code, out, err = quality(*args, "--output", tmp_path / "r.json")
    assert code == 1 and "PSNR dB" in out
    assert "failed: b: interrupted" in err and "failed: c: interrupted" in err
    assert [row["name"] for row in strict_json(tmp_path / "r.json")["per_video"]] == ["a"]


def test_weights_that_were_named_but_are_not_there(quality, tmp_path, no_weights):
    """The other metrics are measured, and the exit code tells."""
    folder = tmp_path / "v"
    folder.mkdir()
    write_lossless(folder / "a.mkv", moving_frames(3))
    write_lossless(folder / "a_m.mkv", noisy(moving_frames(3)))
    code, out, _ = quality(
        "--gt-dir", folder, "--pred-dir", folder, "--method", "m", "--metrics", "psnr", "vfid",
        "--i3d-checkpoint", tmp_path / "i3d_rgb_imagenet.pt",
    )  # fmt: skip
    assert code == 1 and "PSNR dB" in out
    assert "i3d_rgb_imagenet.pt: run `python scripts/fetch_weights.py i3d`" in out
    code, _, err = quality("--gt-dir", folder, "--pred-dir", folder, "--method", "m", "--metrics", "vfid")
    assert code == 2 and "nothing can be measured" in err and "fetch_weights.py i3d" in err


def test_no_pairs(quality, tmp_path):
    for name in ("gt", "pred"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.mp4").write_bytes(b"x")
    code, _, err = quality("--gt-dir", tmp_path / "gt", "--pred-dir", tmp_path / "pred", "--method", "m")
    assert code == 2 and "0 pairs" in err and err.count("\n") == 1


class Tracked(np.ndarray):
    """A frame whose life can be followed."""


def test_each_video_is_decoded_once_and_frames_do_not_pile_up(evaluation, tmp_path, monkeypatch):
    from hetcache.metrics import sources

    real = sources.iter_frames
    opened: list[str] = []
    numbers = itertools.count()
    alive: set[int] = set()
    most = [0]

    def counted(path, *args, **kwargs):
        opened.append(Path(path).name)
        for frame in real(path, *args, **kwargs):
            tracked = frame.view(Tracked)
            number = next(numbers)
            alive.add(number)
            weakref.finalize(tracked, alive.discard, number)
            most[0] = max(most[0], len(alive))
            yield tracked

    monkeypatch.setattr(sources, "iter_frames", counted)
    peaks = []
    for count in (24, 96):
        opened.clear()
        most[0] = 0
        frames = moving_frames(count, 32, 32)
        video = write_lossless(tmp_path / f"v{count}.mkv", frames)
        pred = write_lossless(tmp_path / f"p{count}.mkv", noisy(frames))
        mask = write_mask(tmp_path / f"m{count}.mkv", np.ones(frames.shape[:3], bool))
        args = ["quality", "--gt", video, "--pred", pred, "--mask", mask, *LIGHT, "--batch-frames", "4"]
        assert evaluation.main([str(arg) for arg in args]) == 0
        assert sorted(opened) == sorted(path.name for path in (video, pred, mask))
        peaks.append(most[0])
    assert peaks[0] == peaks[1] <= 3 * (4 + 1)


def test_vmaf(quality, tmp_path):
    frames = moving_frames(6, 128, 160)
    video = write_lossless(tmp_path / "v.mkv", frames)
    pred = write_lossless(tmp_path / "p.mkv", noisy(frames, 60))
    scores = []
    for other in (video, pred):
        args = ("--gt", video, "--pred", other, "--metrics", "psnr", "--vmaf", "--output", tmp_path / "r.json")
        code, out, err = quality(*args)
        if "no libvmaf" in err:
            pytest.skip("this ffmpeg has no libvmaf")
        assert code == 0 and "VMAF" in out, err
        scores.append(strict_json(tmp_path / "r.json")["per_video"][0]["metrics"]["all"]["vmaf"])
    assert scores[0] > 90 and scores[1] < scores[0] - 10


def test_a_folder_of_frames_has_everything_but_vmaf(quality, tmp_path):
    image = pytest.importorskip("PIL.Image")
    frames = moving_frames(3)
    folder = tmp_path / "frames"
    folder.mkdir()
    for index, frame in enumerate(frames):
        image.fromarray(frame).save(folder / f"{index:03}.png")
    video = write_lossless(tmp_path / "v.mkv", frames)
    code, out, err = quality("--gt", video, "--pred", folder, "--metrics", "psnr", "vmaf")
    assert code == 0 and " inf " in out and "warning: frames: VMAF needs video files" in err


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_metric_in_batch_mode(quality, tmp_path, device):
    """The whole table, with the real networks, where their weights have been fetched."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("lpips")
    from hetcache.metrics.i3d_weights import default_checkpoint
    from hetcache.metrics.perceptual import fetched_trunk

    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if not default_checkpoint().is_file() or not fetched_trunk("alex").is_file():
        pytest.skip("weights are not fetched: python scripts/fetch_weights.py")
    folder = tmp_path / "v"
    folder.mkdir()
    for index, name in enumerate("ab"):
        frames = moving_frames(5, 64, 64, seed=index)
        write_lossless(folder / f"{name}.mkv", frames)
        write_lossless(folder / f"{name}_same.mkv", frames)
        write_lossless(folder / f"{name}_noisy.mkv", noisy(frames, 60))
    found = {}
    for method in ("same", "noisy"):
        code, out, err = quality(
            "--gt-dir", folder, "--pred-dir", folder, "--method", method, "--device", device, "--target-frames", 2,
            "--output", tmp_path / f"{method}.json",
        )  # fmt: skip
        assert code == 0, err
        assert "VFID against gt: 2 clips for 1024 features" in err
        assert "1024-d" in out and "400-d" in out and "deepmind-kinetics-400" in out and "lpips-alex" in out
        found[method] = strict_json(tmp_path / f"{method}.json")
    same, worse = found["same"], found["noisy"]
    assert [row["metrics"]["all"]["lpips"] for row in same["per_video"]] == [0.0, 0.0]
    assert worse["aggregate"]["gt"]["all"]["lpips"] > 0.01
    for metric, width in (("vfid", 1024), ("fvd", 400)):
        figure = same["distances"]["gt"]["all"][metric]
        assert figure["value"] == 0.0 and figure["clips"] == 2 and figure["features"] == width
        value = worse["distances"]["gt"]["all"][metric]["value"]
        assert math.isfinite(value) and value > 0
    assert same["weights"]["i3d"]["bn_eps"] == 1e-3 and len(same["weights"]["i3d"]["sha256"]) == 64
