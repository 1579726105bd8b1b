"""What a benchmark is asked for, as typed: its own options, and those it shares with `inference.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hetcache.core.options import MAX_SEED, EditSettings, VramOptions, check_compile
from hetcache.core.settings import refused, setting
from hetcache.files import UserError
from hetcache.media.sizes import check_frame_count
from hetcache.models.options import ModelOptions
from hetcache.run.options import Size

QUICK = {"frames": 9, "steps": 20, "repeats": 1}
CPU_DEFAULT = {"frames": 17, "repeats": 2}
CUDA_DEFAULT = {"frames": 33, "repeats": 3}


def _by_device(name: str) -> str:
    return f"{CPU_DEFAULT[name]}, on CUDA {CUDA_DEFAULT[name]}"


@dataclass(frozen=True)
class Compared:
    """What is compared on what."""

    modes: tuple[str, ...] = setting(
        ("default",),
        "modes, with settings as hetcache:cache_thresh=0.1,context_ratio=0.2; steps:25 (fewer steps, no cache); "
        "steps:hetcache (as many as its FLOPs pay for); exact:5 (hetcache's exact plan for 5x); all; default: the "
        "paper's table and the added methods",
        shown="",
        metavar="METHOD",
    )
    videos: Path | None = setting(None, "folder of videos", shown="the example")
    masks: Path | None = setting(None, "folder of masks, NAME.* or NAME_mask.*", shown="the example's")
    frames: int | None = setting(None, "frames, 4k+1", shown=_by_device("frames"))
    seeds: tuple[int, ...] = setting((0,), "seeds of the noise", shown="0")
    repeats: int | None = setting(None, "runs of each cell", shown=_by_device("repeats"))
    quick: bool = setting(False, f"{QUICK['frames']} frames, {QUICK['steps']} steps, once: a look in minutes")

    def __post_init__(self) -> None:
        if (self.videos is None) != (self.masks is None):
            raise UserError("--videos and --masks go together")
        if self.frames is not None:
            check_frame_count(self.frames)
        if self.repeats is not None and self.repeats < 1:
            raise refused(self, "repeats", "at least 1")
        for seed in self.seeds:
            if not 0 <= seed < MAX_SEED:
                raise UserError(f"--seeds {seed}: from 0 to 2^63 - 1")

    def length(self, cuda: bool) -> tuple[int, int]:
        """(frames, repeats), by device where they were not given."""
        default = QUICK if self.quick else CUDA_DEFAULT if cuda else CPU_DEFAULT
        frames = default["frames"] if self.frames is None else self.frames
        return frames, default["repeats"] if self.repeats is None else self.repeats


@dataclass(frozen=True)
class RandomWeights:
    """Time and memory without weights."""

    random_weights: bool = setting(
        False, "the model's true dimensions with random weights: time and memory, no quality"
    )
    decisions: str | None = setting(
        None,
        "with --random-weights: HetCache's decisions to replay, one letter a step, or a run's .json record",
        shown="those under a steady change",
        metavar="LETTERS",
    )

    def __post_init__(self) -> None:
        if self.decisions and not self.random_weights:
            raise UserError("--decisions is for --random-weights: with weights, HetCache decides by itself")


@dataclass(frozen=True)
class BenchOutput:
    """Where it is written."""

    output: Path = setting(Path("outputs/benchmark"), "folder")
    fresh: bool = setting(False, "forget the finished cells in --output and start over")
    publish: Path | None = setting(
        None,
        "also write report, table and figures under dated names here, such as docs/benchmarks",
        shown="",
        metavar="DIR",
    )
    debug: bool = setting(False, "show tracebacks")


@dataclass(frozen=True)
class BenchRequest:
    """Everything that a benchmark is made of. `edit` says nothing of the seed: see `compared.seeds`."""

    compared: Compared = field(default_factory=Compared)
    model: ModelOptions = field(default_factory=ModelOptions)
    size: Size = field(default_factory=Size)
    random: RandomWeights = field(default_factory=RandomWeights)
    edit: EditSettings = field(default_factory=EditSettings)
    vram: VramOptions = field(default_factory=VramOptions)
    output: BenchOutput = field(default_factory=BenchOutput)
    words: Sequence[str] = ()

    def __post_init__(self) -> None:
        check_compile(self.edit, self.vram)

    def settings(self) -> EditSettings:
        """The settings of an edit, with the first seed."""
        return replace(self.edit, seed=self.compared.seeds[0])
