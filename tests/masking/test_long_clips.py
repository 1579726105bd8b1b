"""A clip of any length: its frames and what is carried between keyframes are on disk, masks are packed."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from discs import discs
from video_files import make

from hetcache.files import UserError
from hetcache.masking.frames import FrameStore, frame_store, work_size
from hetcache.masking.spool import Spool
from hetcache.masking.track import MaskTrack
from hetcache.media.probe import probe

COUNT = 120


def test_frames_are_kept_on_disk_and_come_back_in_any_order(tmp_path: Path) -> None:
    frames = np.concatenate([discs(12).frames_THWC] * (COUNT // 12))
    path = make(tmp_path / "long.mkv", "-c:v", "ffv1", "-pix_fmt", "gbrp", frames=frames)
    info = probe(path)
    tracemalloc.start()
    with frame_store(info, None, (96, 128)) as store:
        _, peak = tracemalloc.get_traced_memory()
        assert len(store) == COUNT
        for index in (COUNT - 1, 0, 57):
            assert (store[index] == frames[index]).all()
        with pytest.raises(IndexError):
            store[COUNT]
    tracemalloc.stop()
    assert peak < frames.nbytes / 2


def test_masks_are_packed() -> None:
    truth = discs(9).truth_THW
    track = MaskTrack((96, 128), 9, (0,), {})
    for index, mask in enumerate(truth):
        track.put(index, mask, 0.4 if index == 3 else 1.0)
    assert all((a == b).all() for a, b in zip(track, truth, strict=True))
    assert [mask.shape for mask in track[2:4]] == [(96, 128)] * 2
    assert track.weak == [3]
    assert sum(map(len, track._packed)) < truth.nbytes / 20


def test_opacities_between_keyframes_come_back() -> None:
    spool, other = (Spool((4, 6), file) for file in [io.BytesIO()] * 2)
    planes = np.linspace(0, 1, 48, dtype=np.float32).reshape(2, 4, 6)
    spool.put(7, planes[0], 0.5)
    other.put(7, planes[1], 0.25)
    assert np.abs(spool.get(7) - planes[0]).max() < 0.002
    assert np.abs(other.get(7) - planes[1]).max() < 0.002
    assert spool.confidence == {7: 0.5}


def test_a_full_disk_is_told_in_one_line() -> None:
    class Full(io.BytesIO):
        def write(self, data: object) -> int:
            raise OSError(28, "No space left on device")

    from hetcache.masking import frames

    with pytest.raises(UserError, match="cannot be kept in .* .No space left on device.; free"):
        frames._fill(FrameStore((96, 128), Full()), list(discs(2).frames_THWC), lambda: None)


@pytest.mark.parametrize("size", [(480, 854), (96, 128), (1080, 1920), (2160, 3840), (1920, 1080)])
def test_sizes_to_work_at(size: tuple[int, int]) -> None:
    height, width = work_size(size)
    assert height * width <= 854 * 480 * 1.01
    assert height / width == pytest.approx(size[0] / size[1], rel=0.01)
    assert (height, width) == size or size[0] * size[1] > 854 * 480
