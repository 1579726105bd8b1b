"""Measure what the caching methods must know about a model, and write it as the model's calibration.

Runs the uncached model on every clip and writes `MODEL.json` (TeaCache's polynomials, the tabulated change of the
stack residual, the curve of time that forecasts go along, MagCache's ratios per branch), `MODEL.fastcache.safetensors`
(FastCache's linear maps) and with `--paths also` (or `only`) `MODEL.dpcache-STEPS-SHIFT.safetensors` (DPCache's errors
of paths, for one schedule); with `--errors`, alone, `MODEL.errors.safetensors` (what each kind of step errs by, for
HetCache's exact plans).

    python -m hetcache.calibrate --model tiny
    python -m hetcache.calibrate --model wan2.1-vace-1.3b --video a.mp4 b.mp4 --mask a_mask.mp4 b_mask.mp4
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from hetcache.calibrate.measure import (
    BranchMeasurements,
    MeasuringManager,
    change_curve,
    fit_polynomial,
    gram,
    path_errors,
    time_curve,
)
from hetcache.calibrate.options import CalibrationRequest, parse
from hetcache.calibrate.options import Measured as Asked
from hetcache.calibrate.tables import measured_tables
from hetcache.core.calibration import SCHEMA, load_calibration
from hetcache.core.calibration_files import own_calibration_file, path_file
from hetcache.core.drift import Rescale
from hetcache.core.facts import weights_fingerprint
from hetcache.core.linear_maps import Layer, LinearFit, LinearMaps, save_linear_maps
from hetcache.core.options import EditSettings
from hetcache.core.paths import PathErrors, load_path_errors, save_path_errors
from hetcache.core.terminal import complain, say, take_any_character
from hetcache.core.vocabulary import Branch, Schedule
from hetcache.files import CALIBRATIONS, write_json
from hetcache.media.clip import Clip, read_clip
from hetcache.media.read import probe
from hetcache.models import ModelInfo, choose_model, model_info
from hetcache.models.backend import LoadOptions, Pipeline, backend
from hetcache.planner.tables import load_tables, tables_file
from hetcache.run.job import choose_device


@dataclass
class Measured:
    """All runs: one `BranchMeasurements` per clip and branch, and the rows collected for the linear maps."""

    branches: dict[Branch, list[BranchMeasurements]]
    fits: dict[Layer, LinearFit]

    def mean(self, what: str, *branches: Branch) -> list[float]:
        """Mean over clips and the given branches of `change` or `magnitude`, one value per step."""
        runs = [getattr(run, what) for branch in branches for run in self.branches[branch]]
        return [float(value) for value in np.mean(runs, axis=0)]

    @property
    def schedule(self) -> Schedule:
        schedule = self.branches[Branch.COND][0].schedule
        assert schedule is not None
        return schedule


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 when the calibration is written, 2 for what cannot be measured, 130 after Ctrl-C."""
    take_any_character()
    try:
        say(f"wrote {run(parse(argv, __doc__.splitlines()[0]))}")
    except KeyboardInterrupt:
        complain("\nhetcache.calibrate: interrupted")
        return 130
    except (ValueError, OSError) as error:
        complain(f"hetcache.calibrate: error: {error}")
        return 2
    return 0


def run(request: CalibrationRequest) -> Path:
    """Measure what was asked for and write it; returns where."""
    device, dtype = choose_device(request.model)
    model, _ = choose_model(request.model.model, device.startswith("cuda"))
    asked, info = request.measured, model_info(model)
    files = zip(asked.video, asked.mask, cycle(asked.frames), strict=False)
    clips = [read(video, mask, count, request, info) for video, mask, count in files]
    options = LoadOptions(device, dtype, revision=request.model.revision, huggingface=request.model.huggingface)
    pipeline = backend(info.backend).load(model, options)
    output = asked.output or own_calibration_file(info.model_id, model)
    if asked.errors:
        return write_errors(output, info, model, pipeline, clips, request)
    is_part = "only" in (asked.paths, asked.time_curve)
    if is_part:
        load_calibration(info.model_id, output, model)
    rank = 0 if is_part else asked.rank
    measured = measure(pipeline, clips, info.complete(request.edit), rank, asked.paths != "off")
    weights = weights_fingerprint(model)
    if not is_part:
        write(output, info, measured, request, str(dtype).removeprefix("torch."), weights)
    if asked.time_curve == "only":
        write_json(output, json.loads(output.read_text()) | curve_of_time(measured, request), indent=1)
        load_calibration(info.model_id, output)
    return write_paths(output, info, measured, request, weights) if asked.paths != "off" else output


def write_errors(
    output: Path, info: ModelInfo, model: str, pipeline: Pipeline, clips: list[Clip], request: CalibrationRequest
) -> Path:
    """Measure the error tables and write them beside the calibration file `output`; returns where."""
    calibration = load_calibration(info.model_id, output, model)
    tables = measured_tables(
        pipeline, clips, info.complete(request.edit), lambda: calibration, info, weights_fingerprint(model), say
    )
    path = tables_file(output)
    tables.save(path)
    load_tables(path, "measure again")
    return path


def read(video: Path, mask: Path, num_frames: int, request: CalibrationRequest, info: ModelInfo) -> Clip:
    source = probe(video)
    size = request.size.of(info.default_size(source.height, source.width))
    return read_clip(video, mask, num_frames, size)


def lengths(asked: Asked) -> int | list[int]:
    """Frames of the clips, for the facts of a file: one number where all have as many."""
    return asked.frames[0] if len(asked.frames) == 1 else list(asked.frames)


def measure(pipeline: Pipeline, clips: list[Clip], edit: EditSettings, rank: int, paths: bool = False) -> Measured:
    """Run every clip uncached. The first clip's seed is `edit.seed`, each next one adds 1. With `paths` the errors of
    paths are measured too."""
    measured = Measured({Branch.COND: [], Branch.UNCOND: []}, {})

    def make_manager(branch: Branch, schedule: Schedule) -> MeasuringManager:
        run = BranchMeasurements()
        measured.branches[branch].append(run)
        return MeasuringManager(run, schedule, measured.fits if rank > 0 else None, keeps_features=True)

    for index, clip in enumerate(clips):
        settings = replace(edit, seed=edit.seed + index)
        result = pipeline.edit(clip, make_manager, settings)
        say(f"{clip.path.name}: {result.session.stage_ms['denoise'] / 1e3:.1f} s for {edit.num_steps} steps")
        for branch in Branch:
            for run in measured.branches[branch][index:]:
                run.gram_SS = gram(run.features)
                run.path_errors = path_errors(run.features) if paths else None
                run.features.clear()
    return measured


def write_paths(output: Path, info: ModelInfo, measured: Measured, request: CalibrationRequest, weights: str) -> Path:
    """Write the mean errors of paths over clips and branches beside the calibration file `output`; returns where."""
    edit, asked = request.edit, request.measured
    errors = [run.path_errors for runs in measured.branches.values() for run in runs if run.path_errors is not None]
    facts = {
        "model": info.model_id,
        "library": info.backend,
        "sampler": info.sampler,
        **({"weights": weights} if weights else {}),
        "sigma_shift": edit.sigma_shift,
        "frames": lengths(asked),
        "clips": [video.name for video in asked.video],
        "first_seed": edit.seed,
    }
    path = path_file(output, measured.schedule.num_steps, edit.sigma_shift)
    save_path_errors(path, PathErrors(measured.schedule.timesteps, np.mean(errors, axis=0), facts))
    load_path_errors(path)
    return path


def curve_of_time(measured: Measured, request: CalibrationRequest) -> dict[str, Any]:
    """The curve and what it was measured on, as the calibration file has them."""
    asked, schedule = request.measured, measured.schedule
    grams = [run.gram_SS for runs in measured.branches.values() for run in runs if run.gram_SS is not None]
    curve = time_curve(schedule.timesteps, grams)
    clips = {"frames": lengths(asked), "clips": [video.name for video in asked.video]}
    points = [rounded(point) for point in curve.points]
    return {"time_curve": {"measured_on": clips, "timesteps": rounded(curve.timesteps), "points": points}}


def write(
    output: Path, info: ModelInfo, measured: Measured, request: CalibrationRequest, dtype: str, weights: str
) -> None:
    """Write the JSON and the linear maps beside it, and read them back. `weights` is the fingerprint of those measured,
    empty where they have none."""
    asked, edit = request.measured, request.edit
    used = [branch for branch in Branch if measured.branches[branch]]
    changes = measured.mean("change", *used)
    schedule = measured.schedule
    curve = change_curve(schedule.timesteps, changes)
    data: dict[str, Any] = {
        "schema": SCHEMA,
        "model": info.model_id,
        "library": info.backend,
        "sampler": info.sampler,
        "source": "python -m hetcache.calibrate",
        **({"weights": weights} if weights else {}),
        **published_defaults(info.model_id),
        "measured_on": {
            "steps": edit.num_steps,
            "sigma_shift": edit.sigma_shift,
            "cfg_scale": info.complete(edit).cfg_scale,
            "frames": lengths(asked),
            "clips": [video.name for video in asked.video],
            "first_seed": edit.seed,
            "dtype": dtype,
        },
        "teacache": {name: polynomial(schedule.rel_l1[name], changes) for name in ("e0", "e")},
        "drift": {"timesteps": rounded(curve.timesteps), "cumulative": rounded(curve.cumulative)},
        **curve_of_time(measured, request),
        "magcache": {branch.value: rounded(measured.mean("magnitude", branch), 5) for branch in used},
    }
    if measured.fits:
        maps = output.with_suffix(".fastcache.safetensors")
        data["fastcache"] = write_maps(maps, info.model_id, measured.fits, asked.rank)
    write_json(output, data, indent=1)
    load_calibration(info.model_id, output).linear_maps()


def published_defaults(model_id: str) -> dict[str, Any]:
    """`defaults` of the package's file of this model, whatever library runs it, for a new file: thresholds are the
    authors' and not measured. Empty where there are none."""
    file = CALIBRATIONS / f"{model_id.removesuffix('-diffusers')}.json"
    data = json.loads(file.read_text()) if file.is_file() else {}
    return {"defaults": data["defaults"]} if "defaults" in data else {}


def polynomial(signal: tuple[float, ...], changes: list[float]) -> dict[str, Any]:
    rescale, r_squared = fit_polynomial(signal, changes)
    say(f"TeaCache polynomial in {rescale.space} space: R squared {r_squared:.3f}")
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
