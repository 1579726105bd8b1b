"""Windows over a long video: every frame is covered, joins are smooth, finished windows survive on disk."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest

from hetcache.media.clip import Clip, hold_last, smallest_4k_plus_1
from hetcache.media.ffmpeg import VideoError
from hetcache.media.placement import Placement
from hetcache.media.windows import (
    Window,
    check_window,
    default_overlap,
    given_known,
    join,
    join_after,
    num_anchors,
    plan_windows,
)
from hetcache.run import window_store
from hetcache.run.window_store import WindowStore

SHAPES = [(length, overlap) for length in (5, 9, 33, 81) for overlap in range(1, length, 4)]


@pytest.mark.parametrize(("length", "overlap"), SHAPES)
def test_windows_cover_every_frame_and_end_with_the_video(length: int, overlap: int) -> None:
    for num_frames in [*range(1, 2 * length + 9), 300, 301, 1003]:
        windows = plan_windows(num_frames, length, overlap)
        assert windows[0].start == windows[0].known == 0
        assert {frame for each in windows for frame in range(each.start, each.stop)} >= set(range(num_frames))
        if num_frames <= length:
            assert windows == [Window(0, smallest_4k_plus_1(num_frames), 0)]
            continue
        assert windows[-1].stop == num_frames
        for before, each in zip(windows, windows[1:], strict=False):
            assert before.start < each.start
            assert each.count == length
            assert each.known % 4 == 1
            assert overlap <= each.known <= before.stop - each.start < each.known + 4
            assert each.known < length
        new = [length - each.known for each in windows]
        assert sum(new[1:-1]) + length < num_frames


def test_the_default_overlap_is_valid_and_about_a_quarter() -> None:
    assert (default_overlap(81), default_overlap(33)) == (21, 9)
    for length in range(5, 200, 4):
        check_window(length, default_overlap(length))


@pytest.mark.parametrize(
    ("length", "overlap", "message"),
    [
        (10, 5, "--window 10"),
        (9, 6, "--overlap 6"),
        (9, 9, "less than"),
        (9, 13, "less than"),
        (1, 1, "--window 1: at least 5"),
        (9, 0, "--overlap 0"),
        (-3, 1, "--window -3"),
    ],
)
def test_windows_that_cannot_be_are_refused(length: int, overlap: int, message: str) -> None:
    with pytest.raises(VideoError, match=message):
        plan_windows(100, length, overlap)


def test_smallest_4k_plus_1_and_hold_last() -> None:
    for count in range(1, 40):
        found = smallest_4k_plus_1(count)
        assert found % 4 == 1 and count <= found < count + 4
        held = hold_last(np.arange(count), found)
        assert held.tolist() == [*range(count), *[count - 1] * (found - count)]


@pytest.mark.parametrize("known", [0, 1, 5, 8])
def test_a_join_fades_from_the_finished_frames_to_the_new_ones(known: int) -> None:
    finished = np.full((known, 4, 6, 3), 200, np.uint8)
    raw = np.full((9, 4, 6, 3), 20, np.uint8)
    joined = join(finished, raw)
    assert joined.shape == raw.shape and joined.dtype == np.uint8
    levels = joined[:, 0, 0, 0].astype(int)
    assert (levels[known:] == 20).all()
    expected = [round(200 - 180 * (index + 1) / (known + 1)) for index in range(known)]
    assert np.abs(levels[:known] - expected).max(initial=0) <= 1
    assert (np.diff(levels) <= 0).all() and (levels[:known] < 200).all() and (levels[:known] > 20).all()
    assert (raw == 20).all() and (finished == 200).all()


def test_half_of_the_finished_frames_are_anchors_and_whole_latent_frames() -> None:
    assert [num_anchors(known) for known in (0, 1, 5, 9, 13, 21, 29)] == [0, 1, 1, 5, 5, 9, 13]
    for known in range(1, 100, 4):
        anchors = num_anchors(known)
        assert anchors % 4 == 1 and anchors <= known and (known - anchors) % 4 == 0
        assert known == 1 or anchors <= (known + 1) // 2


@pytest.mark.parametrize(("known", "anchors"), [(0, 0), (1, 1), (5, 1), (9, 5)])
def test_anchors_stay_and_the_fade_is_over_what_both_windows_made(known: int, anchors: int) -> None:
    rng = np.random.default_rng(0)
    finished, raw = rng.integers(0, 256, (known, 4, 6, 3), np.uint8), rng.integers(0, 256, (13, 4, 6, 3), np.uint8)
    joined = join_after(anchors, finished, raw)
    assert joined.shape == raw.shape and np.array_equal(joined[known:], raw[known:])
    assert np.array_equal(joined[:anchors], finished[:anchors])
    for index in range(anchors, known):
        weight = (index - anchors) / (known - anchors - 1)
        expected = finished[index] * (1 - weight) + raw[index] * weight
        assert np.abs(joined[index] - expected).max() <= 0.51


def clip_of(frames: np.ndarray, mask: np.ndarray) -> Clip:
    size = mask.shape[1:]
    return Clip(Path("v.mp4"), 24.0, frames, mask, frames, mask, Placement("stretch", size, size))


def test_known_frames_show_the_finished_edit_and_ask_for_nothing() -> None:
    rng = np.random.default_rng(0)
    frames, finished = rng.integers(0, 256, (2, 9, 16, 24, 3), dtype=np.uint8)
    mask = np.zeros((9, 16, 24), np.bool_)
    mask[:, 4:10, 6:14] = True
    clip = clip_of(frames, mask)
    given, asked = given_known(clip, finished[:5], 0)
    assert not asked[:5].any() and np.array_equal(asked[5:], mask[5:])
    assert np.array_equal(given[5:], frames[5:])
    assert np.array_equal(given[:5][mask[:5]], finished[:5][mask[:5]])
    assert np.array_equal(given[:5][~mask[:5]], frames[:5][~mask[:5]])
    assert mask[:5].any() and np.array_equal(clip.frames_THWC, frames)
    unchanged, whole = given_known(clip, finished[:0], 3)
    assert np.array_equal(unchanged, frames) and np.array_equal(whole, mask)
    feathered, _ = given_known(clip, finished[:5], 2)
    assert np.array_equal(feathered[:5][mask[:5]], finished[:5][mask[:5]])
    assert np.array_equal(feathered[:, :1], frames[:, :1])


@pytest.fixture
def store(tmp_path: Path) -> WindowStore:
    return WindowStore(tmp_path / "out.mp4")


RUN = {"mode": "hetcache", "size": (48, 64), "windows": [{"start": 0}]}


def window_frames(value: int) -> np.ndarray:
    return np.random.default_rng(value).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)


def save(store: WindowStore, *indices: int) -> None:
    for index in indices:
        store.save(index, window_frames(index), {"index": index, "skipped": "black"})


def test_a_store_gives_back_what_it_was_given(store: WindowStore) -> None:
    store.open(RUN, resume=False)
    assert store.finished() == 0
    save(store, 0, 1)
    again = WindowStore(store.folder.with_name("out.mp4"))
    again.open(RUN, resume=True)
    assert again.finished() == 2
    assert np.array_equal(again.frames(1), window_frames(1)) and again.facts(1)["index"] == 1
    assert len(list(store.folder.iterdir())) == 5
    again.remove()
    assert not store.folder.exists()
    again.remove()


def test_a_window_counts_only_whole_and_in_a_row(store: WindowStore) -> None:
    store.open(RUN, resume=False)
    save(store, 0, 1, 3)
    assert store.finished() == 2
    (store.folder / "window_00001.json").unlink()
    assert store.finished() == 1


def test_a_run_without_a_finished_window_takes_nothing_from_the_one_before(store: WindowStore) -> None:
    store.open(RUN, resume=False)
    save(store, 0, 1, 2)
    (store.folder / ".window_00003.0a1b2c3d.tmp.npz").write_bytes(b"left by a killed process")
    (store.folder / "window_00000.npz").unlink()
    store.open({**RUN, "mode": "baseline"}, resume=False)
    save(store, 0)
    assert store.finished() == 1
    assert sorted(path.name for path in store.folder.iterdir()) == ["run.json", "window_00000.json", "window_00000.npz"]


def test_another_runs_windows_are_refused_by_name(store: WindowStore) -> None:
    store.open(RUN, resume=False)
    save(store, 0)
    with pytest.raises(VideoError, match="add --resume to go on with it, or delete the folder"):
        store.open(RUN, resume=False)
    with pytest.raises(VideoError, match=r"another run \(mode, steps differ\)"):
        store.open({**RUN, "mode": "baseline", "steps": 3}, resume=True)
    assert store.finished() == 1


@pytest.mark.parametrize("content", [None, "", "[]", "{"])
def test_windows_that_nothing_describes_are_not_resumed(store: WindowStore, content: str | None) -> None:
    store.open(RUN, resume=False)
    save(store, 0)
    described = store.folder / "run.json"
    described.unlink()
    if content is not None:
        described.write_text(content)
    with pytest.raises(VideoError, match=r"run\.json: missing or damaged.*delete the folder to start over"):
        store.open(RUN, resume=True)


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "zeros inside", "ones inside"])
def test_a_damaged_window_is_said_and_can_be_deleted(store: WindowStore, damage: str) -> None:
    store.open(RUN, resume=False)
    save(store, 0)
    path = store.folder / "window_00000.npz"
    whole = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "text": b"no zip",
            "cut": whole[:-40],
            "zeros inside": whole[:150] + bytes(90) + whole[240:],
            "ones inside": whole[:45] + b"\xff" * 90 + whole[135:],
        }[damage]
    )
    with pytest.raises(VideoError, match=r"window_00000\.npz: damaged; delete it and go on with --resume"):
        store.frames(0)
    (store.folder / "window_00000.json").write_text("{")
    with pytest.raises(VideoError, match=r"window_00000\.json: damaged"):
        store.facts(0)


def test_any_flipped_byte_is_found_or_harmless(store: WindowStore) -> None:
    store.open(RUN, resume=False)
    save(store, 0)
    path = store.folder / "window_00000.npz"
    whole = path.read_bytes()
    for position in range(0, len(whole), 3):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        try:
            assert np.array_equal(store.frames(0), window_frames(0))
        except VideoError as error:
            assert str(error).endswith("damaged; delete it and go on with --resume")


def test_pickles_are_never_loaded(store: WindowStore) -> None:
    store.open(RUN, resume=False)
    np.savez(store.folder / "window_00000.npz", frames_THWC=np.array([{"a": 1}], object))
    with pytest.raises(VideoError, match="damaged"):
        store.frames(0)


def test_remove_leaves_what_is_not_its_own(store: WindowStore) -> None:
    store.open(RUN, resume=False)
    save(store, 0)
    (store.folder / "notes.txt").write_text("mine")
    store.remove()
    assert [path.name for path in store.folder.iterdir()] == ["notes.txt"]


def test_a_full_disk_leaves_no_half_window(store: WindowStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.open(RUN, resume=False)
    save(store, 0)

    def full(*_: object, **__: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(window_store.json, "dumps", full)
    with pytest.raises(VideoError, match=r"not written \(No space left on device\); free disk space"):
        save(store, 1)
    monkeypatch.undo()
    assert store.finished() == 1
    assert json.loads((store.folder / "window_00000.json").read_text()) == {"index": 0, "skipped": "black"}
    assert not [path for path in store.folder.iterdir() if path.name.startswith(".")]
