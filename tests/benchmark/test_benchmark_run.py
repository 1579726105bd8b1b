"""The benchmark command on a really built pipeline: a table, a page, resuming, random weights, one run's page."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from error_tables import TINY, smooth_tables
from toys import lend_calibration, toy_config

from hetcache.core.facts import weights_fingerprint
from hetcache.files import sole_holder
from hetcache.media.write import write_video

# Every step between the first and the last is partial, whatever the model's calibration says.
PARTIAL = {"cache_thresh": 1e-6, "refresh_band": 1e9, "margin_ratio": 0.1}
METHOD = "hetcache:" + ",".join(f"{name}={value}" for name, value in PARTIAL.items())
ROOT = Path(__file__).resolve().parents[2]
import inference  # noqa: E402
from hetcache.benchmark import command as benchmark  # noqa: E402
from hetcache.run import exact  # noqa: E402


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    rng = np.random.default_rng(0)
    base = np.kron(rng.integers(0, 255, (4, 6, 3), dtype=np.uint8), np.ones((24, 24, 1), np.uint8))
    mask = np.zeros((6, 96, 144, 3), np.uint8)
    mask[:, 30:60, 40:90] = 255
    for name, frames in (("videos/v", np.stack([np.roll(base, 3 * t, axis=1) for t in range(6)])), ("masks/v", mask)):
        path = folder / f"{name}.mp4"
        path.parent.mkdir()
        write_video(path, frames, 12.0)
    return folder


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A folder with the weights of a model that takes milliseconds."""
    from diffsynth_patches.tiny import build_tiny_pipeline, save_tiny_weights

    folder = tmp_path_factory.mktemp("toy")
    config = toy_config()
    save_tiny_weights(build_tiny_pipeline(config, seed=1), config, folder, {})
    lend_calibration(folder)
    return folder


@pytest.fixture(autouse=True)
def no_lpips(monkeypatch, tmp_path):
    monkeypatch.setenv("HETCACHE_CACHE", str(tmp_path / "none"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "none"))


def words(clip, toy, output, *extra):
    return [
        "--videos",
        str(clip / "videos"),
        "--masks",
        str(clip / "masks"),
        "--model",
        str(toy),
        "--frames",
        "5",
        "--height",
        "64",
        "--width",
        "96",
        "--steps",
        "5",
        "--repeats",
        "1",
        "--output",
        str(output),
        "--debug",
        *extra,
    ]


def test_the_command_compares_writes_and_resumes(clip, toy, tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    modes = ["--modes", METHOD, "pab", f"steps:{METHOD}"]
    assert benchmark.main(words(clip, toy, tmp_path, *modes)) == 0
    shown = capsys.readouterr().out
    assert "in-mask PSNR" in shown
    document = json.loads((tmp_path / "benchmark.json").read_text())
    rows = {row["method"]: row for row in document["rows"]}
    assert rows["baseline"]["flops_ratio"] == rows["baseline"]["speedup"] == 1.0
    assert rows[METHOD]["partial"] == 3
    assert rows[METHOD]["flops_ratio"] > 1
    assert rows[METHOD]["cache_bytes"] > 0
    assert rows[f"steps:{METHOD}"]["full"] < 5
    assert rows["pab"]["quality"]["baseline"]["in_mask"]["psnr"] > 10
    assert rows["pab"]["quality"]["source"]["all"]["psnr"] > 3
    assert all(row["vae_encode_s"] > 0 and row["vae_decode_s"] > 0 for row in document["rows"])
    page = (tmp_path / "report.html").read_text()
    assert "data-tokens" in page
    assert "hetcache.metrics lpips" in page

    import diffsynth_patches.loader as loader

    monkeypatch.setattr(loader, "load_pipeline", lambda *args: pytest.fail("the model was loaded"))
    assert benchmark.main(words(clip, toy, tmp_path, *modes)) == 0
    assert "finished before" in capsys.readouterr().out
    assert json.loads((tmp_path / "benchmark.json").read_text())["rows"] == document["rows"]


def test_an_exact_plan_is_made_for_each_run_and_needs_tables(clip, toy, tmp_path, capsys, monkeypatch):
    asked = words(clip, toy, tmp_path / "out", "--modes", "exact:2")
    assert benchmark.main(asked) == 1 and "run python -m hetcache.calibrate --errors" in capsys.readouterr().out
    origin = replace(TINY, weights=weights_fingerprint(str(toy)))
    smooth_tables(8, origin=origin).save(tmp_path / "tables.safetensors")
    monkeypatch.setattr(exact, "tables_file", lambda calibration: tmp_path / "tables.safetensors")
    assert benchmark.main(asked) == 0
    rows = json.loads((tmp_path / "out/benchmark.json").read_text())["rows"]
    assert rows[1]["method"] == "exact:2" and 2.0 <= rows[1]["flops_ratio"] < 3.0
    run = next((tmp_path / "out/cells").glob("*/exact-2-*/run-0.json"))
    assert json.loads(run.read_text())["config"]["decisions"].startswith("F,")


def test_a_second_benchmark_in_one_folder_is_refused(clip, toy, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(benchmark, "run_held", lambda *_: pytest.fail("two at once"))
    with sole_holder(tmp_path / ".lock", "held"):
        argv = [word for word in words(clip, toy, tmp_path, "--modes", "pab") if word != "--debug"]
        assert benchmark.main(argv) == 2
    assert f"--output {tmp_path}: another benchmark is writing it" in capsys.readouterr().err


def test_fresh_runs_everything_again_and_a_failure_is_exit_code_1(clip, toy, tmp_path, capsys, monkeypatch):
    from hetcache.modes import MODES

    assert benchmark.main(words(clip, toy, tmp_path, "--modes", "baseline")) == 0

    def broken(config, context):
        raise RuntimeError("no luck")

    monkeypatch.setitem(MODES, "pab", type(MODES["pab"])(**{**vars(MODES["pab"]), "cache": broken}))
    assert benchmark.main(words(clip, toy, tmp_path, "--fresh", "--modes", "pab")) == 1
    shown = capsys.readouterr().out
    assert "finished before" not in shown
    assert "pab: FAILED: no luck" in shown


@pytest.mark.parametrize(
    "extra, message",
    [
        (["--frames", "6"], "nearest 5 or 9"),
        (["--modes", "warp"], "unknown mode"),
        (["--steps", "0"], "at least 1"),
        (["--random-weights"], "--model wan2.1"),
        (["--decisions", "FPR"], "--random-weights"),
        (["--masks", "nowhere"], "not a folder"),
        (["--model", "wan9"], "unknown model"),
        (["--device", "cuda"], "cpu"),
    ],
)
def test_bad_input_is_one_line_with_exit_code_2(extra, message, clip, toy, tmp_path, capsys):
    if "cuda" in extra and torch.cuda.is_available():
        pytest.skip("has CUDA")
    arguments = [word for word in words(clip, toy, tmp_path) if word != "--debug"]
    assert benchmark.main([*arguments, *extra]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1


def test_random_weights_replay_decisions_and_say_that_no_quality_can_be_read(clip, tmp_path, capsys, monkeypatch):
    import diffsynth_patches.random_weights as random_weights
    from diffsynth_patches.tiny.autoencoder import TinyAutoencoder
    from diffsynth_patches.tiny.vae import TinyVideoVAE

    shape = random_weights.WanShape(48, 96, 2, 4, (0, 2), text_len=8, text_dim=32)
    monkeypatch.setitem(random_weights.SHAPES, "wan2.1-vace-1.3b", shape)
    monkeypatch.setattr(
        random_weights, "WanVideoVAE", lambda: TinyVideoVAE(TinyAutoencoder(16, 16, 1, 1, 8, features=2))
    )
    extra = ["--random-weights", "--decisions", "FRPRF"]
    assert benchmark.main(words(clip, "wan2.1-vace-1.3b", tmp_path, *extra)) == 0
    assert "no quality can be read" in " ".join(capsys.readouterr().out.split())
    document = json.loads((tmp_path / "benchmark.json").read_text())
    rows = {row["method"]: row for row in document["rows"]}
    assert list(rows) == ["baseline", "hetcache", "steps:hetcache"]
    assert rows["hetcache"]["decisions"] == "FRPRF"
    assert rows["hetcache"]["quality"] == {}
    page = (tmp_path / "report.html").read_text()
    assert "No quality can be read" in page
    assert "Side by side" not in page


def test_steady_decisions_fit_the_rule():
    from hetcache.method.config import HetCacheConfig
    from hetcache.method.replay import steady_decisions

    letters = steady_decisions(HetCacheConfig().rule(), 50)
    assert len(letters) == 50
    assert letters[0] == letters[-1] == "F"
    assert set(letters) == set("FPR")


def test_inference_writes_the_same_page_for_one_run(clip, toy, tmp_path, capsys):
    output = tmp_path / "out.mp4"
    settings = [word for name, value in PARTIAL.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    arguments = [
        "--mode",
        "hetcache",
        *settings,
        "--video",
        str(clip / "videos/v.mp4"),
        "--mask",
        str(clip / "masks/v.mp4"),
        "--model",
        str(toy),
        "--frames",
        "5",
        "--steps",
        "5",
        "--height",
        "64",
        "--width",
        "96",
        "--output",
        str(output),
        "--report",
        "--compare",
    ]
    assert inference.main(arguments) == 0
    page = output.with_suffix(".html").read_text()
    for text in ("before | after", "Steps", "Tokens", "Environment", "<i>--cache-thresh</i>", "faster denoising"):
        assert text in page
    assert str(output.with_suffix(".html")) in capsys.readouterr().out
    record = json.loads(output.with_suffix(".json").read_text())
    assert len(re.findall(r"<g><rect", page)) == len(record["decisions"]["cond"])
