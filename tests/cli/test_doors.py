"""What cannot be run is refused at every door alike: the commands, the benchmark's methods, the library."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest

from hetcache import cli
from hetcache.benchmark import cli as bench_cli
from hetcache.benchmark import command as bench
from hetcache.benchmark.methods import parse_method
from hetcache.calibrate import command as calibrate
from hetcache.calibrate import options as calibration
from hetcache.core.options import EditSettings, Memory, VramOptions
from hetcache.core.settings import setting
from hetcache.media.options import InputOptions
from hetcache.models import MODELS
from hetcache.models.options import ModelOptions
from hetcache.modes import MODES
from hetcache.run import command
from hetcache.run.options import Output, Size

ROOT = Path(__file__).resolve().parents[2]
BAD = {
    "--sigma-shift nan": "'nan' is not a finite number",
    "--sigma-shift inf": "'inf' is not a finite number",
    "--sigma-shift 0": "--sigma-shift 0.0: greater than 0",
    "--cfg-scale nan": "'nan' is not a finite number",
    "--cfg-scale -1": "--cfg-scale -1.0: not negative",
    "--steps 0": "--steps 0: at least 1",
    "--frames 10": "--frames 10: the model takes 4k+1 frames, nearest 9 or 13",
    "--frames 0": "--frames 0: the model takes 4k+1 frames, nearest 1",
    "--height 100": "--height 100: the model takes multiples of 16",
    "--width -16": "--width -16: ",
    "--device banana": "--device banana: use auto, cpu, cuda or cuda:N",
    "--dtype int8": "invalid choice: 'int8'",
    "--revision ../x": "--revision ../x: not the name of a commit",
    "--frmaes 9": "unrecognized arguments: --frmaes",
}
MAINS = {"inference": command.main, "benchmark": bench.main, "calibrate": calibrate.main}


@pytest.fixture(autouse=True)
def nothing_loads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from diffsynth_patches import loader

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loader, "load_pipeline", lambda *_, **__: pytest.fail("the model was loaded"))
    monkeypatch.setattr(calibrate, "backend", lambda *_, **__: pytest.fail("the model was loaded"))


@pytest.mark.parametrize("flags", BAD)
@pytest.mark.parametrize("name", MAINS)
def test_every_command_refuses_in_one_line(
    name: str, flags: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    try:
        code = MAINS[name](flags.split())
    except SystemExit as end:
        code = end.code
    (line,) = capsys.readouterr().err.splitlines()
    assert code == 2 and BAD[flags] in line
    assert not list(tmp_path.iterdir()) or name == "inference"


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--seeds 0 -1", "--seeds -1: from 0"),
        ("--repeats 0", "--repeats 0: at least 1"),
        ("--videos x", "--videos and --masks go together"),
        ("--decisions FF", "--decisions is for --random-weights"),
        ("--compile --vram-limit 3", "leave one of the two out"),
        ("--cfg-batch --cfg-scale 1", "--cfg-batch: guidance scale 1"),
        ("--modes hetcache:cache_thresh=nan", "'nan' is not float; give a finite number"),
        ("--modes warp", "unknown mode 'warp'"),
    ],
)
def test_the_benchmark_refuses_its_own_in_one_line(
    flags: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.main(flags.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("benchmark: error: ") and message in line


def test_no_guidance_means_the_same_in_all_three_commands() -> None:
    for asked, scale in (("0", 0.0), ("1", 1.0), (None, MODELS["tiny"].cfg_scale)):
        words = [] if asked is None else ["--cfg-scale", asked]
        edits = (
            cli.parse(words).edit,
            bench_cli.parse(words).settings(),
            calibration.parse(words, "").edit,
        )
        assert [MODELS["tiny"].complete(edit).cfg_scale for edit in edits] == [scale] * 3


def test_the_benchmark_measures_faster_ways_and_knows_their_cells_apart() -> None:
    plain = bench.make_bench(bench_cli.parse(["--quick", "--modes", "hetcache"]))
    for flag in ("--fast-rope", "--cfg-batch"):
        fast = bench.make_bench(bench_cli.parse(["--quick", "--modes", "hetcache", flag]))
        name = flag.strip("-").replace("-", "_")
        assert getattr(fast.settings.edit, name) and not getattr(plain.settings.edit, name)
        assert fast.plan.setup["flags"] == [flag] and plain.plan.setup["flags"] == []
        one, other = (each.plan.cell(each.plan.methods[1], each.plan.cases[0], 0) for each in (plain, fast))
        assert one.folder != other.folder


@pytest.mark.parametrize("name", MODES)
def test_no_mode_takes_a_number_that_is_not_finite(name: str) -> None:
    mode = MODES[name]
    for item in fields(mode.config):
        if isinstance(item.default, float):
            for value in (float("nan"), float("inf")):
                with pytest.raises(ValueError, match="finite"):
                    mode.config(**{item.name: value})
            with pytest.raises(ValueError, match="finite"):
                parse_method(f"{name}:{item.name}=nan")


@pytest.mark.parametrize(
    "config, bad",
    [
        (EditSettings, {"sigma_shift": float("nan")}),
        (EditSettings, {"cfg_scale": float("inf")}),
        (EditSettings, {"vae_tiling": "maybe"}),
        (Memory, {"cache_budget_gib": -1.0}),
        (VramOptions, {"limit_gib": 0.0}),
        (InputOptions, {"mask_threshold": 0}),
        (InputOptions, {"fit": "zoom"}),
        (ModelOptions, {"device": "banana"}),
        (Size, {"height": 17}),
        (Output, {"target_speedup": 0.5}),
    ],
)
def test_the_library_is_guarded_by_the_same_checks(config: type, bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="^--"):
        config(**bad)


def test_a_flag_is_a_field() -> None:
    """One field with its help; the parser, the refusal and the words of the command come from it."""

    @dataclass(frozen=True)
    class Toy:
        sharpness: float = setting(0.5, "how sharp", flag="sharp")
        loud: bool = setting(False, "say more")

    parser = cli.OneLineParser("toy")
    cli.add_settings(parser.add_argument_group("toy"), Toy)
    assert "--sharp FLOAT" in parser.format_help() and "how sharp (default 0.5)" in parser.format_help()
    toy = cli.take(Toy, vars(parser.parse_args(["--sharp", "0.7", "--loud"])))
    assert toy == Toy(0.7, True) and cli.take(Toy, {}) == Toy()
    assert cli.words_of(toy) == ["--sharp", "0.7", "--loud"]
    assert cli.take(Toy, vars(parser.parse_args(["--no-loud"]))) == Toy()


def test_help_loads_no_library_and_is_quick() -> None:
    code = (
        "import sys, inference\n"
        "try:\n    inference.main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'diffsynth', 'cv2', 'scipy', 'PIL'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
        seconds.append(time.perf_counter() - start)
        assert done.returncode == 0, done.stderr
        assert "--sigma-shift" in done.stdout
    assert min(seconds) < 1, seconds
