"""Which videos a benchmark edits: one pair of files, or two folders matched by name."""

from __future__ import annotations

from pathlib import Path

from hetcache.benchmark.cells import Case, digest_files
from hetcache.evaluation.pairs import VIDEO_SUFFIXES
from hetcache.media.ffmpeg import VideoError


def one_case(video: Path, mask: Path) -> Case:
    return Case(video.stem, video, mask, digest_files([video, mask]))


def find_cases(videos: Path, masks: Path) -> list[Case]:
    """Every video (file or folder of frames) of one folder with `NAME.*` or `NAME_mask.*` of the other, which may be
    the same. Raises VideoError for a folder that is missing or empty and for a video without a mask."""
    for folder in (videos, masks):
        if not folder.is_dir():
            raise VideoError(f"{folder} is not a folder: --videos and --masks take folders, matched by name")
    by_stem = {path.stem: path for path in _clips(masks)}
    cases, lacking = [], []
    for video in _clips(videos):
        if video.stem.endswith("_mask"):
            continue
        mask = by_stem.get(f"{video.stem}_mask")
        if mask is None and masks.resolve() != videos.resolve():
            mask = by_stem.get(video.stem)
        if mask is None:
            lacking.append(video.name)
        else:
            cases.append(one_case(video, mask))
    if lacking:
        raise VideoError(f"{masks} has no mask for {', '.join(lacking)}: call it NAME.mp4 or NAME_mask.mp4")
    if not cases:
        raise VideoError(f"{videos} holds no videos")
    return cases


def _clips(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if not path.name.startswith(".") and (path.is_dir() or path.suffix.lower() in VIDEO_SUFFIXES)
    )
