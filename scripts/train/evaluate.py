"""Measures the embedded model on clips it never saw: one table and one contact sheet.

    python -m scripts.train.evaluate --clips CLIPS_DIR [MORE_DIRS] --out results/tiny
    python -m scripts.train.evaluate --clips CLIPS_DIR [MORE_DIRS] --holes box --words --out results/tiny-box
    python -m scripts.train.evaluate --clips CLIPS_DIR [MORE_DIRS] --autoencoder [work/run/ae.pt]

The second puts a large still hole into every clip and asks whether words move what they say; the last measures the
autoencoder alone: that of the weights, or of a training run (its averaged model).
A folder holds NAME.mp4 with NAME_mask.mp4, or one clip with masks.mp4. Finished clips are kept under --out and not
computed again, so that several processes can share the work (--only) and an interrupted run goes on. Figures in the
mask are taken on composites: the model's (or Telea's) pixels inside the mask, the source outside.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from diffsynth_patches.tiny import TinyConfig, build_autoencoder, load_tiny_pipeline
from hetcache.files import UserError, write_json
from hetcache.metrics.lpips import Lpips, load_lpips
from scripts.train.captions import caption
from scripts.train.held_out import Clip, Pixels, find_clips
from scripts.train.sampling import FILLS, Sampler, boxed, filled, telea
from scripts.train.token_grid import token_grid
from scripts.train.word_sway import WORDS, sway, sway_table

COLUMNS = (
    "ae_psnr_db",
    "ae_lpips",
    "ours_psnr_db",
    "telea_psnr_db",
    "fill_psnr_db",
    "ours_lpips",
    "telea_lpips",
    "fill_lpips",
    "ours_token_grid",
    "source_token_grid",
    "guidance_change_db",
)
TOKEN_GRID_BAR = 1.2
AUTOENCODER_COLUMNS = ("psnr_db", "lpips", "encode_s", "decode_s")


def psnr(a: Pixels, b: Pixels, mask_THW: NDArray[np.bool_] | None = None) -> float:
    error = (a.astype(np.float64) - b) ** 2
    return float(10 * np.log10(255**2 / max((error if mask_THW is None else error[mask_THW]).mean(), 1e-3)))


@torch.no_grad()
def measure_autoencoder(vae: nn.Module, lpips: Lpips, clip: Clip) -> dict[str, Any]:
    """PSNR and LPIPS of the whole decoded clip against the source, and the seconds it took."""
    video = torch.from_numpy(clip.frames_THWC).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    start = time.perf_counter()
    latents = vae.encode(video)
    middle = time.perf_counter()
    decoded = vae.decode(latents).clamp(-1, 1)
    seconds = {"encode_s": middle - start, "decode_s": time.perf_counter() - middle}
    frames = ((decoded[0].permute(1, 2, 3, 0) + 1) * 127.5).round().byte().numpy()
    distance = float(np.mean(lpips.distances(frames, clip.frames_THWC, {})["all"]))
    return {"clip": clip.name, "psnr_db": psnr(frames, clip.frames_THWC), "lpips": distance, **seconds}


def measure(
    sampler: Sampler, lpips: Lpips, clip: Clip, options: argparse.Namespace
) -> tuple[dict[str, Any], dict[str, Pixels]]:
    """The figures of one clip, and the pictures that its row of the contact sheet is made of."""
    start = time.perf_counter()
    autoencoder = measure_autoencoder(sampler.pipe.vae.model, lpips, clip)
    if options.holes == "box":
        clip = boxed(clip)
    prompt = " ".join(caption(clip.frames_THWC, clip.mask_THW)) if options.prompt == "auto" else options.prompt
    images = {"source": clip.frames_THWC, "telea": telea(clip), "fill": filled(clip, options.fill)}
    images["ours"] = sampler.edit(clip, images["fill"], prompt, options.cfg)
    row: dict[str, Any] = {"clip": clip.name, "prompt": prompt, "fill": options.fill, "holes": options.holes}
    row |= {"ae_psnr_db": autoencoder["psnr_db"], "ae_lpips": autoencoder["lpips"]}
    for name in ("ours", "telea", "fill"):
        row[f"{name}_psnr_db"] = psnr(images[name], clip.frames_THWC, clip.mask_THW)
        distances = lpips.distances(images[name], clip.frames_THWC, {"mask": clip.mask_THW})["mask"]
        row[f"{name}_lpips"] = float(np.nanmean(distances))
    for name in ("ours", "source"):
        row[f"{name}_token_grid"] = token_grid(images[name], clip.mask_THW)
    if clip.name in options.guidance_clips:
        images["unguided"] = sampler.edit(clip, images["fill"], "", 1.0)
        row["guidance_change_db"] = psnr(images["ours"], images["unguided"], clip.mask_THW)
    if options.words:
        unprompted = sampler.edit(clip, images["fill"], "", 1.0)
        sample = sampler.with_words(clip, images["fill"])
        row["words"] = [sway(word, sample, unprompted, clip.mask_THW) for word in WORDS]
    row["seconds"] = time.perf_counter() - start
    return row, images


def sheet(clip: Clip, images: dict[str, Pixels], picks: tuple[int, ...] = (0, 10, 21, 32)) -> Pixels:
    """Rows: source with the mask, Telea, ours; columns: frames."""
    marked = images["source"].copy()
    marked[clip.mask_THW] = (marked[clip.mask_THW] * 0.35 + np.array([255, 0, 255]) * 0.65).astype(np.uint8)
    picks = tuple(min(p, len(marked) - 1) for p in picks)
    rows = [np.concatenate([video[p] for p in picks], axis=1) for video in (marked, images["telea"], images["ours"])]
    return np.concatenate(rows, axis=0)


def table(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> str:
    """A Markdown table of the rows and their averages."""
    lines = ["clip | " + " | ".join(columns), "---|" * len(columns) + "---"]
    mean: dict[str, Any] = {"clip": "average"}
    for key in columns:
        values = [row[key] for row in rows if row.get(key) is not None]
        if values:
            mean[key] = float(np.mean(values))
    for row in [*rows, mean]:
        cells = [_cell(key, row.get(key)) for key in columns]
        lines.append(" | ".join([row["clip"], *cells]))
    return "\n".join(lines)


def _cell(key: str, value: float | None) -> str:
    """Empty for what was not measured, and for a figure that does not exist."""
    return "" if value is None else f"{value:.3f}" if "lpips" in key else f"{value:.2f}"


def autoencoder_table(options: argparse.Namespace, clips: list[Clip]) -> str:
    """The figures of the autoencoder of a training run, or of the weights."""
    if options.autoencoder == Path():
        vae: nn.Module = load_tiny_pipeline(weights_dir=options.weights).vae.model
    else:
        vae = build_autoencoder(TinyConfig())
        state = torch.load(options.autoencoder, map_location="cpu", weights_only=True)
        vae.load_state_dict(state.get("ema", state))
    lpips = load_lpips("alex")
    return table([measure_autoencoder(vae.eval(), lpips, clip) for clip in clips], AUTOENCODER_COLUMNS)


def verdict(rows: list[dict[str, Any]]) -> str:
    """What the bars of docs/embedded-model.md ask: LPIPS against Telea's, the token grid, and the words."""
    better = sum(row["ours_lpips"] < row["telea_lpips"] for row in rows)
    ours, theirs = (float(np.mean([row[f"{name}_lpips"] for row in rows])) for name in ("ours", "telea"))
    grids = [row["ours_token_grid"] for row in rows if row["ours_token_grid"] is not None]
    lines = [f"LPIPS below Telea's on {better} of {len(rows)} clips, on average {ours / theirs:.3f}x of it"]
    if grids:
        low = sum(grid <= TOKEN_GRID_BAR for grid in grids)
        lines.append(f"token grid at most {TOKEN_GRID_BAR:g} on {low} of {len(grids)} clips, mean {np.mean(grids):.2f}")
    words = [word for row in rows for word in row.get("words", [])]
    return "\n".join([*lines, *(["", sway_table(words)] if words else [])])


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, default=Path("results/tiny"))
    parser.add_argument(
        "--autoencoder",
        type=Path,
        nargs="?",
        const=Path(),
        help="only the autoencoder: of this ae.pt or ae-frozen.pt; without a file, of the weights",
    )
    parser.add_argument("--weights", type=Path, help="default: data/tiny")
    parser.add_argument("--only", nargs="*", help="names of clips")
    parser.add_argument("--size", type=int, nargs=3, default=(33, 240, 416), metavar=("FRAMES", "HEIGHT", "WIDTH"))
    parser.add_argument("--holes", choices=("masks", "box"), default="masks", help="'box': a large still one")
    parser.add_argument("--fill", choices=FILLS, default="push_pull", help="what the model starts from")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--cfg", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prompt", default="auto", help="'auto': words for what the source shows in the mask")
    parser.add_argument("--words", action="store_true", help="also sample six words at guidance 1, 2 and 4")
    parser.add_argument(
        "--guidance-clips", nargs="*", default=["real", "camel"], help="clips also sampled without prompt and guidance"
    )
    parser.add_argument("--fast", action="store_true", help="bfloat16 network (the autoencoder stays float32)")
    return parser


def main(argv: list[str] | None = None) -> None:
    options = parser().parse_args(argv)
    clips = [clip for clip in find_clips(options.clips, *options.size) if not options.only or clip.name in options.only]
    if options.autoencoder is not None:
        print(autoencoder_table(options, clips))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    pipe, lpips = load_tiny_pipeline(weights_dir=options.weights), load_lpips("alex")
    sampler = Sampler(pipe, options.steps, options.seed, options.fast)
    rows = []
    for clip in clips:
        record = options.out / f"{clip.name}.json"
        if not record.exists():
            row, images = measure(sampler, lpips, clip, options)
            shown = boxed(clip) if options.holes == "box" else clip
            cv2.imwrite(str(options.out / f"{clip.name}.png"), sheet(shown, images)[..., ::-1])
            write_json(record, row, indent=1)
        rows.append(json.loads(record.read_text()))
    print(f"{table(rows, COLUMNS)}\n\n{verdict(rows)}")
    sheets = [cv2.imread(str(options.out / f"{row['clip']}.png")) for row in rows]
    small = [cv2.resize(s, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for s in sheets]
    cv2.imwrite(str(options.out / "sheet.jpg"), np.concatenate(small, axis=0), [cv2.IMWRITE_JPEG_QUALITY, 80])


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
