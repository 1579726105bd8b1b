"""Trains the embedded model on any folders of clips and photographs: prepare, vae, dit, export.

    python scripts/train_tiny.py prepare --sources CLIPS PHOTOS --data work/data
    torchrun --nproc-per-node 2 scripts/train_tiny.py vae --data work/data --out work/run --minutes 30

Every stage resumes from its checkpoint under --out. See docs/embedded-model.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    stages = parser.add_subparsers(dest="stage", required=True)
    prepare = stages.add_parser("prepare", help="decode sources into uint8 arrays")
    prepare.add_argument("--sources", type=Path, nargs="+", required=True)
    prepare.add_argument("--data", type=Path, required=True)
    prepare.add_argument("--skip", nargs="*", default=[], metavar="FILE=FRAMES", help="leading frames to leave out")
    vae = stages.add_parser("vae", help="train the autoencoder")
    dit = stages.add_parser("dit", help="train the denoiser on a frozen autoencoder (vae_frozen.pt under --out)")
    freeze = stages.add_parser("freeze", help="fix the latent normalisation: vae.pt -> vae_frozen.pt")
    export = stages.add_parser("export", help="write float16 safetensors")
    export.add_argument("--to", type=Path, default=Path(__file__).resolve().parent.parent / "data" / "tiny")
    export.add_argument("--note", default="see docs/embedded-model.md", help="stored as metadata: the training data")
    export.add_argument("--raw", action="store_true", help="the last weights, not their average")
    plot = stages.add_parser("plot", help="draw the loss curves")
    plot.add_argument("--to", type=Path, required=True, help="a PNG or JPEG file")
    for stage in (vae, dit, freeze, export, plot):
        stage.add_argument("--data", type=Path, required=stage not in (export, plot))
        stage.add_argument("--out", type=Path, required=True)
        stage.add_argument("--minutes", type=float, default=30.0, help="time budget, pauses not counted")
        stage.add_argument("--device", default="cpu")
        stage.add_argument("--watch", dest="monitor", type=Path, help="folder of *.npy clips never trained on")
    dit.add_argument("--lr", type=float, default=2e-3)
    dit.add_argument("--keep", type=float, default=1.0, help="spread of the target around the model's mean, 0..1")
    dit.add_argument("--keep-detail", type=float, default=1.0, help="the same for fine detail")
    dit.add_argument("--compile", action="store_true", help="torch.compile the block")
    vae.add_argument("--freeze-encoder", action="store_true", help="train the decoder only")
    options = parser.parse_args()
    if options.stage == "prepare":
        from tiny_data import prepare as run

        skip = {name: int(count) for name, count in (item.split("=") for item in options.skip)}
        print(f"{run(options.sources, options.data, skip)} arrays written to {options.data}")
        return
    options.out.mkdir(parents=True, exist_ok=True)
    if options.stage == "vae":
        from train_tiny_vae import VaeTraining, train_vae

        from diffsynth_patches.tiny import TinyConfig

        train_vae(
            VaeTraining(
                options.data,
                options.out,
                options.minutes,
                monitor=options.monitor,
                train_encoder=not options.freeze_encoder,
                device=options.device,
            ),
            TinyConfig(),
        )
    elif options.stage == "freeze":
        from train_tiny_vae import freeze_vae

        from diffsynth_patches.tiny import TinyConfig

        print(freeze_vae(options.data, options.out, TinyConfig()))
    elif options.stage == "export":
        from export_tiny import export as run_export

        from diffsynth_patches.tiny import TinyConfig

        print(run_export(options.out, options.to, TinyConfig(), options.note, options.raw))
    elif options.stage == "plot":
        from export_tiny import plot_logs

        plot_logs(options.out, options.to)
    elif options.stage == "dit":
        from train_tiny_dit import DitTraining, train_dit

        from diffsynth_patches.tiny import TinyConfig

        train_dit(
            DitTraining(
                options.data,
                options.out,
                options.minutes,
                lr=options.lr,
                keep=options.keep,
                keep_detail=options.keep_detail,
                monitor=options.monitor,
                device=options.device,
                compile=options.compile,
            ),
            TinyConfig(),
        )


if __name__ == "__main__":
    main()
