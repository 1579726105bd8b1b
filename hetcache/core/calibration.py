"""Calibrations by model id: how a model's static signal maps to the change of its output, and what else a method
must be told about a model.

Files are versioned JSON in `hetcache/calibrate/calibrations/` (published figures and the embedded model's) or any
path a user gives; a model without one is an error that names the command that makes it, never a silent stand-in.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hetcache.core.calibration_files import calibration_file, path_files
from hetcache.core.conditions import Conditions
from hetcache.core.drift import ChangeCurve, ChangeEstimator, Rescale
from hetcache.core.time_curve import TimeCurve
from hetcache.core.vocabulary import Branch
from hetcache.files import StrPath, UserError

if TYPE_CHECKING:
    from hetcache.core.linear_maps import LinearMaps
    from hetcache.core.paths import PathErrors

T = TypeVar("T")
SCHEMA = 1
LIBRARY = "diffsynth"
"""What a calibration that does not say was measured under."""
SAMPLERS = {LIBRARY: "euler"}
"""Of libraries that have one alone."""


class CalibrationError(UserError):
    """No calibration, or a file that is not one."""


@dataclass(frozen=True)
class Calibration:
    """What was measured on, or published for, one model.

    `teacache` maps a static signal (`e0`, `e`) to its rescaling; `drift` is the tabulated change of the stack
    residual and `time_curve` its way, which forecasts follow; `magcache` maps a branch (`cond`, `uncond`) to its
    magnitude ratios, one per step, the first 1.0; `fastcache` is the file with the blocks' linear maps, `dpcache` those
    with the errors of paths, one a schedule. `library` and `sampler` say what it was measured under, `asked` how
    `--model` names the model where that is not `model`. `raw` is the whole JSON.

    `measured_on` are the conditions by part (`teacache`, `drift`, `magcache`); `defaults` by mode the settings that its
    authors publish for this model; `elsewhere` by part where a published list lies that is not in this file.
    """

    model: str
    source: str
    teacache: dict[str, Rescale] = field(default_factory=dict)
    drift: ChangeCurve | None = None
    magcache: dict[str, tuple[float, ...]] = field(default_factory=dict)
    fastcache: Path | None = None
    dpcache: tuple[Path, ...] = ()
    library: str = LIBRARY
    sampler: str = ""
    asked: str = ""
    raw: dict[str, Any] = field(default_factory=dict)
    measured_on: dict[str, Conditions] = field(default_factory=dict)
    defaults: dict[str, dict[str, Any]] = field(default_factory=dict)
    elsewhere: dict[str, str] = field(default_factory=dict)
    time_curve: TimeCurve | None = None

    def rescale(self, signal: str) -> Rescale:
        """TeaCache's polynomial. Raises CalibrationError when this model was not calibrated for the signal."""
        if signal not in self.teacache:
            raise self._missing(f"for signal {signal!r}")
        return self.teacache[signal]

    def estimator(self, signal: str = "e0") -> ChangeEstimator:
        """The best estimate of each step's change: the table where one was measured, else TeaCache's polynomial.
        Raises CalibrationError when there is neither."""
        return self.drift if self.drift is not None else self.rescale(signal)

    def magnitude_ratios(self, branch: Branch) -> tuple[float, ...]:
        """MagCache's ratios of the branch; the conditional branch's where only those were published. Raises
        CalibrationError when there are none."""
        if "cond" not in self.magcache:
            raise self._missing("of MagCache's magnitude ratios", self.elsewhere.get("magcache"))
        return self.magcache.get(branch.value, self.magcache["cond"])

    def linear_maps(self) -> LinearMaps | None:
        """FastCache's fitted maps, None when none were fitted. Raises CalibrationError for a file that is not
        this model's."""
        if self.fastcache is None:
            return None
        from hetcache.core.linear_maps import LinearMapsError, load_linear_maps

        try:
            return load_linear_maps(self.fastcache, self.model)
        except LinearMapsError as error:
            raise CalibrationError(f"{error}: run {calibrate_command(self.model)}") from error

    def path_errors(self, timesteps: Sequence[float]) -> PathErrors:
        """DPCache's table for the schedule. Raises CalibrationError where none was measured for it, under the same
        library, sampler and weights."""
        from hetcache.core.paths import PathErrorsError, choose_table

        command = f"{calibrate_command(self.asked or self.model)} --paths only --steps {len(timesteps)}"
        origin = {"model": self.model, "library": self.library, "sampler": self.sampler}
        try:
            return choose_table(self.dpcache, origin, self.raw.get("weights"), timesteps)
        except PathErrorsError as error:
            raise CalibrationError(f"model {self.model!r}: {error}: run {command} with this run's shift") from error

    def settle(self, mode: str, settled: Callable[[Mapping[str, Any]], T], published: Mapping[str, Any]) -> T:
        """`settled` of the values that this file gives for the mode, of `published` where it gives none. Raises
        CalibrationError for a file whose values are not those that the mode reads."""
        try:
            return settled(self.defaults.get(mode, published))
        except (KeyError, TypeError, ValueError) as error:
            raise CalibrationError(f"the calibration of {self.model!r}: defaults of {mode}: {error!r}") from error

    def _missing(self, what: str, elsewhere: str | None = None) -> CalibrationError:
        remedy = f"run {calibrate_command(self.asked or self.model)}"
        if elsewhere is not None:
            remedy += f" (the authors publish them, which this package does not hold: {elsewhere})"
        return CalibrationError(f"model {self.model!r} has no calibration {what}: {remedy}")


@dataclass(frozen=True)
class CalibrationNeed:
    """Which calibration a run needs: a model's, measured under the same library and, where that has several, sampler,
    because both change the signal. `asked` is the model as `hetcache.calibrate --model` takes it, None where no command
    can make one."""

    model_id: str
    library: str = LIBRARY
    sampler: str = ""
    asked: str | None = None

    def load(self, path: StrPath | None = None) -> Calibration:
        """From `path`, from the model's own folder or from the package. Raises CalibrationError, with the command that
        makes the right one."""
        file = Path(path) if path is not None else calibration_file(self.model_id, self.asked)
        if not file.is_file():
            found = "" if path is None else f"{file}: "
            raise CalibrationError(
                f"{found}no calibration for model {self.model_id!r} ({file.name} not found): {self._remedy()}"
            )
        calibration = load_calibration(self.model_id, file, self.asked)
        origin = " with ".join(filter(None, (calibration.library, calibration.sampler)))
        mine = " with ".join(filter(None, (self.library, self.sampler)))
        if origin != mine:
            raise CalibrationError(
                f"{file.name} was measured in {origin} and this run is {mine}, whose timesteps change otherwise: "
                f"{self._remedy()}"
            )
        return replace(calibration, asked=self.asked or self.model_id)

    def conditions(
        self, timesteps: tuple[float, ...], shift: float | None = None, cfg_scale: float | None = None
    ) -> Conditions:
        """Of a run of this model, as far as they are known."""
        sampler = self.sampler or SAMPLERS.get(self.library, "")
        return Conditions(len(timesteps), shift, cfg_scale, sampler, timesteps=timesteps)

    def _remedy(self) -> str:
        if self.asked is not None:
            return f"run {calibrate_command(self.asked)}"
        return "no command makes one for this pipeline; choose a mode that needs none, such as easycache"


def load_calibration(model_id: str, path: Path | None = None, model: str | None = None) -> Calibration:
    """The calibration of `model_id`, from `path`, from the model's own folder or from the package.

    `model` is the model as it was asked for, a name or a folder. A calibration that says which weights it was made
    with is refused for others. Raises CalibrationError.
    """
    file = path or calibration_file(model_id, model)
    if not file.is_file():
        raise CalibrationError(
            f"no calibration for model {model_id!r} ({file.name} not found): run {calibrate_command(model_id)}"
        )
    try:
        data = json.loads(file.read_text())
        schema, named = data["schema"], data["model"]
        calibration = _parse(data, file)
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise CalibrationError(f"{file} is not a calibration file: {error}") from error
    if schema != SCHEMA:
        raise CalibrationError(f"{file} has calibration schema {schema}; this version reads {SCHEMA}")
    if named != model_id:
        raise CalibrationError(f"{file} was made for model {named!r}, not for {model_id!r}")
    if model is not None:
        _check_weights(file, data.get("weights"), model)
    return calibration


def _check_weights(file: Path, made_with: str | None, model: str) -> None:
    """Raises CalibrationError when the calibration was made with other weights than those of `model`."""
    from hetcache.core.facts import weights_fingerprint  # here: it needs torch, and --help does not

    weights = weights_fingerprint(model) if made_with else ""
    if weights and weights != made_with:
        raise CalibrationError(
            f"{file.name} was made with the weights {made_with}, and those of model {model!r} are {weights}: "
            f"run {calibrate_command(model)}"
        )


def _parse(data: dict[str, Any], file: Path) -> Calibration:
    rescales = {
        name: Rescale(
            _floats(entry["coefficients"]),
            entry.get("space", "linear"),
            (float(entry["domain"][0]), float(entry["domain"][1])) if "domain" in entry else None,
        )
        for name, entry in data.get("teacache", {}).items()
    }
    drift = data.get("drift")
    curve = ChangeCurve(_floats(drift["timesteps"]), _floats(drift["cumulative"])) if drift else None
    way = data.get("time_curve")
    ratios = {branch: _floats(values) for branch, values in data.get("magcache", {}).items()}
    sampler = str(data.get("sampler", ""))
    general = Conditions.read(data.get("measured_on", {}), sampler, curve.timesteps if curve else ())
    conditions = {
        part: Conditions.read(data[f"{part}_on"], sampler) if f"{part}_on" in data else general
        for part in ("teacache", "drift", "magcache")
    }
    if any(len(values) < 2 or min(values) <= 0 for values in ratios.values()):
        raise ValueError("magnitude ratios must be two or more positive numbers")
    maps = data.get("fastcache", {}).get("file")
    if maps is not None and Path(maps).name != maps:
        raise ValueError(f"the linear maps must lie beside the calibration file, not at {maps!r}")
    return Calibration(
        data["model"],
        str(data.get("source", "")),
        rescales,
        curve,
        ratios,
        file.parent / maps if maps is not None else None,
        path_files(file),
        str(data.get("library", LIBRARY)),
        sampler,
        raw=data,
        measured_on=conditions,
        defaults={mode: values for mode, values in data.get("defaults", {}).items() if isinstance(values, dict)},
        elsewhere=dict(data.get("elsewhere", {})),
        time_curve=TimeCurve(_floats(way["timesteps"]), tuple(map(_floats, way["points"]))) if way else None,
    )


def _floats(values: list[Any]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def calibrate_command(model_id: str) -> str:
    return f"python -m hetcache.calibrate --model {model_id}"
