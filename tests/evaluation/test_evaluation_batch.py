"""`evaluation.py quality` of folders: every metric, failures among the pairs, weights that are not there."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest
from metrics_helpers import moving_frames, noisy, strict_json, write_lossless

pytest.importorskip("skimage.metrics", reason="pip install scikit-image")
pytest.importorskip("cv2", reason="pip install opencv-python-headless")


@pytest.fixture
def no_weights(monkeypatch, tmp_path):
    """No metric weights anywhere."""
    torch = pytest.importorskip("torch")
    monkeypatch.setenv("HETCACHE_CACHE", str(tmp_path / "no-cache"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "no-hub"))


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
    assert "LPIPS: not measured. LPIPS weights are not installed: run `python -m hetcache.metrics lpips`" in out
    assert "VFID: not measured. I3D weights are not installed: run `python -m hetcache.metrics i3d`" in out
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
    from hetcache.evaluation import quality as module

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


def test_a_batch_of_bad_pairs_only(quality, tmp_path):
    for name in "ab":
        write_lossless(tmp_path / f"{name}.mkv", moving_frames(3))
        (tmp_path / f"{name}_m.mkv").write_bytes(b"nonsense")
    args = ("--gt-dir", tmp_path, "--pred-dir", tmp_path, "--method", "m", "--metrics", "psnr")
    code, out, err = quality(*args, "--output", tmp_path / "r.json")
    assert code == 2 and out == ""
    lines = err.splitlines()
    assert "failed: a: " in lines[0] and "failed: b: " in lines[1] and len(lines) == 3
    assert "nothing could be measured: none of 2 pairs, for the reasons above" in lines[2]
    assert [row["name"] for row in strict_json(tmp_path / "r.json")["failures"]] == ["a", "b"]


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
    assert "i3d_rgb_imagenet.pt: run `python -m hetcache.metrics i3d`" in out
    code, _, err = quality("--gt-dir", folder, "--pred-dir", folder, "--method", "m", "--metrics", "vfid")
    assert code == 2 and "nothing can be measured" in err and "hetcache.metrics i3d" in err


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_metric_in_batch_mode(quality, tmp_path, device):
    """The whole table, with the real networks, where their weights have been fetched."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("lpips")
    from hetcache.metrics.i3d_weights import default_checkpoint
    from hetcache.metrics.lpips import fetched_trunk

    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if not default_checkpoint().is_file() or not fetched_trunk("alex").is_file():
        pytest.skip("weights are not fetched: python -m hetcache.metrics")
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
