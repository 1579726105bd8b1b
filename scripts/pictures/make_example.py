"""Make data/real.mp4 and data/masks.mp4 from OpenCV's sample video vtest.avi (see data/README.md).

    python scripts/make_example.py --source vtest.avi --out data

The camera stands still, so the temporal median is the empty scene and what differs from it moves. The mask
follows one person (the woman on the grass) from frame to frame by overlap. Needs
opencv-python-headless as well.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from hetcache.media.masks import dilate_mask, read_mask, resize_frames
from hetcache.media.read import iter_frames, probe, read_frames
from hetcache.media.write import write_video

FIRST_FRAME = 640
NUM_FRAMES = 81
CROP_TOP, CROP_LEFT, CROP_HEIGHT, CROP_WIDTH = 156, 0, 420, 728
HEIGHT, WIDTH = 480, 832
SEED_YX = (317, 413)
"""A pixel of the person in the first frame, in the output's coordinates."""

DIFFERENCE = 28
MARGIN_PX = 14
SHADOW_PX = 10
HOLD_FRAMES = 2
HEAD_STEP_PX = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Write both files and print what they hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True, help="vtest.avi")
    parser.add_argument("--out", type=Path, default=Path("data"), help="folder for real.mp4 and masks.mp4")
    args = parser.parse_args(argv)
    video_path, mask_path = args.out / "real.mp4", args.out / "masks.mp4"
    fps = probe(args.source).fps
    background = cropped(np.median(np.stack(list(islice(iter_frames(args.source), 0, None, 6))), axis=0)[None])[0]
    frames = cropped(read_frames(args.source, NUM_FRAMES, start=FIRST_FRAME))
    mask = grown(follow([moving(frame, background) for frame in frames], SEED_YX))
    write_video(video_path, frames, fps, crf=18)
    write_video(mask_path, np.repeat((mask * np.uint8(255))[..., None], 3, axis=3), fps, crf=8)
    if not np.array_equal(read_mask(mask_path, NUM_FRAMES, (HEIGHT, WIDTH)), mask):
        raise SystemExit("the written mask differs from the one that was made; lower its crf")
    print(f"{video_path}: {len(frames)} frames {WIDTH}x{HEIGHT}, {fps:g} a second; mask {mask.mean():.2%} of it")
    return 0


def cropped(frames_THWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The part of the scene below the building, at 832x480: Wan's own size and aspect."""
    rows, columns = slice(CROP_TOP, CROP_TOP + CROP_HEIGHT), slice(CROP_LEFT, CROP_LEFT + CROP_WIDTH)
    return resize_frames(frames_THWC[:, rows, columns].astype(np.uint8), HEIGHT, WIDTH)


def moving(frame: NDArray[np.uint8], background: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels that differ from the empty scene, specks removed and limbs joined."""
    difference = cv2.absdiff(cv2.GaussianBlur(frame, (5, 5), 0), cv2.GaussianBlur(background, (5, 5), 0)).max(axis=2)
    changed = cv2.morphologyEx((difference > DIFFERENCE).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    return cv2.morphologyEx(changed, cv2.MORPH_CLOSE, np.ones((9, 5), np.uint8)) > 0


def follow(changed: list[NDArray[np.bool_]], seed_yx: tuple[int, int]) -> NDArray[np.bool_]:
    """Per frame, the convex hull of the blobs that overlap the person of the frame before: [T, H, W]."""
    person = np.zeros((len(changed), HEIGHT, WIDTH), np.bool_)
    previous = np.zeros((HEIGHT, WIDTH), np.bool_)
    previous[seed_yx] = True
    top = HEAD_STEP_PX
    for index, pixels in enumerate(changed):
        _, labels = cv2.connectedComponents(pixels.astype(np.uint8))
        inside = np.bincount(labels[previous & pixels], minlength=labels.max() + 1)
        overlap = inside / np.bincount(labels.ravel())
        # Who only brushes the hull is not part of the person, and a head moves a little per frame.
        silhouette = (overlap >= (0.3 if index else 1e-6))[labels] & pixels
        silhouette[: top - HEAD_STEP_PX] = False
        if not silhouette.any():
            raise SystemExit(f"the person was lost in frame {index}")
        top = max(int(np.flatnonzero(silhouette.any(axis=1))[0]), HEAD_STEP_PX)
        points = np.argwhere(silhouette)[:, ::-1].astype(np.int32)
        hull = np.zeros((HEIGHT, WIDTH), np.uint8)
        cv2.fillConvexPoly(hull, cv2.convexHull(points), 1)
        person[index] = previous = hull > 0
    return person


def grown(person: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Room around the person and below the feet (shadow), held over neighbouring frames against flicker."""
    held = person.copy()
    for shift in range(1, HOLD_FRAMES + 1):
        held[shift:] |= person[:-shift]
        held[:-shift] |= person[shift:]
    for _ in range(SHADOW_PX):
        held[:, 1:] |= held[:, :-1]
    return dilate_mask(held, MARGIN_PX)


if __name__ == "__main__":
    raise SystemExit(main())
