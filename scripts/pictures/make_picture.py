"""README's picture from a finished run: source with its mask, the edit, and the tokens that partial steps compute.

python inference.py --mode hetcache && python scripts/make_picture.py --record outputs/real_hetcache.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from hetcache.core.tokens import classify
from hetcache.media.clip import Clip, take_clip
from hetcache.media.read import read_frames
from hetcache.media.source import Source
from hetcache.method.selector import SelectionConfig, TokenSelector

MASK, GENERATIVE, MARGIN, CONTEXT = (214, 62, 62), (214, 62, 62), (240, 170, 40), (60, 130, 220)
CAPTION_PX, GAP_PX, FONT_PX = 52, 10, 30


def tint(
    frame_HWC: NDArray[np.uint8], where_HW: NDArray[np.bool_], colour: tuple[int, int, int], weight: float
) -> None:
    """Blend `colour` into the frame in place where the mask is set."""
    frame_HWC[where_HW] = np.rint((1 - weight) * frame_HWC[where_HW] + weight * np.array(colour)).astype(np.uint8)


def token_panel(clip: Clip, config: dict[str, object], frame: int) -> tuple[NDArray[np.uint8], int, int]:
    """The frame with the tokens of one partial step coloured by class, and |A|, N."""
    classes = classify(torch.from_numpy(clip.mask_THW), config["margin_width"])  # type: ignore[arg-type]
    selector = TokenSelector(
        classes,
        SelectionConfig(float(str(config["context_ratio"])), float(str(config["margin_ratio"])), False, 1, False),
    )
    plan = selector.plan(0)
    grid = classes.grid
    active = torch.zeros(grid.num_tokens, dtype=torch.bool)
    active[plan.rows_A] = True
    latent = (frame + 3) // 4
    labels = classes.labels_FHW()[latent].numpy()
    computed = active.view(grid.frames, grid.height, grid.width)[latent].numpy()
    top, left, height, width = clip.placement.focus or (0, 0, *clip.source_size)
    panel = np.rint(clip.source_THWC[frame] * 0.55 + 90).clip(0, 255).astype(np.uint8)
    # What the model does not see is paler still.
    seen = np.zeros(clip.source_size, np.bool_)
    seen[top : top + height, left : left + width] = True
    tint(panel, ~seen, (255, 255, 255), 0.5)
    for value, colour in ((2, GENERATIVE), (1, MARGIN), (0, CONTEXT)):
        cells = Image.fromarray((labels == value) & computed).resize((width, height), Image.Resampling.NEAREST)
        tint(panel[top : top + height, left : left + width], np.asarray(cells), colour, 0.7)
    return panel, plan.num_active, plan.num_tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, required=True, help="JSON record of a finished hetcache run")
    parser.add_argument("--frame", type=int, default=16)
    parser.add_argument("--output", type=Path, default=Path("docs/images/example.jpg"))
    parser.add_argument("--panel-width", type=int, default=620)
    args = parser.parse_args()
    record = json.loads(args.record.read_text())
    config = record["config"]
    source = Source.open(Path(config["video"]), Path(config["mask"]))
    box = config["focus_box"] and tuple(config["focus_box"])
    clip = take_clip(source, config["frames"], (config["height"], config["width"]), box)
    masked = clip.source_THWC[args.frame].copy()
    tint(masked, clip.source_mask_THW[args.frame], MASK, 0.6)
    edited = read_frames(record["outputs"]["video"], 1, args.frame)[0]
    tokens, active, total = token_panel(clip, config, args.frame)
    captions = (
        "source and mask",
        f"edited, {record['mode']}, {record['model']} model",
        f"tokens of a partial step: {active} of {total}",
    )
    height = round(args.panel_width * masked.shape[0] / masked.shape[1])
    canvas = Image.new("RGB", (3 * args.panel_width + 2 * GAP_PX, height + CAPTION_PX), "white")
    draw = ImageDraw.Draw(canvas)
    for index, (panel, caption) in enumerate(zip((masked, edited, tokens), captions, strict=True)):
        left = index * (args.panel_width + GAP_PX)
        canvas.paste(Image.fromarray(panel).resize((args.panel_width, height), Image.Resampling.LANCZOS), (left, 0))
        draw.text((left, height + 8), caption, fill=(40, 40, 40), font=ImageFont.load_default(FONT_PX))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(args.output, quality=88)
    print(f"{args.output} {canvas.size[0]}x{canvas.size[1]}")


if __name__ == "__main__":
    main()
