"""scripts/study: known answers of its statistics, clips that come out the same, and runs that go on after a kill."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from typing import Any

import numpy as np
import pytest

from hetcache.benchmark.cells import Cell, Store
from scripts.study import __main__ as command
from scripts.study.cells import StudyBench, check_code, code_of
from scripts.study.clips import FRAMES, HEIGHT, SCENES, WIDTH, make, write_clips
from scripts.study.curves import FIGURES, LPIPS, PSNR, Point, at, by_clip, duel, estimate, mean_at, standing
from scripts.study.gather import Runs, reach
from scripts.study.pace import Pace
from scripts.study.study import Asked, Study
from scripts.study.sweeps import Sweep, known_sweeps


def line(*pairs: tuple[float, float]) -> list[Point]:
    return [Point(speedup, {"psnr": value, "lpips": (60 - value) / 100}) for speedup, value in pairs]


def test_between_two_points_the_logarithm_of_the_speedup_counts() -> None:
    points = line((8, 20.0), (2, 40.0))
    assert at(points, 4, PSNR) == pytest.approx(30.0)
    assert at(points, 2, PSNR) == 40.0 and at(points, 8, PSNR) == 20.0


def test_lpips_goes_evenly_by_its_logarithm() -> None:
    points = [Point(speedup, {"lpips": value}) for speedup, value in ((1, 0.0), (2, 1e-4), (8, 1e-2))]
    assert at(points, 4, LPIPS) == pytest.approx(1e-3)
    assert at(points, 1, LPIPS) == pytest.approx(1e-6)


def test_nothing_is_said_outside_the_measured_range() -> None:
    points = line((2, 40.0), (8, 20.0))
    assert at(points, 1.99, PSNR) is None and at(points, 8.01, PSNR) is None and at([], 2, PSNR) is None


def test_points_of_one_speed_are_averaged_and_identical_pixels_are_100_db() -> None:
    points = line((2, 40.0), (4, 30.0), (4, 20.0), (1, math.inf))
    assert at(points, 4, PSNR) == 25.0
    assert at(points, 1, PSNR) == 100.0


def test_seeds_are_averaged_before_clips() -> None:
    values = {("a", 0): 10.0, ("a", 1): 20.0, ("b", 0): 3.0}
    assert by_clip(values) == {"a": 15.0, "b": 3.0}
    assert estimate(values).mean == 9.0 and estimate(values).clips == 2


def test_the_interval_comes_from_clips_and_not_from_seeds() -> None:
    """Twenty seeds of each of two clips tell as much of other clips as one seed of each."""
    few = {("a", 0): 0.0, ("b", 0): 1.0}
    many = {(clip, seed): float(clip == "b") for clip in "ab" for seed in range(20)}
    assert (estimate(few).low, estimate(few).high) == (0.0, 1.0) == (estimate(many).low, estimate(many).high)


def test_the_interval_of_equal_clips_is_a_point_and_that_of_many_is_the_normal_one() -> None:
    same = estimate({(str(clip), 0): 7.0 for clip in range(8)})
    assert same.low == same.mean == same.high == 7.0
    rng = np.random.default_rng(0)
    values = rng.normal(5, 2, 400)
    found = estimate({(str(clip), 0): float(value) for clip, value in enumerate(values)})
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert found.high - found.mean == pytest.approx(half, rel=0.1)
    assert found.mean - found.low == pytest.approx(half, rel=0.1)


def test_a_mean_needs_every_clip() -> None:
    curves = {("a", 0): line((2, 40.0), (12, 20.0)), ("b", 0): line((2, 30.0), (6, 20.0))}
    assert mean_at(curves, 2, PSNR).estimate.mean == 35.0
    short = mean_at(curves, 8, PSNR)
    assert short.estimate is None and (short.reached, short.blocks) == (1, 2)


def test_a_clip_that_ends_with_one_seed_is_named_whichever_seed_that_is() -> None:
    far, short = line((2, 40.0), (12, 20.0)), line((2, 30.0), (6, 20.0))
    for first, second in ((far, short), (short, far)):
        curve = {("a", 0): first, ("a", 1): second, ("b", 0): far}
        assert reach(curve, 8, PSNR)["outside"] == ["a"] and reach(curve, 2, PSNR)["outside"] == []


CURVES = {
    "hetcache": {("a", 0): line((2, 40.0), (8, 30.0)), ("b", 0): line((2, 40.0), (8, 30.0))},
    "steps": {("a", 0): line((2, 38.0), (8, 20.0)), ("b", 0): line((2, 41.0), (8, 31.0))},
    "hetcache_paper": {("a", 0): line((2, 50.0), (8, 50.0)), ("b", 0): line((2, 50.0), (8, 50.0))},
    "short": {("a", 0): line((1, 90.0), (3, 80.0)), ("b", 0): line((1, 10.0), (3, 10.0))},
}


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.key)
def test_who_is_ahead(figure: Any) -> None:
    met = duel(CURVES, "hetcache", "steps", 8, figure)
    assert met is not None and (met.ahead, met.blocks) == (1, 2)
    assert met.difference.mean == pytest.approx(4.5 if figure is PSNR else 0.045)  # at a measured point
    assert duel(CURVES, "hetcache", "short", 8, figure) is None
    far = standing(CURVES, ["hetcache", "hetcache_paper"], 8, figure)
    assert far is not None and (far.ahead, far.blocks, far.best) == (1, 2, {"steps": 1})
    near = standing(CURVES, ["hetcache", "hetcache_paper"], 2, figure)
    assert near is not None and (near.ahead, near.best) == (0, {"short": 1, "steps": 1})


def test_level_is_not_ahead() -> None:
    same = {name: {("a", 0): line((2, 40.0), (8, 30.0))} for name in ("hetcache", "steps")}
    met, stood = duel(same, "hetcache", "steps", 4, LPIPS), standing(same, ["hetcache"], 4, LPIPS)
    assert met is not None and met.ahead == 0 and stood is not None and stood.ahead == 0


@pytest.mark.parametrize("name", SCENES)
def test_clips_come_out_the_same_and_move(name: str) -> None:
    frames, mask = make(name, 9)
    again, _ = make(name, 9)
    assert np.array_equal(frames, again) and frames.shape == (9, HEIGHT, WIDTH, 3)
    assert 0.03 <= mask.mean() <= 0.35
    assert np.abs(frames[1:].astype(int) - frames[:-1]).mean() > 1
    assert frames.std() > 20


def test_written_clips_are_the_made_ones(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from hetcache.media.clip import read_clip

    monkeypatch.setattr("scripts.study.clips.SCENES", {"balls": SCENES["balls"]})
    write_clips(tmp_path)
    clip = read_clip(tmp_path / "balls", tmp_path / "balls_mask", FRAMES, (HEIGHT, WIDTH))
    frames, mask = make("balls")
    assert np.array_equal(clip.frames_THWC, frames) and np.array_equal(clip.mask_THW, mask)


def test_every_curve_is_of_methods_that_exist() -> None:
    known = known_sweeps()
    assert {"steps", "teacache", "magcache", "easycache", "adacache", "hetcache_sampled"} <= known.keys()
    points = [method.name for sweep in known.values() for method in sweep.methods()]
    assert len(set(points)) == len(points)


def test_the_dearest_points_can_wait() -> None:
    known = known_sweeps()
    assert known["steps"].from_point(2).words == known["steps"].words[1:]
    assert known["steps"].from_point(1) == known["steps"]
    assert known["adacache"].from_point(2) == known["adacache"]


class FakeBench(StudyBench):
    """Speed and quality from the method's name; `calls` are the cells that ran."""

    def __init__(self, calls: list[str], shade: int = 0, dies_after: int = 10**9) -> None:
        self.calls, self.shade, self.dies_after = calls, shade, dies_after

    def warm_up(self, case: Any) -> None:
        pass

    def run(self, cell: Cell, num_steps: int) -> Any:
        if len(self.calls) >= self.dies_after:
            raise KeyboardInterrupt
        self.calls.append(f"{cell.case.name} {cell.seed} {cell.method.name}")
        flops = 100 * num_steps if cell.method.mode == "baseline" else 1000
        frames = np.full((5, 16, 16, 3), num_steps + self.shade, np.uint8)
        pixels = hashlib.sha256(frames.tobytes()).hexdigest()
        record = {"flops": {"run": flops, "uncached": 5000}, "config": {"num_steps": num_steps}, "masked": 0.1}
        times = {name: 0.0 for name in ("text", "vae_encode", "vae_decode")}
        times |= {"denoise": flops / 1000, "total": flops / 1000}
        code = f"code {self.shade}"
        return {
            **record,
            "timing_s": times,
            "code": code,
            "mode_code": code_of(cell.method.mode),
            "pixels": pixels,
        }, frames

    def judge(self, cell: Cell, frames: Any, baseline: Any) -> Any:
        figures = {"psnr": float(cell.method.num_steps or 30), "lpips": 0.01}
        return {} if baseline is None else {"baseline": {"in_mask": figures, "seam": figures}}


SWEEP = Sweep("steps", ("steps:26", "steps:4"))
HETCACHE = Sweep("hetcache", ("hetcache:cache_thresh=0.05", "hetcache:cache_thresh=0.1"))


def study(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, bench: StudyBench, **asked: Any) -> Study:
    made = Study(Asked(tmp_path, (SWEEP, HETCACHE), clips=("pan", "real"), **asked))
    monkeypatch.setattr("scripts.study.study.write_clips", fake_clips)
    monkeypatch.setattr(Study, "executor", lambda self, frames: bench)
    return made


def fake_clips(folder: Any) -> None:
    for name in ("pan", "pan_mask"):
        (folder / name).mkdir(parents=True, exist_ok=True)


def test_a_killed_study_goes_on_where_it_was(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path, monkeypatch, FakeBench(first, dies_after=7), seeds=(0,), lengths=(5,)).run(60)
    second: list[str] = []
    whole = study(tmp_path, monkeypatch, FakeBench(second), seeds=(0,), lengths=(5,))
    assert whole.run(60) == 0
    # The first call is the look that the first estimate comes from.
    assert len(first) == 7 and first[0] == first[1] and len({*first, *second}) == 10
    # What the second process runs twice is the baseline's time that its ratios need, once a clip.
    assert [call for call in second if call in first] == ["real 0 baseline"]
    assert whole.missing() == []
    assert {block for block in Runs(whole, 5).blocks} == {("pan", 0), ("real", 0)}


def test_a_block_counts_only_when_every_curve_is_whole(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path, monkeypatch, FakeBench([], dies_after=7), seeds=(0,), lengths=(5,)).run(60)
    runs = Runs(study(tmp_path, monkeypatch, FakeBench([]), seeds=(0,), lengths=(5,)), 5)
    assert runs.blocks == [("pan", 0)] and runs.began == 2
    assert [point.speedup for point in runs.curves["steps"]["pan", 0]] == pytest.approx([50 / 26, 12.5])


def test_a_curve_that_has_just_begun_takes_no_block_from_the_others(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scripts.study.study.write_clips", fake_clips)
    monkeypatch.setattr(Study, "executor", lambda self, frames: FakeBench([]))

    def made(*sweeps: Sweep, clips: tuple[str, ...], seeds: tuple[int, ...] = (0, 1)) -> Study:
        return Study(Asked(tmp_path, sweeps, clips=clips, lengths=(5,), seeds=seeds))

    made(SWEEP, clips=("pan", "real")).run(60)
    made(SWEEP, HETCACHE, clips=("pan",), seeds=(0,)).run(60)
    runs = Runs(made(SWEEP, HETCACHE, clips=("pan", "real")), 5)
    assert (list(runs.curves), len(runs.blocks), runs.unfinished) == (["steps"], 4, {"hetcache": 1})
    made(SWEEP, HETCACHE, clips=("pan",)).run(60)
    runs = Runs(made(SWEEP, HETCACHE, clips=("pan", "real")), 5)
    assert (list(runs.curves), runs.blocks, runs.unfinished) == (["steps", "hetcache"], [("pan", 0), ("pan", 1)], {})


def test_only_what_was_set_makes_another_cell(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = study(tmp_path, monkeypatch, FakeBench([]))
    plan, case = made.plan(5), made.cases[0]
    folders = [plan.cell(method, case, seed).folder for method in made.methods for seed in (0, 1)]
    folders += [made.plan(9).cell(made.methods[0], case, 0).folder]
    assert len(set(folders)) == 2 * len(made.methods) + 1
    monkeypatch.setattr("hetcache.benchmark.methods.Method.config", lambda self: pytest.fail("a default counts"))
    assert made.plan(5).cell(made.methods[0], case, 0).folder == folders[0]


def test_an_exact_plan_is_another_cell_with_other_error_tables(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = study(tmp_path, monkeypatch, FakeBench([]))
    plan, case, exact = made.plan(5), made.cases[0], known_sweeps()["hetcache_exact"].methods()
    assert [method.mode for method in exact] == ["hetcache"] * 5 and exact[2].exact == 5.0
    methods = [made.methods[-1], exact[2]]
    before = [plan.cell(method, case, 0).folder for method in methods]
    monkeypatch.setattr("scripts.study.cells.digest_of_tables", lambda: "other")
    after = [plan.cell(method, case, 0).folder for method in methods]
    assert before[0] == after[0] and before[1] != after[1]


def test_new_code_has_to_give_the_same_pixels(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    study(tmp_path, monkeypatch, FakeBench([]), seeds=(0,), lengths=(5,)).run(60)
    calls: list[str] = []
    made = study(tmp_path, monkeypatch, FakeBench(calls), seeds=(0,), lengths=(5,))
    assert check_code(made.plan(5), made.store(5), FakeBench(calls)) == {"baseline": True, "hetcache": True}
    assert calls == ["pan 0 baseline", "pan 0 hetcache:cache_thresh=0.05"]
    assert check_code(made.plan(5), made.store(5), FakeBench([], shade=1), ["baseline"]) == {"hetcache": False}
    # A mode whose own file has changed is looked at point by point.
    monkeypatch.setattr("scripts.study.cells.code_of", lambda mode: "new")
    calls.clear()
    check_code(made.plan(5), made.store(5), FakeBench(calls))
    assert calls[1:] == ["pan 0 hetcache:cache_thresh=0.05", "pan 0 hetcache:cache_thresh=0.1"]


def test_a_mode_with_other_pixels_is_run_again_and_the_uncached_model_may_have_none(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    study(tmp_path, monkeypatch, FakeBench([]), seeds=(0,), lengths=(5,)).run(60)
    monkeypatch.setattr("scripts.study.study.facts_of_code", lambda: "newer")
    monkeypatch.setattr("scripts.study.study.check_code", lambda *_: {"baseline": True, "hetcache": False})
    calls: list[str] = []
    made = study(tmp_path, monkeypatch, FakeBench(calls), seeds=(0,), lengths=(5,))
    assert made.run(60) == 0
    assert [call for call in calls if "hetcache" in call] == [
        f"{clip} 0 hetcache:cache_thresh={value}" for clip in ("pan", "real") for value in (0.05, 0.1)
    ]
    assert not any("steps" in call for call in calls)
    monkeypatch.setattr("scripts.study.study.facts_of_code", lambda: "newest")
    monkeypatch.setattr("scripts.study.study.check_code", lambda *_: {"baseline": False})
    with pytest.raises(ValueError, match="the uncached model gives other pixels now"):
        made.run(60)


def test_the_pace_is_that_of_what_ran(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = study(tmp_path, monkeypatch, FakeBench([]), lengths=(9, 33), seeds=(0,))
    cells = {m.name: made.plan(9).cell(m, made.cases[0], 0) for m in made.methods}
    pace = Pace(50)
    assert pace.expected([(cells["baseline"], 9)]) == 0.0
    pace.saw(cells["baseline"], 9, 10.0)
    assert pace.expected([(cells["steps:26"], 9)]) == pytest.approx(5.2)
    assert pace.expected([(cells["baseline"], 33)]) == pytest.approx(10 * 33 / 9)
    assert pace.expected([(cells[HETCACHE.words[0]], 9)]) == pytest.approx(2.5)
    pace.saw(cells[HETCACHE.words[0]], 9, 1.0)
    assert pace.expected([(cells[HETCACHE.words[0]], 9), (cells["steps:4"], 9)]) == pytest.approx(1.8)


def test_the_command_reports_what_is_finished(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("scripts.study.study.write_clips", fake_clips)
    monkeypatch.setattr(Study, "executor", lambda self, frames: FakeBench([]))
    monkeypatch.setattr("scripts.study.__main__.chosen_sweeps", lambda names: (SWEEP, HETCACHE))
    words = ["--output", str(tmp_path / "out"), "--frames", "5", "--clips", "pan", "real"]
    assert command.main([*words, "--publish", str(tmp_path / "docs")]) == 0
    text = (tmp_path / "out" / "study.md").read_text()
    assert "| pan | generated, `scripts/study/clips.py` | 10.0% |" in text
    assert "2 clips, seeds 0, 1: 4 of 4 blocks of clip and seed that were begun are finished" in text
    # 26 steps give 26 dB at 50 / 26, 4 steps give 4 dB at 50 / 4: read off at 2x.
    at_2x = 26 - 22 * math.log(2 / (50 / 26)) / math.log(26 / 4)
    assert f"| steps | {at_2x:.2f} [{at_2x:.2f}, {at_2x:.2f}] | " in text
    assert "| hetcache | out of range (0 of 4 reach it) |" in text
    figures = json.loads((tmp_path / "out" / "study.json").read_text())
    assert figures["lengths"][0]["psnr"]["against"]["steps"]["5"]["blocks"] == 4
    assert len(list((tmp_path / "docs").iterdir())) == 3
    assert list(itertools.islice((tmp_path / "docs").glob("*-5-frames.svg"), 1))


def test_the_command_names_what_it_does_not_know(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--output", str(tmp_path), "--curves", "nothing"]) == 2
    assert "--curves nothing: unknown, choose from steps, teacache" in capsys.readouterr().err
    assert command.main(["--output", str(tmp_path), "--report", "--clips", "nothing"]) == 2


def test_store_of_a_length_is_its_own(tmp_path: Any) -> None:
    made = Study(Asked(tmp_path, (SWEEP,)))
    assert isinstance(made.store(9), Store) and made.store(9).root != made.store(33).root
