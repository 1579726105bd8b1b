"""A metric is one record: it shows in every report; and PSNR and SSIM by region are taken in one way everywhere."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest
from benchmark_fakes import FakeExecutor, make_plan
from metrics_helpers import LIGHT, moving_frames, noisy, strict_json, write_lossless, write_mask

from hetcache.benchmark.cells import Store
from hetcache.benchmark.document import make_document, page_markdown
from hetcache.benchmark.page_table import table_html
from hetcache.benchmark.quality import judge
from hetcache.benchmark.runner import run_plan
from hetcache.metrics import REGION_NAMES, psnr, regions, ssim
from hetcache.metrics.frames import FrameMeter, mean_in_regions
from hetcache.metrics.metric import FileMetric, Metric, PairMetric, SetMetric, VideoMetric, nan_mean
from hetcache.metrics.registry import METRICS, chosen, families, measure
from hetcache.run.compare import compare

skimage_metrics = pytest.importorskip("skimage.metrics", reason="pip install scikit-image")


def changed(pred_THWC, other_THWC, regions_THW):
    """The share of pixels of each frame pair that differ."""
    return mean_in_regions(pred_THWC, other_THWC, regions_THW, lambda a, b: (a != b).any(axis=2).astype(np.float64))


TOY = PairMetric(
    "changed", "CHANGED", "share of pixels that differ", meter=lambda _: FrameMeter(changed, {"changed": nan_mean})
)


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(METRICS, "changed", TOY)


def pair(count=3, height=40, width=56):
    a = moving_frames(count, height, width)
    mask = np.zeros(a.shape[:3], bool)
    mask[:, 10:28, 12:40] = True
    b = np.where(mask[..., None], noisy(a), a)
    return a, b, mask


def test_a_new_metric_is_in_every_form_of_the_evaluation(toy, quality, tmp_path):
    a, b, mask = pair()
    files = [write_lossless(tmp_path / f"{name}.mkv", frames) for name, frames in (("a", a), ("b", b))]
    mask_file = write_mask(tmp_path / "m.mkv", mask)
    args = ("--gt", files[0], "--pred", files[1], "--mask", mask_file, "--metrics", "psnr", "changed")
    code, out, err = quality(*args, "--output", tmp_path / "r.json", "--csv", tmp_path / "r.csv")
    assert code == 0, err
    document = strict_json(tmp_path / "r.json")
    want = float(np.mean((a != b).any(axis=3).mean(axis=(1, 2))))
    assert 0 < want < 1
    assert document["per_video"][0]["metrics"]["all"]["changed"] == pytest.approx(want)
    assert document["per_video"][0]["metrics"]["outside"]["changed"] == 0.0
    assert document["aggregate"]["gt"]["all"]["changed"] == pytest.approx(want)
    assert document["definitions"]["changed"] == "share of pixels that differ"
    head, line = next(text for text in out.splitlines() if "CHANGED" in text), f"{want:.4f}"
    assert head.split()[-1] == "CHANGED" and line in out
    rows = list(csv.DictReader((tmp_path / "r.csv").open()))
    assert float(rows[0]["changed"]) == pytest.approx(want)


def test_a_new_metric_is_asked_for_by_default(toy, quality, tmp_path):
    video = write_lossless(tmp_path / "a.mkv", moving_frames(3, 64, 64))
    assert "changed" in families(by_default=True)
    _, out, _ = quality("--gt", video, "--pred", video, "--device", "cpu")
    assert "CHANGED" in out


def test_a_new_metric_is_in_the_benchmarks_tables(toy, tmp_path):
    class Judge(FakeExecutor):
        def judge(self, cell, frames, baseline):
            mask = np.zeros(frames.shape[:3], bool)
            mask[:, 8:20, 10:30] = True
            ready = dict.fromkeys(("psnr", "ssim", "changed"))
            return judge(frames, baseline, np.zeros_like(frames), mask, ready)

    from datetime import date

    plan, store = make_plan(tmp_path, modes=("hetcache",), seeds=(0,), repeats=1), Store(tmp_path)
    run_plan(plan, store, Judge(store), "one", lambda event: None)
    document = make_document(plan, store, "tiny", "x", date(2026, 1, 2))
    (_, hetcache) = document["rows"]
    assert hetcache["quality"]["baseline"]["in_mask"]["changed"] == 0.0
    assert hetcache["quality"]["source"]["all"]["changed"] > 0.9
    for page in (page_markdown(document), table_html(document["rows"])):
        assert "CHANGED" in page
    assert "CHANGED of the raw output, in mask" in table_html(document["rows"])


def oracle(a, b, mask, border=0):
    """PSNR and SSIM inside a mask, frame by frame, as all four places took them before they were one."""
    values = {"psnr": [], "ssim": []}
    for x, y, inside in zip(a, b, mask, strict=True):
        difference = x.astype(np.int32) - y
        error = np.einsum("hwc,hwc->hw", difference, difference) / 3.0
        mse = float(np.mean(error[inside])) if inside.any() else math.nan
        values["psnr"].append(math.inf if mse == 0 else 10.0 * math.log10(255.0 * 255.0 / mse))
        _, full = skimage_metrics.structural_similarity(x, y, win_size=7, channel_axis=-1, data_range=255.0, full=True)
        inner = (slice(3, -3), slice(3, -3))
        part = full.mean(axis=2)[inner][inside[inner]]
        values["ssim"].append(float(np.mean(part)) if part.size else math.nan)
    finite = [value for value in values["psnr"] if math.isfinite(value)]
    same = [value for value in values["psnr"] if math.isinf(value)]
    return {
        "psnr": math.fsum(finite) / len(finite) if finite else math.inf if same else math.nan,
        "ssim": nan_mean(values["ssim"]),
    }


@pytest.mark.parametrize("kind", ["box", "empty", "full", "identical frame"])
def test_every_place_takes_psnr_and_ssim_by_region_in_one_way(kind, quality, tmp_path):
    a, _, mask = pair(5)
    b = noisy(a)
    if kind == "empty":
        mask = np.zeros_like(mask)
    elif kind == "full":
        mask = np.ones_like(mask)
    elif kind == "identical frame":
        b[2] = a[2]
    areas = regions(mask)
    want = {name: oracle(a, b, area) for name, area in {**areas, "whole": np.ones_like(mask)}.items()}

    stages = {"denoise": 1.0}
    ran = compare(stages, stages, a, b, mask)
    judged = judge(a, b, b, mask, dict.fromkeys(("psnr", "ssim")))["baseline"]
    measured = measure(a, b, areas, dict.fromkeys(("psnr", "ssim")))
    files = [write_lossless(tmp_path / f"{name}.mkv", frames) for name, frames in (("a", a), ("b", b))]
    args = ("--pred", files[0], "--gt", files[1], "--mask", write_mask(tmp_path / "m.mkv", mask), *LIGHT)
    assert quality(*args, "--output", tmp_path / "r.json", "--batch-frames", 2)[0] == 0
    written = strict_json(tmp_path / "r.json")["per_video"][0]["metrics"]

    for metric, key, alone in (("psnr", "psnr_db", psnr), ("ssim", "ssim", ssim)):
        whole = np.ones_like(mask)
        assert ran[key]["whole"] == want["whole"][metric] == alone(a, b, whole)
        for name in REGION_NAMES:
            value = want[name][metric]
            if not areas[name].any():
                assert ran[key][name] is None and math.isnan(measured[name][metric])
                assert written[name][metric] is None and metric not in judged.get(name, {})
                continue
            assert ran[key][name] == measured[name][metric] == alone(a, b, areas[name]) == value
            assert written[name][metric] == value
            if name in ("in_mask", "seam"):
                assert judged[name][metric] == value


def test_every_record_is_of_a_kind_that_is_measured():
    for name, metric in METRICS.items():
        assert name == metric.name and metric.definition
        assert isinstance(metric, (PairMetric, VideoMetric, FileMetric, SetMetric))
    assert {metric.asked for metric in chosen(Metric)} == set(families())
    assert set(families()) - set(families(by_default=True)) == {"vmaf"}
