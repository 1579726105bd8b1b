"""How the windows of a long edit join, on clips of which the truth is known.

    python -m scripts.measure.joins make outputs/joins [--video FILE --at TOP,LEFT]
    python -m scripts.measure.joins show outputs/joins/still.mp4 outputs/joins/still_edit.mp4

`make` writes two clips of 300 frames, each with the mask of a box that moves and covers no object: `still` with a
camera that stands, `moving` with one that pans. They are cut out of the example and played to and fro, or out of
another video of a still camera, frame by frame, where `--at` says that nothing moves. `show` measures an edit of one
of them, window by window, by the edit's record: the seam ratio of each join and its change in grey levels, and those
of the truth there; CIEDE2000 of the hole's mean colour from the first window's, less what the truth itself does; its
fine detail over the truth's, and that over the window's before; PSNR in the mask.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.color import deltaE_ciede2000, rgb2lab

from hetcache.files import DATA
from hetcache.media.masks import iter_mask
from hetcache.media.read import iter_frames, read_frames
from hetcache.media.windows import Window
from hetcache.media.write import write_video
from hetcache.metrics.joins import JoinMeter

NUM_FRAMES, HEIGHT, WIDTH, BOX, FPS = 300, 192, 320, 48, 10.0
# As many frames as a window of 33 adds, so that windows can be compared.
PERIOD = 24
Frame = NDArray[Any]


def to_and_fro(index: int, room: int, period: int) -> int:
    """0 to `room` and back in `period` frames, at a steady speed."""
    return round(room * (1 - abs(2 * (index / period % 1) - 1)))


def box_mask(index: int) -> Frame:
    """A white box [H, W, 3] that moves by more than its own width, so that all of it is seen at times."""
    top = (HEIGHT - BOX) // 2 - 4 + to_and_fro(index + PERIOD // 4, 8, PERIOD)
    left = (WIDTH - BOX) // 2 - 26 + to_and_fro(index, 52, PERIOD)
    mask = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    mask[top : top + BOX, left : left + BOX] = 255
    return mask


def corner(name: str, index: int, size: tuple[int, int]) -> tuple[int, int]:
    """(top, left) of what the camera sees of the example at frame `index`: its lower right corner, where nobody walks,
    or a part of the lawn and the road."""
    room = size[0] - HEIGHT, size[1] - WIDTH
    if name == "still":
        return room[0] - 26, room[1] - 42
    return room[0] - to_and_fro(index, 60, 180), to_and_fro(index + 150, room[1], 300)


def corner_at(name: str, index: int, at: tuple[int, int]) -> tuple[int, int]:
    """The same of a video that is named: at `at`, and of the moving camera right of it, a pixel a frame, and up to 60
    pixels down."""
    if name == "still":
        return at
    return at[0] + to_and_fro(index, 60, 120), at[1] + index


def clip_frames(name: str) -> Iterator[Frame]:
    source_THWC = read_frames(DATA / "real.mp4")
    last = len(source_THWC) - 1
    for index in range(NUM_FRAMES):
        top, left = corner(name, index, source_THWC.shape[1:3])
        there = last - abs(index % (2 * last) - last)
        yield np.ascontiguousarray(source_THWC[there, top : top + HEIGHT, left : left + WIDTH])


def frames_of(video: Path, name: str, at: tuple[int, int]) -> Iterator[Frame]:
    for index, frame in enumerate(iter_frames(video, count=NUM_FRAMES)):
        top, left = corner_at(name, index, at)
        yield np.ascontiguousarray(frame[top : top + HEIGHT, left : left + WIDTH])


def make(folder: Path, video: Path | None, at: tuple[int, int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("still", "moving"):
        frames = clip_frames(name) if video is None else frames_of(video, name, at)
        write_video(folder / f"{name}.mp4", frames, FPS)
        write_video(folder / f"{name}_mask.mp4", map(box_mask, range(NUM_FRAMES)), FPS)


def show(source: Path, edit: Path) -> list[str]:
    """The table, a line a window. Raises KeyError for an edit whose record lists no windows."""
    record = json.loads(edit.with_suffix(".json").read_text(encoding="utf-8"))
    windows = [Window(**each["window"]) for each in record["windows"]]
    meters = JoinMeter(windows), JoinMeter(windows)
    errors = []
    masks = iter_mask(source.with_name(f"{source.stem}_mask.mp4"), (HEIGHT, WIDTH))
    for frame, truth, mask in zip(iter_frames(edit), iter_frames(source), masks, strict=True):
        for meter, shown in zip(meters, (frame, truth), strict=True):
            meter.update(shown[None], {"in_mask": mask[None]})
        errors.append(float(np.square(frame[mask].astype(np.float64) - truth[mask]).mean()))
    return table(windows, *meters, errors)


def table(windows: list[Window], edited: JoinMeter, truth: JoinMeter, errors: list[float]) -> list[str]:
    lines = ["window  new frames  seam ratio  (truth's)  change  (truth's)  drift dE  detail/truth  kept   PSNR"]
    seams = zip([None, *edited.joins()], [None, *truth.joins()], strict=True)
    holes = list(zip(edited.holes(), truth.holes(), strict=True))
    details = [hole.detail / true.detail for hole, true in holes]
    drifts = drift_from_truth(edited.colours(), truth.colours())
    for index, (window, (seam, true_seam)) in enumerate(zip(windows, seams, strict=True)):
        first = window.start + window.known
        psnr = 10 * np.log10(255**2 / np.mean(errors[first : window.stop]))
        ratio, true_ratio = ("-" if each is None else f"{each.seam_ratio:.2f}" for each in (seam, true_seam))
        change, true_change = ("-" if each is None else f"{each.change:.2f}" for each in (seam, true_seam))
        kept = "-" if index == 0 else f"{details[index] / details[index - 1]:.2f}"
        lines.append(
            f"{index + 1:6d}  {first:4d} - {window.stop - 1:3d}  {ratio:>10}  {true_ratio:>9}  {change:>6}  "
            f"{true_change:>9}  {drifts[index]:8.2f}  {details[index]:12.2f}  {kept:>4}  {psnr:5.2f}"
        )
    return lines


def drift_from_truth(edited: list[Frame], truth: list[Frame]) -> list[float]:
    """CIEDE2000 from the first window's mean colour, less the way that the truth's went in L*a*b*."""
    labs = [[rgb2lab(rgb / 255) for rgb in colours] for colours in (edited, truth)]
    return [float(deltaE_ciede2000(labs[0][0], e - t + labs[1][0])) for e, t in zip(*labs, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    made = commands.add_parser("make")
    made.add_argument("folder", type=Path)
    made.add_argument("--video", type=Path, help="of a still camera, 300 frames or more (default: the example)")
    made.add_argument("--at", default="0,0", metavar="TOP,LEFT", help="corner of its part that is seen")
    shown = commands.add_parser("show")
    shown.add_argument("source", type=Path)
    shown.add_argument("edits", type=Path, nargs="+")
    args = parser.parse_args()
    if args.command == "make":
        top, left = map(int, args.at.split(","))
        make(args.folder, args.video, (top, left))
        return
    for edit in args.edits:
        print(edit, *show(args.source, edit), sep="\n")


if __name__ == "__main__":
    main()
