"""Measures the embedded model on clips it never saw: one table and one contact sheet.

    python scripts/evaluate_tiny.py --clips CLIPS_DIR [MORE_DIRS] --out results/tiny

A folder holds NAME.mp4 with NAME_mask.mp4, or one clip with masks.mp4. Finished clips are kept under --out and not
computed again, so that several processes can share the work (--only) and an interrupted run goes on. Figures in the
mask are taken on composites: the model's (or Telea's) pixels inside the mask, the source outside.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

from tiny_forward import forward  # noqa: E402
from tiny_masks import caption  # noqa: E402

from diffsynth_patches.tiny import load_tiny_pipeline  # noqa: E402
from hetcache.files import write_json  # noqa: E402
from hetcache.media.fill import push_pull_fill  # noqa: E402
from hetcache.metrics.lpips import load_lpips  # noqa: E402

COLUMNS = (
    "ae_psnr_db",
    "ours_psnr_db",
    "telea_psnr_db",
    "fill_psnr_db",
    "ours_lpips",
    "telea_lpips",
    "fill_lpips",
    "guidance_change_db",
)


@dataclass(frozen=True)
class Clip:
    name: str
    frames_THWC: np.ndarray
    mask_THW: np.ndarray


def find_clips(folders: list[Path], frames: int, height: int, width: int) -> list[Clip]:
    clips = []
    for folder in folders:
        pairs = [(p.with_name(p.stem.removesuffix("_mask") + p.suffix), p) for p in sorted(folder.glob("*_mask.mp4"))]
        if not pairs and (folder / "masks.mp4").is_file():
            pairs = [(p, folder / "masks.mp4") for p in sorted(folder.glob("*.mp4")) if p.name != "masks.mp4"][:1]
        for video, mask in pairs:
            rgb = _read(video, frames, height, width)
            clips.append(Clip(video.stem, rgb, _read(mask, frames, height, width)[..., 0] > 127))
    if not clips:
        raise SystemExit(f"no NAME.mp4 with NAME_mask.mp4 in {', '.join(map(str, folders))}")
    return clips


def _read(path: Path, frames: int, height: int, width: int) -> np.ndarray:
    capture, out = cv2.VideoCapture(str(path)), []
    while len(out) < frames:
        ok, frame = capture.read()
        if not ok:
            raise SystemExit(f"{path} has {len(out)} frames, {frames} are needed")
        out.append(cv2.resize(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), (width, height), interpolation=cv2.INTER_AREA))
    return np.stack(out)


def telea(clip: Clip) -> np.ndarray:
    masks = clip.mask_THW.astype(np.uint8) * 255
    return np.stack([cv2.inpaint(f, m, 3, cv2.INPAINT_TELEA) for f, m in zip(clip.frames_THWC, masks, strict=True)])


def classical_fill(clip: Clip) -> np.ndarray:
    video = torch.from_numpy(clip.frames_THWC).permute(0, 3, 1, 2).float()
    filled = push_pull_fill(video, torch.from_numpy(clip.mask_THW).unsqueeze(1).float())
    return filled.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def edit(pipe, clip: Clip, fill: np.ndarray, prompt: str, cfg_scale: float, options) -> np.ndarray:
    """The model's answer composited into the source."""
    mask = (clip.mask_THW[..., None] * np.ones(3)).astype(np.uint8) * 255
    t, height, width = clip.mask_THW.shape
    video = pipe(
        prompt=prompt,
        vace_video=[Image.fromarray(f) for f in fill],
        vace_video_mask=[Image.fromarray(m) for m in mask],
        num_frames=t,
        height=height,
        width=width,
        tiled=False,
        seed=options.seed,
        num_inference_steps=options.steps,
        cfg_scale=cfg_scale,
        progress_bar_cmd=lambda x: x,
    )
    output = np.stack([np.asarray(f) for f in video])
    return np.where(clip.mask_THW[..., None], output, clip.frames_THWC)


def psnr(a: np.ndarray, b: np.ndarray, mask_THW: np.ndarray | None = None) -> float:
    error = (a.astype(np.float64) - b) ** 2
    return float(10 * np.log10(255**2 / max((error if mask_THW is None else error[mask_THW]).mean(), 1e-3)))


def measure(pipe, lpips, clip: Clip, options) -> tuple[dict, dict[str, np.ndarray]]:
    start = time.perf_counter()
    video = torch.from_numpy(clip.frames_THWC).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    decoded = pipe.vae.decode(pipe.vae.encode(video, pipe.device), pipe.device)
    decoded = ((decoded[0].permute(1, 2, 3, 0) + 1) * 127.5).round().byte().cpu().numpy()
    prompt = " ".join(caption(clip.frames_THWC, clip.mask_THW)) if options.prompt == "auto" else options.prompt
    images = {"source": clip.frames_THWC, "telea": telea(clip), "fill": classical_fill(clip)}
    images["ours"] = edit(pipe, clip, images["fill"], prompt, options.cfg, options)
    row = {"clip": clip.name, "prompt": prompt, "ae_psnr_db": psnr(decoded, clip.frames_THWC)}
    for name in ("ours", "telea", "fill"):
        row[f"{name}_psnr_db"] = psnr(images[name], clip.frames_THWC, clip.mask_THW)
        distances = lpips.distances(images[name], clip.frames_THWC, {"mask": clip.mask_THW})["mask"]
        row[f"{name}_lpips"] = float(np.nanmean(distances))
    if clip.name in options.guidance_clips:
        images["unguided"] = edit(pipe, clip, images["fill"], "", 1.0, options)
        row["guidance_change_db"] = psnr(images["ours"], images["unguided"], clip.mask_THW)
    row["seconds"] = time.perf_counter() - start
    return row, images


def sheet(clip: Clip, images: dict[str, np.ndarray], picks: tuple[int, ...] = (0, 10, 21, 32)) -> np.ndarray:
    """Rows: source with the mask, Telea, ours; columns: frames."""
    marked = images["source"].copy()
    marked[clip.mask_THW] = (marked[clip.mask_THW] * 0.35 + np.array([255, 0, 255]) * 0.65).astype(np.uint8)
    picks = tuple(min(p, len(marked) - 1) for p in picks)
    rows = [np.concatenate([video[p] for p in picks], axis=1) for video in (marked, images["telea"], images["ours"])]
    return np.concatenate(rows, axis=0)


def fast_model_fn(**inputs) -> torch.Tensor:
    """The same network in bfloat16 autocast through the training forward pass."""
    latents = inputs["latents"]
    with torch.autocast(latents.device.type, torch.bfloat16):
        velocity = forward(
            inputs["dit"], inputs["vace"], latents, inputs["timestep"], inputs["context"], inputs["vace_context"]
        )
    return velocity.to(latents.dtype)


def table(rows: list[dict]) -> str:
    lines = ["clip | " + " | ".join(COLUMNS), "---|" * len(COLUMNS) + "---"]
    mean = {"clip": "average"}
    for key in COLUMNS:
        values = [row[key] for row in rows if key in row]
        if values:
            mean[key] = float(np.mean(values))
    for row in [*rows, mean]:
        cells = [f"{row[key]:.3f}" if "lpips" in key else f"{row[key]:.2f}" for key in COLUMNS if key in row]
        lines.append(" | ".join([row["clip"], *cells]))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", type=Path, help="default: data/tiny")
    parser.add_argument("--only", nargs="*", help="names of clips")
    parser.add_argument("--size", type=int, nargs=3, default=(33, 240, 416), metavar=("FRAMES", "HEIGHT", "WIDTH"))
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--cfg", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prompt", default="auto", help="'auto': words for what the source shows in the mask")
    parser.add_argument(
        "--guidance-clips", nargs="*", default=["real", "camel"], help="clips also sampled without prompt and guidance"
    )
    parser.add_argument("--fast", action="store_true", help="bfloat16 network (the autoencoder stays float32)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    pipe, lpips = load_tiny_pipeline(weights_dir=options.weights), load_lpips("alex")
    if options.fast:
        pipe.model_fn = fast_model_fn
    rows = []
    for clip in find_clips(options.clips, *options.size):
        if options.only and clip.name not in options.only:
            continue
        record = options.out / f"{clip.name}.json"
        if not record.exists():
            row, images = measure(pipe, lpips, clip, options)
            cv2.imwrite(str(options.out / f"{clip.name}.png"), sheet(clip, images)[..., ::-1])
            write_json(record, row, indent=1)
        rows.append(json.loads(record.read_text()))
    print(table(rows))
    sheets = [cv2.imread(str(options.out / f"{row['clip']}.png")) for row in rows]
    small = [cv2.resize(s, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for s in sheets]
    cv2.imwrite(str(options.out / "sheet.jpg"), np.concatenate(small, axis=0), [cv2.IMWRITE_JPEG_QUALITY, 80])


if __name__ == "__main__":
    main()
