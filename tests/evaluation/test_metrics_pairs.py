"""Which file is compared with which, and what run records say about it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hetcache.evaluation.origin import Origin, mixed_outputs, origin_of
from hetcache.evaluation.pairs import match_folders, select_method
from hetcache.metrics.errors import MetricError


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"x")
    return folder


def names(paths) -> list[str]:
    return [Path(path).name for path in paths]


def test_with_and_without_the_method(tmp_path):
    gt = touch(tmp_path / "gt", "a.mp4", "b.mov", "c.mp4", "lonely.mp4", "notes.txt")
    pred = touch(tmp_path / "pred", "a_hetcache.mp4", "b.mp4", "c.mp4", "c_hetcache.mkv", "a_teacache.mp4", "x.mp4")
    matching = match_folders(pred, gt_dir=gt, method="hetcache")
    assert [(job.name, job.pred.name, job.against["gt"].name) for job in matching.jobs] == [
        ("a", "a_hetcache.mp4", "a.mp4"),
        ("b", "b.mp4", "b.mov"),
        ("c", "c_hetcache.mkv", "c.mp4"),
    ]
    assert names(matching.unmatched["gt"]) == ["lonely.mp4"]
    assert names(matching.unmatched["pred"]) == ["a_teacache.mp4", "c.mp4", "x.mp4"]
    assert not matching.failures


def test_stems_that_begin_alike_are_not_mixed_up(tmp_path):
    gt = touch(tmp_path / "gt", "dog.mp4", "dog_2.mp4")
    pred = touch(tmp_path / "pred", "dog_2_m.mp4", "dog_m.mp4")
    matching = match_folders(pred, gt_dir=gt, method="m")
    assert [(job.name, job.pred.stem) for job in matching.jobs] == [("dog", "dog_m"), ("dog_2", "dog_2_m")]


def test_masks_may_lie_beside_the_videos(tmp_path):
    gt = touch(tmp_path / "gt", "a.mp4", "a_mask.mp4", "b.mp4", "b_mask.mp4")
    pred = touch(tmp_path / "pred", "a_m.mp4", "b_m.mp4")
    matching = match_folders(pred, gt_dir=gt, mask_dir=gt, method="m")
    assert [job.mask.name for job in matching.jobs if job.mask] == ["a_mask.mp4", "b_mask.mp4"]
    assert matching.unmatched == {"pred": [], "gt": [], "mask": []}


def test_references_have_their_own_folder_and_names(tmp_path):
    gt = touch(tmp_path / "gt", "a.mp4", "b.mp4")
    reference = touch(tmp_path / "ref", "a_baseline.mp4")
    pred = touch(tmp_path / "pred", "a_m.mp4", "b_m.mp4")
    matching = match_folders(pred, gt_dir=gt, reference_dir=reference, method="m")
    assert [sorted(job.against) for job in matching.jobs] == [["gt", "reference"]]
    assert (
        matching.failures[0][0] == "b"
        and "no reference video is called b or b_m or b_baseline" in matching.failures[0][1]
    )
    only = match_folders(pred, reference_dir=reference, method="m")
    assert [(job.name, job.pred.name) for job in only.jobs] == [("a", "a_m.mp4")]


def test_a_missing_mask_is_a_failure_of_that_pair(tmp_path):
    gt = touch(tmp_path / "gt", "a.mp4", "b.mp4")
    masks = touch(tmp_path / "masks", "a.mp4", "c_mask.mp4")
    matching = match_folders(gt, gt_dir=touch(tmp_path / "gt2", "a.mp4", "b.mp4"), mask_dir=masks)
    assert [job.name for job in matching.jobs] == ["a"]
    assert "no mask is called b or b_mask" in matching.failures[0][1]
    assert names(matching.unmatched["mask"]) == ["c_mask.mp4"]


def test_one_folder_for_everything(tmp_path):
    folder = touch(tmp_path / "all", "a.mp4", "a_m.mp4", "b.mp4")
    matching = match_folders(folder, gt_dir=folder, method="m")
    assert [(job.name, job.pred.name) for job in matching.jobs] == [("a", "a_m.mp4")]
    assert {role: names(paths) for role, paths in matching.unmatched.items()} == {"pred": ["b.mp4"], "gt": ["b.mp4"]}


@pytest.mark.parametrize(
    "pred, method, words",
    [("a_x.mp4", "m", "is called NAME.* or NAME_m.*"), ("a_x.mp4", None, "give --method")],
)
def test_no_pairs(tmp_path, pred, method, words):
    gt, preds = touch(tmp_path / "gt", "a.mp4"), touch(tmp_path / "pred", pred)
    with pytest.raises(MetricError, match="0 pairs") as caught:
        match_folders(preds, gt_dir=gt, method=method)
    assert words in str(caught.value)


def test_bad_folders(tmp_path):
    full, empty = touch(tmp_path / "full", "a.mp4"), touch(tmp_path / "empty", "a.txt")
    with pytest.raises(MetricError, match="holds no video"):
        match_folders(empty, gt_dir=full)
    with pytest.raises(MetricError, match="does not exist"):
        match_folders(full, gt_dir=tmp_path / "none")
    with pytest.raises(MetricError, match="nothing to compare with"):
        match_folders(full)


def test_select_method(tmp_path):
    folder = touch(tmp_path / "p", "a_m.mp4", "b_m.mp4", "a_n.mp4")
    assert names(select_method(folder, "m")) == ["a_m.mp4", "b_m.mp4"]
    assert len(select_method(folder, None)) == len(select_method(folder, "other")) == 3


def test_run_records_name_the_output(tmp_path):
    touch(tmp_path, "out.mp4", "out_raw.mp4", "other.mp4")
    record = {"mode": "hetcache", "outputs": {"video": "runs/out.mp4", "raw": "runs/out_raw.mp4"}}
    (tmp_path / "out.json").write_text(json.dumps(record))
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "odd.json").write_text('{"outputs": [1], "mode": 3}')
    assert origin_of(tmp_path / "out.mp4") == Origin("composited", "hetcache", str(tmp_path / "out.json"))
    assert origin_of(tmp_path / "out_raw.mp4").output == "raw"
    assert origin_of(tmp_path / "other.mp4") == Origin()


def test_raw_and_composited_are_not_compared_in_silence():
    assert "raw output" in (mixed_outputs(Origin("raw"), Origin("composited")) or "")
    assert mixed_outputs(Origin("raw"), Origin("raw")) is None
    assert mixed_outputs(Origin("raw"), Origin()) is None
