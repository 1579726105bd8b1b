"""A run whose steps are planned exactly: what is said before, what the record keeps, the same run again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from error_tables import TINY, smooth_tables
from long_runs import make_clip

import inference
from hetcache.core.decisions import parse_decisions
from hetcache.core.vocabulary import Step
from hetcache.run import exact, step_times
from hetcache.run.editor import Editor
from hetcache.run.step_times import Stopwatch, timed_kinds, times_from

STEPS = 12


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A run on a made clip, with the tables of a made model."""
    make_clip(tmp_path)
    smooth_tables(24, origin=TINY).save(tmp_path / "tiny.errors.safetensors")
    monkeypatch.setattr(exact, "tables_file", lambda calibration: tmp_path / "tiny.errors.safetensors")
    files = f"--video {tmp_path}/v.mp4 --mask {tmp_path}/m.mp4 --output {tmp_path}/o.mp4"
    return f"{files} --model tiny --height 96 --width 128 --frames 9 --fill grey --focus off --steps {STEPS}".split()


def record(words: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(words[words.index("--output") + 1]).with_suffix(".json").read_text())
    return found


def test_a_planned_run_keeps_its_promise_and_runs_again(
    words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert inference.main([*words, "--target-speedup", "2.0", "--planner", "exact", "--compare", "--lossless"]) == 0
    said, facts = capsys.readouterr().out, record(words)
    plan = facts["plan"]
    assert "exact plan: " in said and f"--decisions {facts['config']['decisions']}" in said
    assert plan["asked"] == {"target_speedup": 2.0, "quality": None, "seconds": None}
    assert plan["predicted"]["flops_ratio"] >= 2.0
    assert plan["real"]["flops_ratio"] == pytest.approx(plan["predicted"]["flops_ratio"], rel=1e-3)
    assert plan["real"]["psnr_db"] == facts["compare"]["psnr_db"]["in_mask"]
    letters = "".join(decision.compute.value for decision in parse_decisions(facts["config"]["decisions"]))
    assert letters == facts["decisions"]["cond"] == facts["decisions"]["uncond"]
    assert facts["config"]["context_kv"] == "cached" and facts["config"]["forecast"] == 1
    first = (tmp_path / "o.mp4").read_bytes()
    same = "--context-kv cached --forecast 1 --forecast-in sigma --lossless".split()
    assert inference.main([*words, "--decisions", facts["config"]["decisions"], *same]) == 0
    assert (tmp_path / "o.mp4").read_bytes() == first and "plan" not in record(words)


def test_a_floor_and_seconds_are_planned_and_said(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert inference.main([*words, "--quality", "20", "--plan"]) == 0
    low = capsys.readouterr().out
    assert inference.main([*words, "--quality", "62", "--plan"]) == 0
    high = capsys.readouterr().out

    def figure(said: str, before: str) -> float:
        return float(said.split(before)[1].split()[0].rstrip("x"))

    assert figure(low, "in the mask against the uncached run, above ") >= 20
    assert figure(high, "in the mask against the uncached run, above ") >= 62
    assert figure(low, "exact plan: ") > figure(high, "exact plan: ")
    assert inference.main([*words, "--seconds", "1000", "--plan"]) == 0
    assert "s of denoising, predicted inf dB" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags, said",
    [
        ("--target-speedup 50 --planner exact", "out of reach of the exact plan: at most "),
        ("--seconds 0.001", "the denoising loop takes at least "),
        ("--quality 40 --seconds 3", "--quality and --seconds ask for different plans"),
        ("--quality 0", "--quality 0.0: greater than 0"),
        ("--planner exact", "give --target-speedup, --quality or --seconds with it"),
        ("--quality 40 --planner threshold", "needs predicted errors"),
        ("--quality 40 --mode teacache", "plan --mode hetcache and its presets, not teacache"),
        ("--quality 40 --whole-steps-only", "leave --whole-steps-only out"),
        (f"--quality 40 --decisions Fx{STEPS}", "--decisions is a plan already"),
        (f"--target-speedup 2 --decisions Fx{STEPS}", "--decisions is a plan already"),
        (
            "--quality 40 --margin-width 9",
            "measured with --margin-width by the grid, and this run has 9: run python",
        ),
        ("--quality 40 --no-use-kmeans", "of 16 clusters by attention, and this run has of no clusters by attention"),
        ("--quality 40 --cfg-scale 3", "measured with guidance 2.0, and this run has 3.0: run python -m hetcache.cal"),
        ("--quality 40 --cache-budget-gib 0.0001", "--cache-budget-gib 0.0001"),
    ],
)
def test_what_cannot_be_planned_is_said_in_a_line(
    words: list[str], capsys: pytest.CaptureFixture[str], flags: str, said: str
) -> None:
    assert inference.main([*words, "--plan", *flags.split()]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and "\n" not in error


def test_what_the_tables_were_measured_with_is_run_and_said(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert inference.main([*words, "--plan", "--quality", "20", "--forecast", "2"]) == 0
    assert " --context-kv cached --forecast 1 --forecast-in sigma\n" in capsys.readouterr().out
    # As on a GPU whose free memory does not hold the keys and values.
    monkeypatch.setattr(Editor, "within_budget", lambda self, mode, config, context: replace(config, forecast=0))
    assert inference.main([*words, "--plan", "--quality", "20"]) == 2
    assert "more than half of the GPU's free memory: give it more" in capsys.readouterr().err


def test_without_tables_the_command_is_named(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    (Path(words[1]).parent / "tiny.errors.safetensors").unlink()
    assert inference.main([*words, "--plan", "--quality", "40"]) == 2
    assert "run python -m hetcache.calibrate --errors --model tiny --cfg-scale 2" in capsys.readouterr().err


def test_the_first_step_is_timed_with_both_branches(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([1000.0, 4000.0, 5000.0])
    monkeypatch.setattr(step_times, "now_ms", lambda: next(clock))
    watch = Stopwatch(3)
    watch.start()  # the conditional branch asks for its manager
    watch.start()  # the other one, in the middle of the step
    for index in range(2):
        watch(Step(index, 3, 0.0), [])
    assert watch.step_s == [3.0, 1.0]


def test_times_are_the_medians_without_the_first_step() -> None:
    kinds = timed_kinds(2)
    seconds = {"F": (1.0,), "P": (0.4, 0.6), "R": (0.1,)}
    step_s = [seconds[kind.compute.value][kind.budget] for kind in kinds]
    step_s[0], step_s[4] = 1.5, 9.0
    times = times_from(kinds, step_s, 20.0)
    assert (times.full_s, times.partial_s) == (1.0, (0.4, 0.6)) and times.around_s == pytest.approx(0.5)
    assert times.costs.full == 1_000_000 and times.reuse_s == 0.1
