"""Manifests, their errors, and files by URL in one process."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
from batch_runs import SMALL, make_media

import inference
from hetcache.batch.manifest import read_tasks
from hetcache.batch.options import parse_batch
from hetcache.batch.runner import Runner, is_finished
from hetcache.batch.task import Task
from hetcache.cli import UsageError
from hetcache.files import UserError


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    make_media(folder, 2)
    return folder


def read(folder: Path, text: str, *defaults: str, name: str = "jobs.csv") -> list[Task]:
    (folder / name).write_text(text)
    return read_tasks(folder / name, str(folder / "out"), defaults)


def test_csv_and_jsonl_say_the_same(media: Path) -> None:
    csv = (
        'video, mask, steps, fill, fast_rope, --prompt\nv0.mp4, m.mp4, 3, grey, true, "red, warm"\nv1.mp4,m.mp4,,,no,\n'
    )
    rows = [
        {"video": "v0.mp4", "mask": "m.mp4", "steps": 3, "fill": "grey", "fast-rope": True, "prompt": "red, warm"},
        {"video": "v1.mp4", "mask": "m.mp4", "num_steps": None, "fast_rope": False},
    ]
    one = read(media, csv, "--steps", "9")
    two = read(media, "\n".join(map(json.dumps, rows)), "--steps", "9", name="jobs.jsonl")
    assert one == two
    assert one[0].words == ("--steps", "9", "--steps=3", "--fill=grey", "--fast-rope", "--prompt=red, warm")
    assert one[1].words == ("--steps", "9", "--no-fast-rope")
    assert one[0].video == str(media / "v0.mp4"), "paths are from the manifest's folder"
    assert [task.name for task in one] == ["v0_hetcache.mp4", "v1_hetcache.mp4"]
    assert one[0].identity and one[0].identity != one[1].identity


def test_a_folder_pairs_videos_and_masks(media: Path, tmp_path: Path) -> None:
    for name in ("a.mp4", "a_mask.mp4", "b.mp4"):
        shutil.copy(media / "m.mp4", tmp_path / name)
    tasks = read_tasks(tmp_path, "out", ())
    assert [(Path(task.video or "").name, Path(task.mask or "").name, task.name) for task in tasks] == [
        ("a.mp4", "a_mask.mp4", "a.mp4"),
        ("b.mp4", "b_mask.mp4", "b.mp4"),
    ]
    assert tasks[0].identity and not tasks[1].identity


def test_a_manifest_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none.csv: no such file; check the path$"):
        read_tasks(tmp_path / "none.csv", "out", ())
    (tmp_path / "clip.csv").write_bytes(b"\x00\xff\xfe video")
    with pytest.raises(UsageError, match=r"clip.csv: is not UTF-8 text; give a CSV"):
        read_tasks(tmp_path / "clip.csv", "out", ())


@pytest.mark.parametrize(
    "text, said",
    [
        ("video,mask,stepps\nv0.mp4,m.mp4,3\n", "unknown column stepps"),
        ("video,mask\n", "no jobs in it"),
        ("video,mask\nv0.mp4\n", "line 2: 2 columns expected"),
        ("video,mask\nv0.mp4,m.mp4\nv0.mp4,m.mp4\n", "jobs 1, 2 all write v0_hetcache.mp4"),
    ],
)
def test_a_manifest_that_is_wrong_as_a_whole(media: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read(media, text)


@pytest.mark.parametrize("name, text", [("j.jsonl", "[1]"), ("j.jsonl", "{"), ("none.csv", None)])
def test_a_manifest_that_cannot_be_read(tmp_path: Path, name: str, text: str | None) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=name):
        read_tasks(tmp_path / name, "out", ())


@pytest.mark.parametrize(
    "row, said",
    [
        ("v0.mp4,x,", "argument --steps: invalid"),
        ("v0.mp4,2,../up.mp4", "must lie below --out"),
        (",2,", "no video is given"),
        ("v0.mp4,2,batch_results", "choose another name"),
    ],
)
def test_a_single_line_that_is_wrong_is_one_job_that_fails(media: Path, row: str, said: str) -> None:
    bad, fine = read(media, f"video,steps,output\n{row}\nv1.mp4,2,fine\n")
    assert said in (bad.error or "") and fine.error is None


def test_defaults_that_no_job_could_have_are_told_at_once(media: Path) -> None:
    with pytest.raises(UsageError, match="--steps"):
        read(media, "video\nv0.mp4\n", "--steps", "many")


@pytest.mark.parametrize(
    "words, said",
    [
        ("--out d", "first word"),
        ("jobs.csv", "--out DIR"),
        ("jobs.csv --out d --gpus 2 --workers 2", "choose one"),
        ("jobs.csv --out d --workers 0", "at least 1"),
        ("jobs.csv --out d --output x.mp4", "--output is one run's"),
    ],
)
def test_bad_command_lines(words: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_batch(words.split())


def test_what_is_not_the_batchs_is_a_default_of_its_jobs() -> None:
    request = parse_batch("jobs.csv --steps 2 --out d --no-fast-rope --workers 3".split())
    assert request.defaults == ("--steps", "2", "--no-fast-rope") and request.options.workers == 3


def test_the_command_says_it_in_one_line(capsys: pytest.CaptureFixture[str], media: Path) -> None:
    assert inference.main(["batch", str(media / "none.csv"), "--out", str(media / "o")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    jobs = media / "one.csv"
    jobs.write_text("video\nv0.mp4\n")
    assert inference.main(["batch", str(jobs), "--out", str(media / "o"), "--gpus", "64"]) == 2
    assert "--gpus 64" in capsys.readouterr().err


def test_urls_are_copied_in_and_out_and_the_record_speaks_of_them(media: Path) -> None:
    memory = fsspec.filesystem("memory")
    for name in ("v0.mp4", "m.mp4"):
        memory.pipe_file(f"/in/{name}", (media / name).read_bytes())
    row = {"video": "memory://in/v0.mp4", "mask": "memory://in/m.mp4", "output": "deep/edit"}
    (media / "urls.jsonl").write_text(json.dumps(row))
    [task] = read_tasks(media / "urls.jsonl", "memory://out", SMALL)
    assert task.identity and not is_finished(task)
    steps: list[tuple[int, int]] = []
    runner = Runner((), lambda done, count: steps.append((done, count)))
    assert runner(task).error is None
    assert steps == [(1, 2), (2, 2)] and is_finished(task)
    record = json.loads(memory.cat_file("/out/deep/edit.json"))
    assert (
        record["config"]["video"] == "memory://in/v0.mp4" and record["outputs"]["video"] == "memory://out/deep/edit.mp4"
    )
    assert sorted(memory.ls("/out/deep", detail=False)) == ["/out/deep/edit.json", "/out/deep/edit.mp4"]

    near = replace(
        task, video=str(media / "v0.mp4"), mask=str(media / "m.mp4"), output=str(media / "near" / "edit.mp4")
    )
    assert runner(near).error is None
    assert (media / "near" / "edit.mp4").read_bytes() == memory.cat_file("/out/deep/edit.mp4")

    gone = runner(replace(task, video="memory://in/gone.mp4"))
    assert gone.is_final and "memory://in/gone.mp4: cannot be read" in (gone.error or "")
    strange = runner(replace(task, video="nosuch://in/v.mp4"))
    assert strange.is_final and "nosuch://in/v.mp4" in (strange.error or "")


def test_a_job_is_finished_as_itself_only(media: Path) -> None:
    [task] = read(media, "video,mask,output\nv0.mp4,m.mp4,own\n", *SMALL)
    assert not is_finished(task)
    assert Runner()(task).error is None and is_finished(task)
    [other] = read(media, "video,mask,output,seed\nv0.mp4,m.mp4,own,1\n", *SMALL)
    assert not is_finished(other), "another seed"
    (media / "out" / "own.json").write_text("{")
    assert not is_finished(task), "a record that cannot be read"
    (media / "out" / "own.json").unlink()
    assert not is_finished(task), "a video without a record"
