"""Compare every method: bash scripts/benchmark.sh [--quick]. Writes report.html, table.md and benchmark.json.

Interrupted at any moment and started again with the same flags, it goes on where it was.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
import uuid
from collections.abc import Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from hetcache.benchmark.cases import find_cases, one_case
from hetcache.benchmark.cells import Store
from hetcache.benchmark.cli import parse
from hetcache.benchmark.methods import parse_methods
from hetcache.benchmark.options import BenchRequest, RandomWeights
from hetcache.benchmark.runner import Event, Plan, run_plan
from hetcache.cli import words_of
from hetcache.core.terminal import complain, say, take_any_character
from hetcache.files import DATA, sole_holder
from hetcache.models import ModelInfo, choose_model, model_info


def main(argv: Sequence[str] | None = None) -> int:
    """0 when every cell is finished, 1 when some failed, 2 for what cannot be run, 130 after Ctrl-C."""
    take_any_character()
    debug = False
    try:
        request = parse(sys.argv[1:] if argv is None else argv)
        debug = request.output.debug
        return run(request)
    except KeyboardInterrupt:
        complain("\nbenchmark: interrupted; the same command goes on from here")
        return 130
    except (ValueError, OSError) as error:
        if debug:
            raise
        complain(f"benchmark: error: {error}")
        return 2


def run(request: BenchRequest) -> int:
    """Check everything, then hold the output folder for this process. Returns the exit code."""
    output, command = request.output, shlex.join(["bash", "scripts/benchmark.sh", *request.words])
    bench = make_bench(request)
    output.output.mkdir(parents=True, exist_ok=True)
    taken = f"--output {output.output}: another benchmark is writing it; wait for it, or choose another --output"
    with sole_holder(output.output / ".lock", taken):
        return run_held(request, bench, command)


def run_held(request: BenchRequest, bench: Benchmark, command: str) -> int:
    """Run what is not yet finished and write the results. Returns the exit code."""
    from hetcache.benchmark.document import write_outputs

    output, plan, store = request.output, bench.plan, Store(request.output.output)
    if output.fresh:
        store.clear()
    announce(bench)
    start = time.perf_counter()
    executor = make_executor(request, bench, store)
    run_plan(plan, store, executor, uuid.uuid4().hex[:8], Printer(plan))
    paths, text = write_outputs(output.output, plan, store, bench.info.model_id, command, date.today(), output.publish)
    say(f"\n{text}\n")
    say("\n".join(f"  {path}" for path in paths))
    say(f"  {time.perf_counter() - start:.0f} s in this process")
    failed = any(
        store.failure(plan.settled(method, case, seed, store))
        for method in plan.methods
        for case in plan.cases
        for seed in plan.seeds
    )
    return 1 if failed else 0


@dataclass(frozen=True)
class Benchmark:
    """A checked request: the plan, and what runs it. `settings` are a `BenchSettings`, `dtype` a `torch.dtype`."""

    plan: Plan
    settings: Any
    info: ModelInfo
    model: str
    device: str
    dtype: Any


def make_bench(request: BenchRequest) -> Benchmark:
    """Raises ValueError for what cannot be run, before a model loads."""
    from hetcache.benchmark.document import shown_path
    from hetcache.benchmark.executor import BenchSettings
    from hetcache.core.facts import facts_of_code, facts_of_weights, hardware, package_versions
    from hetcache.models.backend import backend
    from hetcache.run.job import choose_device

    compared, random = request.compared, request.random.random_weights
    device, dtype = choose_device(request.model)
    frames, repeats = compared.length(device.startswith("cuda"))
    model, _ = choose_model(request.model.model, device.startswith("cuda"))
    info = model_info(model)
    edit = info.complete(request.settings())
    if edit.compile:
        backend(info.backend).check_compile(device)
    decisions = replayed_decisions(request.random, model, info, edit.num_steps)
    size = (request.size.height, request.size.width)
    setup = {
        "model": facts_of_weights(model),
        "random": random,
        "decisions": decisions,
        "device": device,
        "dtype": str(dtype),
        "frames": frames,
        "size": list(size),
        "code": facts_of_code(),
        **{key: value for key, value in asdict(edit).items() if key != "seed"},
        "vram": asdict(request.vram),
        "revision": request.model.revision,
        "hardware": hardware(device),
        "versions": package_versions(),
        "model_name": model if info.repository or model == "tiny" else shown_path(Path(model)),
        "flags": passed_on(request),
    }
    modes = compared.modes
    if random and modes == ("default",):
        modes = ("hetcache", "steps:hetcache")
    example = [one_case(DATA / "real.mp4", DATA / "masks.mp4")]
    cases = find_cases(compared.videos, compared.masks) if compared.videos and compared.masks else example
    plan = Plan(parse_methods(list(modes)), cases, list(compared.seeds), repeats, edit.num_steps, setup)
    settings = BenchSettings(edit, frames, size, decisions, None if random else model)
    return Benchmark(plan, settings, info, model, device, dtype)


def passed_on(request: BenchRequest) -> list[str]:
    """The flags of this command that `inference.py` needs for the same edit; steps, frames and size are known apart."""
    return [
        *words_of(request.model, leave_out=("model", "device", "huggingface")),
        *words_of(request.edit, leave_out=("num_steps", "seed")),
        *words_of(request.vram),
    ]


def replayed_decisions(asked: RandomWeights, model: str, info: ModelInfo, num_steps: int) -> str | None:
    """The letters that HetCache replays under random weights. Raises ValueError for letters that do not fit."""
    if not asked.random_weights:
        return None
    from hetcache.method.config import HetCacheConfig
    from hetcache.method.replay import parse_letters, steady_decisions
    from hetcache.models.backend import backend

    known = backend(info.backend).random_models
    if model not in known:
        raise ValueError(f"--random-weights: give --model {' or '.join(known)}")
    letters = asked.decisions or steady_decisions(HetCacheConfig().rule(), num_steps)
    if letters.endswith(".json"):
        letters = json.loads(Path(letters).read_text())["decisions"]["cond"]
    if len(parse_letters(letters)) != num_steps:
        raise ValueError(f"--decisions has {len(letters)} letters for {num_steps} steps")
    return letters


def make_executor(request: BenchRequest, bench: Benchmark, store: Store) -> Any:
    from hetcache.benchmark.executor import Bench, LazyPipeline
    from hetcache.benchmark.quality import load_metrics
    from hetcache.models.backend import LoadOptions, backend

    random, asked = request.random.random_weights, request.model
    ready, missing = ({}, {}) if random else load_metrics(bench.device)
    for family, reason in missing.items():
        say(f"{family.upper()} is not measured: {reason}")

    def load() -> Any:
        prompts, vram = bench.settings.edit.prompts, request.vram
        options = LoadOptions(
            bench.device, bench.dtype, prompts, vram, asked.revision, asked.huggingface, random_weights=random
        )
        return backend(bench.info.backend).load(bench.model, options)

    return Bench(LazyPipeline(load), bench.info, bench.settings, store, step_bar, ready)


@contextmanager
def _bar(num_steps: int, label: str) -> Any:
    from hetcache.run.progress import StepBar

    with StepBar(num_steps, label) as bar:
        yield bar.observe


def step_bar(num_steps: int, label: str) -> AbstractContextManager[Any]:
    """A progress bar where somebody watches, nothing in a log file."""
    return _bar(num_steps, label) if sys.stderr.isatty() else nullcontext()


def announce(bench: Benchmark) -> None:
    plan = bench.plan
    runs = len(plan.methods) * len(plan.cases) * len(plan.seeds) * plan.num_repeats
    say(
        f"{bench.info.model_id} on {bench.device}: {len(plan.methods)} methods, {len(plan.cases)} videos, seeds "
        f"{' '.join(map(str, plan.seeds))}, {plan.num_repeats} repeats = {runs} runs of {plan.setup['frames']} frames, "
        f"{plan.num_steps} steps"
    )
    if plan.setup["random"]:
        say(
            "RANDOM WEIGHTS: time and memory at the true dimensions with replayed decisions; no quality can be "
            "read from this, and the text encoder is left out"
        )


class Printer:
    """One line per run, as it ends."""

    def __init__(self, plan: Plan) -> None:
        self._total = len(plan.methods) * len(plan.cases) * len(plan.seeds) * plan.num_repeats
        self._done = 0

    def __call__(self, event: Event) -> None:
        if event.kind in ("warm-up", "reference"):
            what = "warm-up" if event.kind == "warm-up" else "timing the baseline in this process"
            say(f"{'':9}{what}")
        if event.cell is None or event.kind not in ("done", "skip", "fail"):
            return
        self._done += 1
        cell, record = event.cell, event.record or {}
        text = {"skip": "finished before", "fail": f"FAILED: {record.get('failed')}"}.get(event.kind)
        if text is None:
            times = record["timing_s"]
            text = f"denoise {times['denoise']:.2f} s of {times['total']:.2f} s  {record['decisions']['cond']}"
        where = f"{cell.case.name} seed {cell.seed} round {event.repeat + 1}"
        say(f"[{self._done:>3}/{self._total}] {cell.method.name:<22} {where}: {text}")
