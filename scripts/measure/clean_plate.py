"""How close an edit comes to what is really behind the mask, where a still camera shows it at other times.

    python -m scripts.measure.clean_plate outputs/real_hetcache.mp4

The clean plate is the temporal median of the unmasked pixels of the whole source; a pixel that is always masked does
not count. Prints of each result the PSNR inside the mask, in dB, and LPIPS against the source with the plate in its
mask: of the box around the mask, and inside the mask. LPIPS needs `python -m hetcache.metrics lpips` once.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hetcache.files import DATA
from hetcache.media.focus import MaskExtent, default_margin
from hetcache.media.masks import read_mask
from hetcache.media.read import count_frames, read_frames
from hetcache.metrics.errors import MetricError
from hetcache.metrics.lpips import Lpips, load_lpips

Plane = NDArray[np.float32]


def clean_plate(frames_THWC: NDArray[np.uint8], mask_THW: NDArray[np.bool_]) -> Plane:
    """[H, W, 3], NaN where a pixel is masked in every frame."""
    rows = []
    # Row by row: the float copy with its holes would be four times the video.
    for row in range(frames_THWC.shape[1]):
        values_TWC = frames_THWC[:, row].astype(np.float32)
        values_TWC[mask_THW[:, row]] = np.nan
        always = mask_THW[:, row].all(0)
        values_TWC[0, always] = 0
        median_WC = np.nanmedian(values_TWC, axis=0)
        median_WC[always] = np.nan
        rows.append(median_WC)
    return np.stack(rows).astype(np.float32)


def psnr_db(frames_THWC: NDArray[np.uint8], plate_HWC: Plane, where_THW: NDArray[np.bool_]) -> float:
    """In dB, over the pixels `where` that the plate knows."""
    squares = [np.square(f[w].astype(np.float32) - plate_HWC[w]) for f, w in zip(frames_THWC, where_THW, strict=True)]
    error = np.concatenate(squares)
    return float(10 * np.log10(255**2 / np.nanmean(error)))


def lpips_of(
    meter: Lpips,
    frames_THWC: NDArray[np.uint8],
    source_THWC: NDArray[np.uint8],
    plate_HWC: Plane,
    mask_THW: NDArray[np.bool_],
) -> dict[str, float]:
    """Means over the frames: `box`, of the box around the mask, and `mask`, inside the mask."""
    extent = MaskExtent.of(mask_THW)
    assert extent is not None
    margin, (height, width) = default_margin(extent), extent.size
    rows = slice(max(extent.top - margin, 0), min(extent.bottom + margin, height))
    columns = slice(max(extent.left - margin, 0), min(extent.right + margin, width))
    box = np.s_[:, rows, columns]
    inside, result_THWC, truth_THWC = mask_THW[box], frames_THWC[box], source_THWC[box].copy()
    plate_THWC = np.broadcast_to(plate_HWC[rows, columns], truth_THWC.shape)
    known = inside & ~np.isnan(plate_THWC[..., 0])
    truth_THWC[known] = plate_THWC[known].round().astype(np.uint8)
    truth_THWC[inside & ~known] = result_THWC[inside & ~known]
    distances = meter.distances(result_THWC, truth_THWC, {"mask": inside})
    return {"box": float(np.mean(distances["all"])), "mask": float(np.nanmean(distances["mask"]))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+", help="videos of the source's size, from its first frame on")
    parser.add_argument("--video", type=Path, default=DATA / "real.mp4")
    parser.add_argument("--mask", type=Path, default=DATA / "masks.mp4")
    parser.add_argument("--lpips", metavar="FILE", help="the AlexNet weights, else those that were fetched")
    args = parser.parse_args()
    try:
        meter = load_lpips("alex", args.lpips)
    except MetricError as error:
        meter = None
        print(f"without LPIPS: {error}")
    count = count_frames(args.video, decode=True)
    frames_THWC = read_frames(args.video, count=count)
    mask_THW = read_mask(args.mask, count, frames_THWC.shape[1:3])
    plate_HWC = clean_plate(frames_THWC, mask_THW)
    for path in args.results:
        result_THWC = read_frames(path)
        shown = len(result_THWC)
        value = psnr_db(result_THWC, plate_HWC, mask_THW[:shown])
        text = f"{path}: {value:.2f} dB in the mask against the clean plate, {shown} frames"
        if meter is not None:
            found = lpips_of(meter, result_THWC, frames_THWC[:shown], plate_HWC, mask_THW[:shown])
            text += f"; LPIPS {found['box']:.4f} in the box, {found['mask']:.4f} in the mask"
        print(text)


if __name__ == "__main__":
    main()
