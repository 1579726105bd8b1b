"""`evaluation.py vbench` against a stand-in that takes VBench's command line and leaves its kind of files."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

import pytest
from metrics_helpers import load_evaluation

STAND_IN = """
import argparse, json, os, sys, time
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--output_path", default="./evaluation_results/")
parser.add_argument("--videos_path", required=True)
parser.add_argument("--dimension", nargs="+", required=True)
parser.add_argument("--mode", choices=["custom_input", "vbench_standard", "vbench_category"], default="vbench_standard")
args = parser.parse_args()
(dimension,) = args.dimension
videos = sorted(Path(args.videos_path).glob("*.mp4"))
assert videos and args.mode == "custom_input", "custom videos only"
if dimension == "broken":
    sys.exit("RuntimeError: no kernel image is available")
if dimension == "silent":
    sys.exit(0)
out = Path(args.output_path)
scores = {"subject_consistency": 0.9, "dynamic_degree": True, "imaging_quality": 0.7}
score = scores.get(dimension, 0.5)
details = [{"video_path": str(path), "video_results": score} for path in videos]
old = out / "results_2020-01-01-00:00:00_eval_results.json"
old.write_text(json.dumps({dimension: [0.0, []]}))
os.utime(old, (1, 1))
name = dimension
(out / "results_2030-01-01-00:00:00_full_info.json").write_text("[]")
(out / "results_2030-01-01-00:00:00_eval_results.json").write_text(json.dumps({name: [float(score), details]}))
"""


@pytest.fixture
def vbench(capsys, tmp_path, monkeypatch):
    """Run the subcommand in an empty working folder: (exit code, stdout, stderr)."""
    module = load_evaluation()
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def run(*args: object) -> tuple[int, str, str]:
        code = module.main(["vbench", *map(str, args)])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def script(tmp_path) -> Path:
    folder = tmp_path / "VBench checkout; touch pwned"
    folder.mkdir()
    (folder / "evaluate.py").write_text(STAND_IN)
    return folder / "evaluate.py"


@pytest.fixture
def preds(tmp_path) -> Path:
    folder = tmp_path / "preds"
    folder.mkdir()
    for name in ("a_m.mp4", "b_m.mp4", "a_other.mp4"):
        (folder / name).write_bytes(b"x")
    return folder


def test_scores_of_the_six_default_dimensions(vbench, script, preds, tmp_path):
    code, out, err = vbench(
        "--pred-dir", preds, "--method", "m", "--vbench-script", script, "--output", tmp_path / "r.json"
    )
    assert code == 0 and err == ""
    assert "VBench, 2 videos" in out and "0.9000" in out
    content = json.loads((tmp_path / "r.json").read_text())
    assert list(content["scores"]) == [
        "subject_consistency",
        "background_consistency",
        "motion_smoothness",
        "dynamic_degree",
        "aesthetic_quality",
        "imaging_quality",
    ]
    assert content["scores"]["subject_consistency"] == 0.9
    assert content["per_video"] == {name: content["scores"] for name in ("a_m.mp4", "b_m.mp4")}
    assert content["videos"] == ["a_m.mp4", "b_m.mp4"] and content["errors"] == {}
    assert content["schema"] == "hetcache.evaluation/1" and content["command"] == "vbench"
    assert content["parameters"]["vbench_script"] == str(script)
    assert not list(tmp_path.rglob("pwned"))


def test_only_this_runs_newest_file_counts(vbench, script, preds, tmp_path):
    stale = tmp_path / "work" / "vbench_results" / "run-old" / "imaging_quality"
    stale.mkdir(parents=True)
    (stale / "results_9999_eval_results.json").write_text(json.dumps({"imaging_quality": [0.1, []]}))
    args = ("--pred-dir", preds, "--vbench-script", script, "--dimensions", "imaging_quality")
    for _ in range(2):
        code, _, _ = vbench(*args, "--output", tmp_path / "r.json")
        assert code == 0
        assert json.loads((tmp_path / "r.json").read_text())["scores"] == {"imaging_quality": 0.7}


def test_errors_of_a_dimension_are_kept_and_the_others_go_on(vbench, script, preds, tmp_path):
    code, out, err = vbench(
        "--pred-dir", preds, "--vbench-script", script, "--output", tmp_path / "r.json",
        "--dimensions", "broken", "silent", "odd_one", "imaging_quality",
    )  # fmt: skip
    assert code == 1 and "imaging_quality" in out
    content = json.loads((tmp_path / "r.json").read_text())
    assert content["scores"].keys() == {"odd_one", "imaging_quality"}
    assert "status 1: RuntimeError: no kernel image is available" in content["errors"]["broken"]
    assert "wrote no *_eval_results.json" in content["errors"]["silent"]
    assert "failed: broken: " in err and "failed: silent: " in err


def test_a_result_file_of_another_shape(vbench, script, preds, tmp_path):
    script.write_text(STAND_IN.replace("name = dimension", "name = 'something else'"))
    code, out, err = vbench("--pred-dir", preds, "--vbench-script", script, "--dimensions", "imaging_quality")
    assert code == 2 and out == "" and "does not hold a score for imaging_quality" in err
    assert err.splitlines()[-1].endswith("nothing could be measured: every dimension failed, for the reasons above")


def test_a_method_that_no_name_ends_in_is_said(vbench, script, preds):
    code, out, err = vbench(
        "--pred-dir", preds, "--method", "new", "--vbench-script", script, "--dimensions", "imaging_quality"
    )
    assert code == 0 and "VBench, 3 videos" in out and "ends in _new: all 3 videos were taken" in err


def test_what_is_missing_is_named(vbench, script, preds, tmp_path, monkeypatch):
    monkeypatch.delenv("CONDA_EXE", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    empty = tmp_path / "empty"
    empty.mkdir()
    for args, words in (
        (
            ("--pred-dir", preds, "--vbench-script", tmp_path / "none.py"),
            "git clone https://github.com/Vchitect/VBench",
        ),
        (("--pred-dir", preds, "--vbench-script", script, "--conda-env", "vbench"), "conda is not on the PATH"),
        (("--pred-dir", empty, "--vbench-script", script), "holds no video"),
        (("--pred-dir", tmp_path / "none", "--vbench-script", script), "does not exist"),
    ):
        code, _, err = vbench(*args)
        assert code == 2 and words in err and err.count("\n") == 1


def test_conda_is_called_with_an_argument_list(vbench, script, preds, tmp_path, monkeypatch):
    """A stand-in conda writes down its arguments and runs what follows `python` with this Python."""
    log = tmp_path / "conda.log"
    conda = tmp_path / "bin" / "conda"
    conda.parent.mkdir()
    conda.write_text(
        f"#!{sys.executable}\nimport json, subprocess, sys\n"
        f"open({str(log)!r}, 'a').write(json.dumps(sys.argv[1:]) + '\\n')\n"
        "sys.exit(subprocess.call([sys.executable, *sys.argv[6:]]))\n"
    )
    conda.chmod(conda.stat().st_mode | stat.S_IXUSR)
    monkeypatch.delenv("CONDA_EXE", raising=False)
    monkeypatch.setenv("PATH", f"{conda.parent}{os.pathsep}{os.environ['PATH']}")
    code, out, err = vbench(
        "--pred-dir", preds, "--vbench-script", script, "--conda-env", "my env; ls", "--dimensions", "imaging_quality"
    )
    assert code == 0 and "0.7000" in out, err
    called = json.loads(log.read_text())
    assert called[:6] == ["run", "--no-capture-output", "-n", "my env; ls", "python", str(script)]
    assert called[6:8] == ["--dimension", "imaging_quality"]
