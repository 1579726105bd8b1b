"""Trains the embedded model on any folders of clips and photographs.

    python -m scripts.train prepare --sources CLIPS PHOTOS --data work/data
    python -m scripts.train ae --data work/data --out work/run --minutes 240
    python -m scripts.train freeze --data work/data --out work/run
    python -m scripts.train dit --data work/data --out work/run --minutes 480
    python -m scripts.train export --out work/run --to work/tiny

Every stage goes on from its checkpoint under --out; a larger --minutes extends it. See docs/embedded-model.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import torch

from diffsynth_patches.tiny import TinyConfig, load_tiny_pipeline
from hetcache.files import EMBEDDED_WEIGHTS
from scripts.train import arrays, autoencoder, denoiser, export, fills, held_out, state
from scripts.train.loop import LoopOptions, train

SMALL = TinyConfig(
    dim=96,
    num_layers=2,
    num_heads=2,
    ffn_dim=64,
    vace_layers=(0,),
    vae_width=16,
    vae_encoder_depth=1,
    vae_decoder_depth=1,
    vae_refine_width=8,
    vae_features=2,
)


def main(argv: list[str] | None = None) -> None:
    options = parser().parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
        cv2.setNumThreads(options.threads)
    try:
        COMMANDS[options.command](options)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"error: {error}") from None


def parser() -> argparse.ArgumentParser:
    """One subcommand per step of the work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, help="threads of PyTorch: 1 is fastest on cores that others use too")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    prepare = _command(commands, "prepare", "decode sources into uint8 arrays", "data")
    prepare.add_argument("--sources", type=Path, nargs="+", required=True)
    holes = _command(commands, "fills", "holes filled from other frames, for `dit`, added to the arrays", "data")
    holes.add_argument("--count", type=int, default=200, help="how many there are to be; made ones are kept")
    _command(commands, "pack", "the arrays as at most 50 MiB of files, for `prepare` elsewhere", "data to")
    watch = _command(commands, "watch-clips", "clips for --watch, from folders as `evaluate` reads them", "to")
    watch.add_argument("--clips", type=Path, nargs="+", required=True)
    _training(_command(commands, "ae", "train the autoencoder", "data out"), lr=1.5e-3, minutes=240)
    decoder = _command(commands, "ae-decoder", "train the decoder alone, on clean and noisy latents", "data out")
    _training(decoder, lr=1.5e-3, minutes=15)
    frozen = _command(commands, "freeze", "fix the latents' scale: ae.pt -> ae-frozen.pt", "data out")
    frozen.add_argument(
        "--like", type=Path, help="weights whose latents they are to resemble: `dit` goes on from these"
    )
    dit = _command(commands, "dit", "train the denoiser on the frozen autoencoder", "data out")
    _training(dit, lr=2e-3, minutes=480)
    dit.add_argument("--keep", type=float, default=1.0, help="spread of the target around the model's mean, 0..1")
    dit.add_argument("--skip", type=float, default=0.0, help="share of the curriculum to skip: 0.3 after a warm start")
    dit.add_argument("--keep-detail", type=float, default=1.0, help="the same for fine detail")
    written = _command(commands, "export", "write float16 safetensors", "out to")
    written.add_argument("--note", default="see docs/embedded-model.md", help="stored as metadata: the training data")
    written.add_argument("--raw", action="store_true", help="the denoiser's last weights, not their average")
    restore = _command(commands, "restore", "checkpoints from float16 weights; optimisers start anew", "out")
    restore.add_argument("--weights", type=Path, default=EMBEDDED_WEIGHTS)
    for name, text in (("split", "a stage's state as float16 parts under 16 MiB"), ("join", "the parts put together")):
        parts = _command(commands, name, text, "out to")
        parts.add_argument("--stage", choices=("ae", "ae-frozen", "ae-decoder", "dit"), required=True)
    _command(commands, "plot", "draw the loss curves", "out to")
    return parser


def _command(commands: argparse._SubParsersAction, name: str, text: str, folders: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text)
    for folder in folders.split():
        command.add_argument(f"--{folder}", type=Path, required=True)
    command.add_argument("--small", action="store_true", help="a toy shape, to try the commands out")
    return command


def _training(command: argparse.ArgumentParser, lr: float, minutes: float) -> None:
    command.add_argument("--minutes", type=float, default=minutes, help="of the whole stage, pauses left out")
    command.add_argument("--cooldown", type=float, default=0.25, help="share of them that lowers the learning rate")
    command.add_argument("--save-minutes", type=float, default=4.0)
    command.add_argument("--session-minutes", type=float, help="end this call after so many of them")
    command.add_argument("--workers", type=int, default=0, help="processes that draw clips: for a GPU")
    command.add_argument("--lr", type=float, default=lr)
    command.add_argument("--batch", type=int, default=1, help="multiplies the clips of a step: 8 or more on a GPU")
    command.add_argument("--device", default="cpu")
    command.add_argument("--compile", action="store_true")
    command.add_argument("--watch", type=Path, help="folder of *.npy clips never trained on")
    command.add_argument("--lpips-file", type=Path, help="the fetched trunk, where the user's cache has none")
    command.add_argument("--perceptual", type=float, default=0.3, help="weight of LPIPS in the autoencoder's loss")


def _prepare(options: argparse.Namespace) -> None:
    print(f"{arrays.prepare(options.sources, options.data)} arrays written to {options.data}")


def _fills(options: argparse.Namespace) -> None:
    print(f"{fills.make_fills(options.data, options.count)} new fills in {options.data}")


def _pack(options: argparse.Namespace) -> None:
    print(f"{arrays.pack(options.data, options.to):.1f} MiB written to {options.to}")


def _watch_clips(options: argparse.Namespace) -> None:
    clips = held_out.find_clips(options.clips, 33, 240, 416)
    held_out.write_watched(clips, options.to)
    print(f"{len(clips)} clips written to {options.to}")


def _train_autoencoder(options: argparse.Namespace) -> None:
    decoder_only = options.command == "ae-decoder"
    settings = autoencoder.AutoencoderOptions(
        options.data,
        perceptual=options.perceptual,
        batch=options.batch,
        workers=options.workers,
        decoder_only=decoder_only,
        watch=options.watch,
        device=options.device,
        compile=options.compile,
        lpips_file=options.lpips_file,
    )
    frozen = options.out / "ae-frozen.pt" if decoder_only else None
    begun = (options.out / "ae.pt").exists()
    stage = autoencoder.AutoencoderStage(_config(options), settings, frozen, begun)
    train(stage, _loop(options, adam_factor=0.25))


def _freeze(options: argparse.Namespace) -> None:
    like = load_tiny_pipeline(weights_dir=options.like).vae.model if options.like else None
    print(autoencoder.freeze(options.data, options.out, _config(options), like))
    if options.like:
        print(state.denoiser_from_weights(options.like, options.out))


def _train_denoiser(options: argparse.Namespace) -> None:
    settings = denoiser.DenoiserOptions(
        options.data,
        keep=options.keep,
        keep_detail=options.keep_detail,
        skip=options.skip,
        batch=options.batch,
        workers=options.workers,
        watch=options.watch,
        device=options.device,
        compile=options.compile,
    )
    frozen = options.out / "ae-frozen.pt"
    if not frozen.exists():
        raise FileNotFoundError(f"{frozen} is missing: train `ae` and run `freeze` first")
    train(denoiser.DenoiserStage(_config(options), settings, frozen), _loop(options))


def _export(options: argparse.Namespace) -> None:
    print(export.export(options.out, options.to, _config(options), options.note, options.raw))


def _restore(options: argparse.Namespace) -> None:
    print("\n".join(map(str, state.from_weights(options.weights, options.out))))


def _split(options: argparse.Namespace) -> None:
    print("\n".join(map(str, state.write_parts(options.out / f"{options.stage}.pt", options.to))))


def _join(options: argparse.Namespace) -> None:
    print(state.read_parts(options.to, options.stage, options.out))


def _plot(options: argparse.Namespace) -> None:
    export.plot_logs(options.out, options.to)


COMMANDS = {
    "prepare": _prepare,
    "fills": _fills,
    "pack": _pack,
    "watch-clips": _watch_clips,
    "ae": _train_autoencoder,
    "ae-decoder": _train_autoencoder,
    "freeze": _freeze,
    "dit": _train_denoiser,
    "export": _export,
    "restore": _restore,
    "split": _split,
    "join": _join,
    "plot": _plot,
}


def _config(options: argparse.Namespace) -> TinyConfig:
    return SMALL if options.small else TinyConfig()


def _loop(options: argparse.Namespace, adam_factor: float = 1.0) -> LoopOptions:
    return LoopOptions(
        options.out,
        options.minutes,
        options.lr,
        adam_factor=adam_factor,
        cooldown=options.cooldown,
        session_minutes=options.session_minutes,
        save_minutes=options.save_minutes,
    )


if __name__ == "__main__":
    main()
