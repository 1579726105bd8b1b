"""The benchmark's order, its resuming, its failures and its table, with an executor that has no model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import pytest
from benchmark_fakes import STEPS, FakeExecutor, make_plan

from hetcache.benchmark.cases import find_cases
from hetcache.benchmark.cells import Store
from hetcache.benchmark.document import make_document, write_outputs
from hetcache.benchmark.methods import Method, default_methods, match_steps, parse_method, parse_methods
from hetcache.benchmark.rows import table_rows
from hetcache.benchmark.runner import run_plan
from hetcache.benchmark.table import columns, failures, plain
from hetcache.media.ffmpeg import VideoError
from hetcache.modes import MODES

TIMES = {
    name
    for stage in ("text", "vae_encode", "denoise", "vae_decode", "end_to_end")
    for name in (f"{stage}_s", f"{stage}_min_s", f"{stage}_max_s")
} | {"speedup", "end_to_end_speedup", "realised"}


def run(plan, store, process="one", **options):
    executor, events = FakeExecutor(store, **options), []
    run_plan(plan, store, executor, process, lambda event: events.append(event.kind))
    return executor, events


def without_times(rows):
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def test_the_default_holds_every_method_of_the_papers_table_and_the_added_ones():
    names = [method.name for method in default_methods()]
    for mode in (
        "baseline",
        "teacache",
        "teacache_fast",
        "pab",
        "adacache",
        "fastcache",
        "hetcache",
        "hetcache_slow",
        "hetcache_fast",
        "magcache",
        "easycache",
    ):
        assert mode in names
    assert "teacache_slow" not in names, "it is teacache"
    assert names[-1] == "steps:hetcache_fast"
    assert len(names) == len(set(names))


def test_every_registered_mode_can_be_asked_for():
    assert {method.mode for method in parse_methods(["all"])} == set(MODES)


@pytest.mark.parametrize(
    "text, mode, settings, steps",
    [
        ("hetcache:cache_thresh=0.1,use_kmeans=off", "hetcache", {"cache_thresh": 0.1, "use_kmeans": False}, None),
        ("hetcache:margin-width=2", "hetcache", {"margin_width": 2}, None),
        ("steps:12", "baseline", {}, 12),
    ],
)
def test_methods_are_read_from_the_command_line(text, mode, settings, steps):
    method = parse_method(text)
    assert (method.name, method.mode, dict(method.settings), method.num_steps) == (text, mode, settings, steps)


@pytest.mark.parametrize(
    "texts, message",
    [
        (["warp"], "unknown mode"),
        (["steps:0"], "steps:25"),
        (["hetcache:colour=1"], "settings are"),
        (["hetcache:cache_thresh=much"], "not float"),
        (["hetcache:cache_thresh=-1"], "negative"),
        (["steps:hetcache"], "add it"),
        (["hetcache:use_kmeans=2"], "on or off"),
        (["exact:0.5"], "such as exact:5"),
        (["exact:fast"], "such as exact:5"),
        (["exact:inf"], "such as exact:5"),
    ],
)
def test_bad_methods_say_the_remedy(texts, message):
    with pytest.raises(ValueError, match=message):
        parse_methods(texts)


def test_flags_and_setting_of_a_method():
    method = parse_method("hetcache:cache_thresh=0.1,use_kmeans=off")
    assert method.flags() == ["--mode", "hetcache", "--cache-thresh", "0.1", "--no-use-kmeans"]
    assert method.setting() == "cache thresh 0.1, use kmeans off"


def test_an_exact_plan_is_a_method_of_its_own(tmp_path):
    method = parse_method("exact:5")
    assert (method.mode, method.exact, method.setting()) == ("hetcache", 5.0, "the exact plan for 5x")
    assert method.flags() == "--mode hetcache --target-speedup 5 --planner exact".split()
    plan = make_plan(tmp_path)
    folders = {plan.cell(parse_method(text), plan.cases[0], 0).folder for text in ("exact:5", "exact:8", "hetcache")}
    assert len(folders) == 3


@pytest.mark.parametrize("ratio, steps", [(1.0, 30), (2.0, 15), (2.9, 11), (100.0, 1)])
def test_fewer_steps_never_cost_less_than_the_method_they_match(ratio, steps):
    assert match_steps(Method("x", "baseline"), 30, ratio).num_steps == steps


def test_rounds_interleave_all_methods_in_alternating_order(tmp_path):
    plan = make_plan(tmp_path, seeds=(0,))
    executor, _ = run(plan, Store(tmp_path))
    names = [call[0] for call in executor.calls]
    order = ["baseline", "teacache", "hetcache", "steps:hetcache"]
    assert names == [*order, *order[::-1]]
    assert executor.warm_ups == 1


def test_finished_runs_are_not_repeated(tmp_path):
    plan, store = make_plan(tmp_path), Store(tmp_path)
    run(plan, store)
    executor, events = run(plan, store, "two")
    assert executor.calls == []
    assert set(events) == {"skip"}
    assert executor.warm_ups == 0


def test_more_repeats_seeds_or_methods_run_only_what_is_new(tmp_path):
    store = Store(tmp_path)
    run(make_plan(tmp_path, modes=("hetcache",), seeds=(0,), repeats=1), store)
    executor, _ = run(make_plan(tmp_path, modes=("hetcache", "pab"), seeds=(0,), repeats=1), store, "two")
    # The new process times its own baseline, over a few steps, and repeats no cell.
    assert executor.calls == [("baseline", "v0", 0, 5), ("pab", "v0", 0, STEPS)]


@pytest.mark.parametrize("interrupted_after", [1, 3, 6, 9, 15])
def test_an_interrupted_benchmark_ends_in_the_same_table(tmp_path, interrupted_after):
    whole, parts = Store(tmp_path / "whole"), Store(tmp_path / "parts")
    plan = make_plan(tmp_path)
    first, _ = run(plan, whole)

    class Killed(BaseException):
        pass

    executor = FakeExecutor(parts)

    def die(cell):
        if len(executor.calls) == interrupted_after:
            raise Killed

    executor.before = die
    with pytest.raises(Killed):
        run_plan(plan, parts, executor, "one", lambda event: None)
    second, _ = run(plan, parts, "two")
    done = executor.calls + [call for call in second.calls if call[3] != 5]
    assert sorted(done) == sorted(first.calls)
    assert without_times(table_rows(plan, parts)) == without_times(table_rows(plan, whole))


def test_ratios_are_taken_against_the_baseline_of_the_same_process(tmp_path):
    plan, store = make_plan(tmp_path, modes=("hetcache",), seeds=(0,), repeats=1), Store(tmp_path)
    executor = FakeExecutor(store)

    class Killed(BaseException):
        pass

    def die(cell):
        if cell.method.name == "hetcache":
            raise Killed

    executor.before = die
    with pytest.raises(Killed):
        run_plan(plan, store, executor, "one", lambda event: None)

    class SlowExecutor(FakeExecutor):
        def run(self, cell, num_steps):
            record, frames = super().run(cell, num_steps)
            record["timing_s"] = {key: 3 * value for key, value in record["timing_s"].items()}
            return record, frames

    run_plan(plan, store, SlowExecutor(store), "two", lambda event: None)
    baseline, hetcache = table_rows(plan, store)
    assert baseline["speedup"] == 1.0
    # 8 full steps against FRPRRPRF = 2.64 full steps, both on the machine that became three times slower.
    assert hetcache["speedup"] == pytest.approx(8 / 2.64)
    assert hetcache["realised"] == pytest.approx(1.0)


def test_a_failing_method_is_reported_and_stops_nothing(tmp_path):
    plan, store = make_plan(tmp_path, seeds=(0,)), Store(tmp_path)
    executor, events = run(plan, store, fails=("teacache",))
    rows = {row["method"]: row for row in table_rows(plan, store)}
    assert rows["teacache"]["failed"] == "teacache ran out of luck"
    assert rows["hetcache"]["runs"] == 2
    assert "teacache: FAILED: teacache ran out of luck" in plain(list(rows.values()))
    assert [call[0] for call in executor.calls].count("teacache") == 1
    run(plan, store, "two")
    assert "failed" not in {row["method"]: row for row in table_rows(plan, store)}["teacache"]


def test_without_the_method_that_decides_its_steps_fewer_steps_fails_with_the_reason(tmp_path):
    plan, store = make_plan(tmp_path, seeds=(0,)), Store(tmp_path)
    run(plan, store, fails=("hetcache",))
    row = table_rows(plan, store)[-1]
    assert "hetcache" in row["failed"]


def test_without_a_baseline_the_others_still_have_times(tmp_path):
    plan, store = make_plan(tmp_path, seeds=(0,)), Store(tmp_path)
    run(plan, store, fails=("baseline",))
    rows = table_rows(plan, store)
    assert rows[1]["denoise_s"] > 0
    assert rows[1]["speedup"] is None
    assert "baseline" not in rows[1]["quality"]


def test_a_method_that_skips_nothing_is_named(tmp_path):
    plan, store = make_plan(tmp_path, modes=("pab",), seeds=(0,), repeats=1), Store(tmp_path)
    run(plan, store)
    assert any("NOT ACCELERATED" in line for line in failures(table_rows(plan, store)))


def test_a_changed_setting_is_another_cell(tmp_path):
    plan = make_plan(tmp_path)
    cell = plan.cell(plan.methods[0], plan.cases[0], 0)
    other = plan.cell(parse_method("hetcache:cache_thresh=0.1"), plan.cases[0], 0)
    assert cell.folder != other.folder
    assert cell.folder != plan.cell(plan.methods[0], plan.cases[0], 1).folder


def test_every_column_of_the_issue_is_there():
    shown = " ".join(f"{column.group} {column.name}" for column in columns())
    for text in (
        "method",
        "setting",
        "full/partial/reuse",
        "PFLOPs",
        "ratio",
        "denoising s",
        "denoising speed-up",
        "end to end s",
        "end to end speed-up",
        "realised",
        "cache",
        "peak GiB",
        "uncached: whole PSNR",
        "uncached: in mask LPIPS",
        "uncached: seam SSIM",
        "source PSNR",
        "source SSIM",
        "source LPIPS",
    ):
        assert text in shown


def test_outputs_are_written_and_published_under_a_dated_name(tmp_path):
    plan, store = make_plan(tmp_path, videos=2), Store(tmp_path / "out")
    run(plan, store)
    day = date(2026, 1, 2)
    paths, text = write_outputs(tmp_path / "out", plan, store, "tiny", "bash x", day, tmp_path / "docs")
    assert {path.name for path in paths} >= {"benchmark.json", "table.md", "2026-01-02-tiny-cpu-2-cores.md"}
    document = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert [row["method"] for row in document["rows"]] == ["baseline", "teacache", "hetcache", "steps:hetcache"]
    assert set(document["rows_by_video"]) == {"v0", "v1"}
    commands = {entry["method"]: entry["command"] for entry in document["commands"]}
    assert commands["steps:hetcache"].startswith("python inference.py --mode baseline")
    assert "--steps 3" in commands["steps:hetcache"]
    # A run alone would see a box around the mask, and other frames under it.
    assert all("--focus off --fill push_pull" in commands[name] for name in commands if name != "this benchmark")
    assert "hetcache" in text
    assert str(Path.home()) not in (tmp_path / "out" / "table.md").read_text()


def test_a_resumed_benchmark_says_so(tmp_path):
    store = Store(tmp_path)
    run(make_plan(tmp_path, seeds=(0,), repeats=1), store)
    plan = make_plan(tmp_path, seeds=(0,), repeats=2)
    run(plan, store, "two")
    assert "2 processes" in " ".join(make_document(plan, store, "tiny", "x", date.today())["warnings"])


CHILD = """
import sys, time
from pathlib import Path
from benchmark_fakes import FakeExecutor, make_plan
from hetcache.benchmark.cells import Store
from hetcache.benchmark.runner import run_plan
folder = Path({folder!r})
store = Store(folder / "killed")
executor = FakeExecutor(store)
def slow(cell):
    if len(executor.calls) == 6:
        (folder / "reached").touch()
        time.sleep(60)
executor.before = slow
run_plan(make_plan(folder), store, executor, "one", lambda event: None)
"""


def test_sigkill_in_the_middle_costs_no_finished_cell(tmp_path):
    plan, tests = make_plan(tmp_path), Path(__file__).resolve().parents[1]
    code, found = CHILD.format(folder=str(tmp_path)), os.pathsep.join([str(tests), str(tests.parent)])
    child = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": found})
    deadline = time.monotonic() + 120
    while not (tmp_path / "reached").exists():
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    killed, whole = Store(tmp_path / "killed"), Store(tmp_path / "whole")
    first, _ = run(plan, whole)
    second, _ = run(plan, killed, "two")
    assert len([call for call in second.calls if call[3] != 5]) == len(first.calls) - 6
    assert without_times(table_rows(plan, killed)) == without_times(table_rows(plan, whole))


def test_folders_are_matched_by_name(tmp_path):
    make_plan(tmp_path, videos=2)
    videos, masks = tmp_path / "videos", tmp_path / "masks"
    for folder in (videos, masks):
        folder.mkdir()
    (tmp_path / "v0.mp4").rename(videos / "a.mp4")
    (tmp_path / "v1.mp4").rename(videos / "b.mp4")
    (tmp_path / "m0.mp4").rename(masks / "a.mp4")
    with pytest.raises(VideoError, match="no mask for b.mp4"):
        find_cases(videos, masks)
    (tmp_path / "m1.mp4").rename(masks / "b_mask.mp4")
    assert [(case.name, case.mask.name) for case in find_cases(videos, masks)] == [("a", "a.mp4"), ("b", "b_mask.mp4")]
    with pytest.raises(VideoError, match="not a folder"):
        find_cases(tmp_path / "no", masks)
