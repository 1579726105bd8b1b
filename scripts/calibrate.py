"""Measure what the caching methods must know about a model, and write it as the model's calibration.

Runs the uncached model on every clip and writes `MODEL.json` (TeaCache's polynomials, the tabulated change of the
stack residual, MagCache's ratios per branch) and `MODEL.fastcache.safetensors` (FastCache's linear maps).

    python scripts/calibrate.py --model tiny
    python scripts/calibrate.py --model wan2.1-vace-1.3b --video a.mp4 b.mp4 --mask a_mask.mp4 b_mask.mp4
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from diffsynth_patches.loader import load_pipeline  # noqa: E402
from diffsynth_patches.run import EditSettings, run_edit  # noqa: E402
from hetcache.calibrate.measure import BranchMeasurements, MeasuringManager, change_curve, fit_polynomial  # noqa: E402
from hetcache.core.calibration import SCHEMA, load_calibration  # noqa: E402
from hetcache.core.drift import Rescale  # noqa: E402
from hetcache.core.linear_maps import Layer, LinearFit, LinearMaps, save_linear_maps  # noqa: E402
from hetcache.core.vocabulary import Branch, Schedule  # noqa: E402
from hetcache.files import CALIBRATIONS, write_json  # noqa: E402
from hetcache.media.clip import Clip, read_clip  # noqa: E402
from hetcache.media.ffmpeg import VideoError
from hetcache.media.read import probe
from hetcache.models import ModelInfo  # noqa: E402

DATA = Path(__file__).resolve().parent.parent / "data"


@dataclass
class Measured:
    """All runs: one `BranchMeasurements` per clip and branch, and the rows collected for the linear maps."""

    branches: dict[Branch, list[BranchMeasurements]]
    fits: dict[Layer, LinearFit]

    def mean(self, what: str, *branches: Branch) -> list[float]:
        """Mean over clips and the given branches of `change` or `magnitude`, one value per step."""
        runs = [getattr(run, what) for branch in branches for run in self.branches[branch]]
        return np.mean(runs, axis=0).tolist()

    @property
    def schedule(self) -> Schedule:
        schedule = self.branches[Branch.COND][0].schedule
        assert schedule is not None
        return schedule


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    try:
        if len(args.video) != len(args.mask):
            raise ValueError(f"{len(args.video)} videos and {len(args.mask)} masks: give one mask per video")
        pipe, info = load_pipeline(args.model, args.device, getattr(torch, args.dtype))
        clips = [read(video, mask, args, info) for video, mask in zip(args.video, args.mask, strict=True)]
        measured = measure(pipe, info, clips, args)
        output = args.output or CALIBRATIONS / f"{info.model_id}.json"
        write(output, info.model_id, measured, args)
    except (ValueError, VideoError, OSError) as error:
        print(f"calibrate.py: {error}", file=sys.stderr)
        return 2
    print(f"wrote {output}")
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("calibrate.py", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny", help="model name or folder, as for inference.py (default tiny)")
    parser.add_argument("--video", type=Path, nargs="+", default=[DATA / "real.mp4"], help="clips to measure on")
    parser.add_argument("--mask", type=Path, nargs="+", default=[DATA / "masks.mp4"], help="one mask per clip")
    parser.add_argument("--frames", type=int, default=33, help="frames of each clip, 4k+1 (default 33)")
    parser.add_argument("--height", type=int, help="height the model works at (default: by aspect)")
    parser.add_argument("--width", type=int, help="width the model works at (default: by aspect)")
    parser.add_argument("--steps", type=int, default=50, help="denoising steps to measure (default 50)")
    parser.add_argument("--sigma-shift", type=float, default=5.0, help="shift of the noise schedule (default 5)")
    parser.add_argument("--cfg-scale", type=float, help="guidance scale (default: the model's)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first clip; each next one adds 1")
    parser.add_argument("--rank", type=int, default=32, help="rank of FastCache's linear maps, 0 for none (default 32)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--dtype",
        default="float32" if not torch.cuda.is_available() else "bfloat16",
        choices=("float32", "bfloat16", "float16"),
    )
    parser.add_argument("--output", type=Path, help="JSON to write (default: where the model's calibration is read)")
    return parser.parse_args(argv)


def read(video: Path, mask: Path, args: argparse.Namespace, info: ModelInfo) -> Clip:
    source = probe(video)
    height, width = info.default_size(source.height, source.width)
    return read_clip(video, mask, args.frames, (args.height or height, args.width or width))


def measure(pipe: Any, info: ModelInfo, clips: list[Clip], args: argparse.Namespace) -> Measured:
    """Run every clip uncached. Only the first clip's seed is `args.seed`."""
    measured = Measured({Branch.COND: [], Branch.UNCOND: []}, {})

    def make_manager(branch: Branch, schedule: Schedule) -> MeasuringManager:
        run = BranchMeasurements()
        measured.branches[branch].append(run)
        return MeasuringManager(run, schedule, measured.fits if args.rank > 0 else None)

    for index, clip in enumerate(clips):
        settings = EditSettings(
            info.prompt,
            info.negative_prompt,
            args.steps,
            args.cfg_scale or info.cfg_scale,
            args.sigma_shift,
            args.seed + index,
        )
        result = run_edit(pipe, info, clip, make_manager, settings)
        print(f"{clip.path.name}: {result.session.stage_ms['denoise'] / 1e3:.1f} s for {args.steps} steps")
    return measured


def write(output: Path, model_id: str, measured: Measured, args: argparse.Namespace) -> None:
    """Write the JSON and the linear maps beside it, and read them back."""
    used = [branch for branch in Branch if measured.branches[branch]]
    changes = measured.mean("change", *used)
    schedule = measured.schedule
    curve = change_curve(schedule.timesteps, changes)
    data: dict[str, Any] = {
        "schema": SCHEMA,
        "model": model_id,
        "source": "scripts/calibrate.py",
        "measured_on": {
            "steps": args.steps,
            "sigma_shift": args.sigma_shift,
            "frames": args.frames,
            "clips": [video.name for video in args.video],
            "first_seed": args.seed,
            "dtype": args.dtype,
        },
        "teacache": {name: polynomial(schedule.rel_l1[name], changes) for name in ("e0", "e")},
        "drift": {"timesteps": rounded(curve.timesteps), "cumulative": rounded(curve.cumulative)},
        "magcache": {branch.value: rounded(measured.mean("magnitude", branch), 5) for branch in used},
    }
    if measured.fits:
        maps = output.with_suffix(".fastcache.safetensors")
        data["fastcache"] = write_maps(maps, model_id, measured.fits, args.rank)
    write_json(output, data, indent=1)
    load_calibration(model_id, output).linear_maps()


def polynomial(signal: tuple[float, ...], changes: list[float]) -> dict[str, Any]:
    rescale, r_squared = fit_polynomial(signal, changes)
    print(f"TeaCache polynomial in {rescale.space} space: R squared {r_squared:.3f}")
    return describe(rescale) | {"r_squared": round(r_squared, 4)}


def describe(rescale: Rescale) -> dict[str, Any]:
    return {"coefficients": list(rescale.coefficients), "space": rescale.space, "domain": rescale.domain}


def write_maps(path: Path, model_id: str, fits: dict[Layer, LinearFit], rank: int) -> dict[str, Any]:
    maps = LinearMaps(model_id, {layer: fit.solve(rank) for layer, fit in fits.items()})
    save_linear_maps(path, maps)
    unexplained = {
        f"{stack}.{layer}": round(fits[stack, layer].unexplained(fitted), 4)
        for (stack, layer), fitted in maps.layers.items()
    }
    return {"file": path.name, "rank": rank, "unexplained": unexplained}


def rounded(values: Any, digits: int = 6) -> list[float]:
    return [round(float(value), digits) for value in values]


if __name__ == "__main__":
    sys.exit(main())
