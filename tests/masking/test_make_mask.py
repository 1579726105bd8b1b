"""Marks become masks: the built-in engine on clips whose truth is known."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from discs import Discs, discs, jaccard
from PIL import Image

from hetcache.files import UserError
from hetcache.masking.make import make_mask
from hetcache.masking.prompts import Box, Mark, Painted, Point, Polygon, Prompts
from hetcache.masking.track import CancelledError, MaskTrack


def scores(track: MaskTrack, clip: Discs) -> list[float]:
    return [jaccard(mask, truth) for mask, truth in zip(track, clip.truth_THW, strict=True)]


def test_a_box_follows_the_disc() -> None:
    clip = discs()
    track = make_mask(clip.frames_THWC, [Box(*clip.box())])
    assert min(scores(track, clip)) > 0.9
    assert track.keyframes == (0,) and not track.weak
    assert len(track.confidence) == len(track.shares) == 9


@pytest.mark.parametrize("frame", [0, 4, 8])
def test_from_any_frame_forwards_and_backwards(frame: int) -> None:
    clip = discs()
    track = make_mask(clip.frames_THWC, [Painted(clip.truth_THW[frame], frame)])
    assert (track[frame] == clip.truth_THW[frame]).all()
    assert min(scores(track, clip)) > 0.9


def test_points_alone_find_the_disc() -> None:
    clip = discs()
    marks = [Point(40, 48), Point(34, 40), Point(47, 55), Point(90, 48, positive=False)]
    assert min(scores(make_mask(clip.frames_THWC, marks), clip)) > 0.85


def test_an_outline_is_kept_to_the_pixel() -> None:
    clip = discs(3)
    track = make_mask(clip.frames_THWC, [Polygon(((20, 30), (60, 30), (60, 60), (20, 60)), frame=1)])
    wanted = np.zeros(clip.truth_THW.shape[1:], np.bool_)
    wanted[30:60, 20:60] = True
    assert (track[1] == wanted).all()


def test_an_outline_cuts_out() -> None:
    clip = discs(3)
    hole = Polygon(((30, 40), (45, 40), (45, 50), (30, 50)), positive=False)
    track = make_mask(clip.frames_THWC, [Painted(clip.truth_THW[0]), hole])
    assert not track[0][40:50, 30:45].any() and track[0][35, 40]


def test_a_corrected_keyframe_wins_on_both_sides() -> None:
    """Between two keyframes both count: where one side alone lost the disc, the other brings it back."""
    clip = discs(13, centre=lambda t: (30 + 5 * t, 48))
    wrong = np.zeros_like(clip.truth_THW[0])
    wrong[5:20, 5:20] = True
    one = make_mask(clip.frames_THWC, [Painted(wrong)])
    both = make_mask(clip.frames_THWC, [Painted(wrong), Painted(clip.truth_THW[12], 12)])
    assert (both[0] == wrong).all() and (both[12] == clip.truth_THW[12]).all()
    assert max(scores(one, clip)[1:]) < 0.1
    assert min(scores(both, clip)[9:]) > 0.9


def test_clicks_correct_what_was_carried() -> None:
    clip = discs()
    half = clip.truth_THW[0].copy()
    half[:48] = False
    carried = make_mask(clip.frames_THWC, [Painted(half)])
    corrected = make_mask(clip.frames_THWC, [Painted(half), Point(56, 40, frame=4)])
    assert not carried[4][40, 56] and corrected[4][40, 56]
    assert scores(corrected, clip)[4] > scores(carried, clip)[4] + 0.1
    assert scores(corrected, clip)[8] > scores(carried, clip)[8] + 0.1
    less = make_mask(clip.frames_THWC, [Painted(clip.truth_THW[0]), Point(56, 40, positive=False, frame=4)])
    assert not less[4][40, 56]


def test_a_painted_black_frame_says_that_it_is_not_there() -> None:
    clip = discs(5)
    gone = np.zeros_like(clip.truth_THW[0])
    track = make_mask(clip.frames_THWC, [Painted(clip.truth_THW[0]), Painted(gone, 4)])
    assert not track[4].any() and track[1].any()


def test_what_leaves_the_picture_leaves_an_empty_mask() -> None:
    clip = discs(16, centre=lambda t: (100 + 5 * t, 48))
    assert not clip.truth_THW[13:].any()
    track = make_mask(clip.frames_THWC, [Box(*clip.box())])
    assert min(scores(track, clip)[:6]) > 0.85
    assert not any(mask.any() for mask in track[13:])


def test_what_a_pole_hides_is_not_in_the_mask() -> None:
    clip = discs(13, centre=lambda t: (30 + 5 * t, 48), pole=(60, 72))
    track = make_mask(clip.frames_THWC, [Painted(clip.truth_THW[0])])
    assert min(scores(track, clip)) > 0.75
    assert max(mask[:, 60:72].mean() for mask in track) < 0.15


def test_what_hides_behind_a_wall_leaves_no_garbage() -> None:
    clip = discs(13, centre=lambda t: (20 + 7 * t, 48), pole=(50, 128))
    assert not clip.truth_THW[8:].any()
    track = make_mask(clip.frames_THWC, [Painted(clip.truth_THW[0])])
    assert max(mask.mean() for mask in track[9:]) < 0.005
    assert track.weak or not any(mask.any() for mask in track[9:])


def test_the_same_call_gives_the_same_mask_whatever_the_threads() -> None:
    clip = discs(5)
    before = cv2.getNumThreads()
    tracks = []
    try:
        for threads in (1, 2):
            cv2.setNumThreads(threads)
            tracks.append(make_mask(clip.frames_THWC, [Box(*clip.box())]))
            assert cv2.getNumThreads() == threads
    finally:
        cv2.setNumThreads(before)
    assert all((a == b).all() for a, b in zip(*tracks, strict=True))
    assert tracks[0].confidence == tracks[1].confidence


def test_large_pictures_are_worked_on_smaller_and_come_back_at_their_size() -> None:
    clip = discs(3)
    large = np.stack([cv2.resize(frame, (1280, 960), interpolation=cv2.INTER_CUBIC) for frame in clip.frames_THWC])
    truth = np.stack([cv2.resize(t.astype(np.uint8), (1280, 960)) > 0 for t in clip.truth_THW])
    track = make_mask(large, [Painted(truth[0])])
    assert track[2].shape == (960, 1280)
    assert min(jaccard(mask, wanted) for mask, wanted in zip(track, truth, strict=True)) > 0.9


def test_progress_counts_to_its_end_and_cancelling_stops() -> None:
    clip = discs(6)
    seen: list[tuple[int, int, str]] = []
    marks = [Painted(clip.truth_THW[1], 1), Painted(clip.truth_THW[4], 4)]
    make_mask(clip.frames_THWC, marks, progress=lambda *step: seen.append(step))
    assert [done for done, _, _ in seen] == list(range(1, len(seen) + 1))
    assert seen[-1][0] == seen[-1][1]
    assert {what for _, _, what in seen} == {"forwards", "backwards"}
    with pytest.raises(CancelledError):
        make_mask(clip.frames_THWC, marks, cancelled=lambda: True)


def test_tiny_and_blank_clips_are_no_crash() -> None:
    for shape in ((3, 8, 8, 3), (3, 15, 40, 3), (1, 64, 64, 3)):
        frames = np.full(shape, 90, np.uint8)
        track = make_mask(frames, [Box(2, 2, 6, 6)])
        assert len(track) == shape[0] and track[0].any()


BAD: dict[str, tuple[list[Mark], str]] = {
    "nothing": ([], "nothing is marked: give at least one --box"),
    "point outside": ([Point(128, 10)], "point 128,10@0: lies outside the picture, which is 128x96"),
    "point before": ([Point(-1, 10)], "lies outside the picture"),
    "frame beyond": ([Point(1, 1, frame=3)], "point 1,1@3: the clip has 3 frames, from 0 to 2"),
    "frame before": ([Point(1, 1, frame=-1)], "the clip has 3 frames"),
    "empty box": ([Box(10, 10, 10, 40)], "box 10,10,10,40@0: is empty"),
    "turned box": ([Box(40, 40, 10, 10)], "is empty; give X0,Y0,X1,Y1 with X0 < X1 and Y0 < Y1"),
    "box outside": ([Box(10, 10, 129, 40)], "reaches out of the picture, which is 128x96"),
    "two corners": ([Polygon(((1, 1), (5, 5)))], "at least three corners"),
    "flat outline": ([Polygon(((1, 1), (5, 5), (9, 9)))], "encloses nothing"),
    "outline outside": ([Polygon(((1, 1), (500, 5), (9, 90)))], "corner 500,5 lies outside"),
    "only negative": ([Point(5, 5, positive=False)], "only what is not the thing is marked"),
    "painted size": ([Painted(np.zeros((4, 6), np.bool_))], "painted mask@0: is 6x4, the clip 128x96"),
    "painted file": ([Painted(Path("nowhere.png"))], "nowhere.png: no such file"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_marks_are_told_in_one_line(name: str) -> None:
    marks, message = BAD[name]
    with pytest.raises(UserError) as error:
        make_mask(discs(3).frames_THWC, Prompts(tuple(marks)))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_painted_files_are_read_as_masks_are(tmp_path: Path) -> None:
    clip = discs(2)
    Image.fromarray(clip.truth_THW[1].astype(np.uint8) * 255).save(tmp_path / "one.png")
    track = make_mask(clip.frames_THWC, [Painted(tmp_path / "one.png", 1)])
    assert (track[1] == clip.truth_THW[1]).all()
    Image.fromarray(clip.truth_THW[1, ::2].astype(np.uint8) * 255).save(tmp_path / "half.png")
    with pytest.raises(UserError, match="is 128x48, the clip 128x96"):
        make_mask(clip.frames_THWC, [Painted(tmp_path / "half.png", 1)])
