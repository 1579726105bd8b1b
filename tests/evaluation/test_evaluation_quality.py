"""`evaluation.py quality` of one pair: figures, files, regions, references, lengths and sizes."""

from __future__ import annotations

import csv
import itertools
import json
import weakref
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from metrics_helpers import LIGHT, moving_frames, noisy, strict_json, write_lossless, write_mask
from video_files import ffmpeg, make

from hetcache.evaluation.compare import Comparison
from hetcache.evaluation.origin import Origin
from hetcache.evaluation.quality import Quality
from hetcache.evaluation.report import columns, table
from hetcache.metrics import psnr, regions, ssim

pytest.importorskip("skimage.metrics", reason="pip install scikit-image")
pytest.importorskip("cv2", reason="pip install opencv-python-headless")


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


def test_a_mask_of_another_rate_goes_by_time(quality, tmp_path):
    gt = moving_frames(6)
    pred = noisy(gt, 20, 3)
    write_lossless(tmp_path / "gt.mkv", gt)
    write_lossless(tmp_path / "pred.mkv", pred)
    mask = np.zeros(gt.shape[:3], bool)
    for index in range(6):
        mask[index, 8:24, 4 * index : 4 * index + 16] = True
    grey = np.repeat(mask[..., None].astype(np.uint8) * 255, 3, axis=3)
    twice = make(tmp_path / "m.mkv", "-c:v", "ffv1", "-pix_fmt", "bgr0", frames=np.repeat(grey, 2, axis=0), rate=48)
    args = ("--gt", tmp_path / "gt.mkv", "--pred", tmp_path / "pred.mkv", "--mask", twice, *LIGHT)
    for flags, used in (((), mask), (("--mask-timing", "frames"), np.repeat(mask, 2, axis=0)[:6])):
        code, _, _ = quality(*args, *flags, "--output", tmp_path / "r.json")
        assert code == 0
        found = strict_json(tmp_path / "r.json")["per_video"][0]["metrics"]["in_mask"]["psnr"]
        assert found == pytest.approx(psnr(pred, gt, used), abs=1e-9)


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


class Tracked(np.ndarray):
    """A frame whose life can be followed."""


def test_each_video_is_decoded_once_and_frames_do_not_pile_up(quality, tmp_path, monkeypatch):
    from hetcache.evaluation import videos as sources
    from hetcache.media import masks

    opened: list[str] = []
    numbers = itertools.count()
    alive: set[int] = set()
    most = [0]

    def counted(real, path, *args, **kwargs):
        opened.append(Path(getattr(path, "path", path)).name)
        for frame in real(path, *args, **kwargs):
            tracked = frame.view(Tracked)
            number = next(numbers)
            alive.add(number)
            weakref.finalize(tracked, alive.discard, number)
            most[0] = max(most[0], len(alive))
            yield tracked

    # A mask is read once, too, after a look at a bounded number of its frames that says how.
    for module, name in ((sources, "iter_frames"), (masks, "iter_grey")):
        monkeypatch.setattr(module, name, partial(counted, getattr(module, name)))
    peaks = []
    for count in (24, 96):
        opened.clear()
        most[0] = 0
        frames = moving_frames(count, 32, 32)
        video = write_lossless(tmp_path / f"v{count}.mkv", frames)
        pred = write_lossless(tmp_path / f"p{count}.mkv", noisy(frames))
        mask = write_mask(tmp_path / f"m{count}.mkv", np.ones(frames.shape[:3], bool))
        code, _, _ = quality("--gt", video, "--pred", pred, "--mask", mask, *LIGHT, "--batch-frames", 4)
        assert code == 0
        assert sorted(opened) == sorted(path.name for path in (video, pred, mask))
        peaks.append(most[0])
    assert peaks[0] == peaks[1] <= 3 * (4 + 1)


def test_the_whole_table_fits_a_terminal():
    figures = dict.fromkeys(columns(), 12.3456) | {"warp_error": 0.0098765, "warp_error_ref": 0.0123456}
    regions_of = dict.fromkeys(("all", "in_mask"), figures)
    result = Comparison(
        "scooter-black", "gt", Path("p.mp4"), Path("g.mp4"), Origin(), Origin(), 123, (480, 854), regions_of
    )
    shown = table(Quality(results=[result], aggregate={"gt": regions_of}))
    assert "(ref): the same figure of the gt video alone" in shown and " 9.877 " in shown
    assert max(map(len, shown.splitlines())) <= 100


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
