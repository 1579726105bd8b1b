"""Compare every method: bash scripts/benchmark.sh [--quick]. Writes report.html, table.md and benchmark.json.

Interrupted at any moment and started again with the same flags, it goes on where it was.
"""

from __future__ import annotations

import shlex
import sys
import time
import uuid
from argparse import Namespace
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from hetcache.benchmark.cases import find_cases, one_case
from hetcache.benchmark.cells import Store
from hetcache.benchmark.cli import build_parser, fill_defaults
from hetcache.benchmark.methods import parse_methods
from hetcache.benchmark.runner import Event, Plan, run_plan
from hetcache.files import DATA

PASSED_ON = ("cfg_scale", "sigma_shift", "prompt", "negative_prompt", "dtype")


def main(argv: list[str] | None = None) -> int:
    """0 when every cell is finished, 1 when some failed, 2 for what cannot be run, 130 after Ctrl-C."""
    words = sys.argv[1:] if argv is None else argv
    args = build_parser().parse_args(words)
    command = shlex.join(["bash", "scripts/benchmark.sh", *words])
    try:
        return run(args, command)
    except KeyboardInterrupt:
        print("\nbenchmark: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        if args.debug:
            raise
        print(f"benchmark: error: {error}", file=sys.stderr)
        return 2


def run(args: Namespace, command: str) -> int:
    from hetcache.benchmark.document import write_outputs
    from hetcache.run.job import choose_device

    device, dtype = choose_device(args)
    fill_defaults(args, device.startswith("cuda"))
    plan, bench_settings, info, model = make_plan(args, device, dtype)
    store = Store(args.output)
    if args.fresh:
        store.clear()
    announce(plan, info, device, args)
    start = time.perf_counter()
    executor = make_executor(args, plan, bench_settings, info, model, device, dtype, store)
    run_plan(plan, store, executor, uuid.uuid4().hex[:8], Printer(plan))
    paths, text = write_outputs(args.output, plan, store, info.model_id, command, date.today(), args.publish)
    print(f"\n{text}\n")
    print("\n".join(f"  {path}" for path in paths))
    print(f"  {time.perf_counter() - start:.0f} s in this process")
    failed = any(
        store.failure(plan.settled(method, case, seed, store))
        for method in plan.methods
        for case in plan.cases
        for seed in plan.seeds
    )
    return 1 if failed else 0


def make_plan(args: Namespace, device: str, dtype: Any) -> tuple[Plan, Any, Any, str]:
    """(plan, bench settings, model info, model). Raises ValueError for what cannot be run, before a model loads."""
    from hetcache.benchmark.document import shown_path
    from hetcache.benchmark.executor import BenchSettings
    from hetcache.core.facts import facts_of_code, facts_of_weights, hardware, package_versions
    from hetcache.models import choose_model, model_info
    from hetcache.run.job import EditSettings, check_sizes

    check_sizes(args)
    if min(args.steps, args.repeats) < 1:
        raise ValueError("--steps and --repeats: at least 1")
    if (args.videos is None) != (args.masks is None):
        raise ValueError("--videos and --masks go together")
    model, _ = choose_model(args.model, device.startswith("cuda"))
    info = model_info(model)
    edit = EditSettings(
        prompt=info.prompt if args.prompt is None else args.prompt,
        negative_prompt=info.negative_prompt if args.negative_prompt is None else args.negative_prompt,
        num_steps=args.steps,
        cfg_scale=info.cfg_scale if args.cfg_scale is None else args.cfg_scale,
        sigma_shift=args.sigma_shift,
        seed=args.seeds[0],
    )
    decisions = replayed_decisions(args, model)
    if args.random_weights and args.modes == ["default"]:
        args.modes = ["hetcache", "steps:hetcache"]
    settings = BenchSettings(edit, args.frames, (args.height, args.width), decisions)
    setup = {
        "model": facts_of_weights(model),
        "random": args.random_weights,
        "decisions": decisions,
        "device": device,
        "dtype": str(dtype),
        "frames": args.frames,
        "size": [args.height, args.width],
        "code": facts_of_code(),
        **{key: value for key, value in asdict(edit).items() if key != "seed"},
        "hardware": hardware(device),
        "versions": package_versions(),
        "model_name": model if info.repository or model == "tiny" else shown_path(Path(model)),
        "flags": passed_on(args),
    }
    cases = find_cases(args.videos, args.masks) if args.videos else [one_case(DATA / "real.mp4", DATA / "masks.mp4")]
    plan = Plan(parse_methods(args.modes), cases, args.seeds, args.repeats, args.steps, setup)
    return plan, settings, info, model


def passed_on(args: Namespace) -> list[str]:
    """The flags of this command that `inference.py` needs for the same edit."""
    parser = build_parser()
    words: list[str] = []
    for name in PASSED_ON:
        value = getattr(args, name)
        if value != parser.get_default(name):
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words


def replayed_decisions(args: Namespace, model: str) -> str | None:
    """The letters that HetCache replays under random weights. Raises ValueError for letters that do not fit."""
    import json

    if not args.random_weights:
        if args.decisions:
            raise ValueError("--decisions is for --random-weights: with weights, HetCache decides by itself")
        return None
    from diffsynth_patches.random_weights import SHAPES, steady_decisions
    from hetcache.method.hetcache import HetCacheConfig
    from hetcache.method.replay import parse_decisions

    if model not in SHAPES:
        raise ValueError(f"--random-weights: give --model {' or '.join(SHAPES)}")
    letters = args.decisions or steady_decisions(HetCacheConfig().rule(), args.steps)
    if letters.endswith(".json"):
        letters = json.loads(Path(letters).read_text())["decisions"]["cond"]
    if len(parse_decisions(letters)) != args.steps:
        raise ValueError(f"--decisions has {len(letters)} letters for {args.steps} steps")
    return letters


def make_executor(
    args: Namespace, plan: Plan, settings: Any, info: Any, model: str, device: str, dtype: Any, store: Store
) -> Any:
    from hetcache.benchmark.executor import Bench, LazyPipeline
    from hetcache.benchmark.quality import load_metrics

    ready, missing = ({}, {}) if args.random_weights else load_metrics(device)
    for family, reason in missing.items():
        print(f"{family.upper()} is not measured: {reason}")

    def load() -> Any:
        if args.random_weights:
            from diffsynth_patches.random_weights import SHAPES, random_pipeline

            return random_pipeline(SHAPES[model], device, dtype, settings.edit.prompts)
        from diffsynth_patches.loader import load_pipeline, use_hugging_face

        if args.huggingface:
            use_hugging_face()
        return load_pipeline(model, device, dtype, settings.edit.prompts)[0]

    return Bench(LazyPipeline(load), info, settings, store, step_bar, ready)


@contextmanager
def _bar(num_steps: int, label: str) -> Any:
    from hetcache.run.progress import StepBar

    with StepBar(num_steps, label) as bar:
        yield bar.observe


def step_bar(num_steps: int, label: str) -> AbstractContextManager[Any]:
    """A progress bar where somebody watches, nothing in a log file."""
    return _bar(num_steps, label) if sys.stderr.isatty() else nullcontext()


def announce(plan: Plan, info: Any, device: str, args: Namespace) -> None:
    runs = len(plan.methods) * len(plan.cases) * len(plan.seeds) * plan.num_repeats
    print(
        f"{info.model_id} on {device}: {len(plan.methods)} methods, {len(plan.cases)} videos, seeds "
        f"{' '.join(map(str, plan.seeds))}, {plan.num_repeats} repeats = {runs} runs of {args.frames} frames, "
        f"{plan.num_steps} steps"
    )
    if args.random_weights:
        print(
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
            print(f"{'':9}{what}", flush=True)
        if event.cell is None or event.kind not in ("done", "skip", "fail"):
            return
        self._done += 1
        cell, record = event.cell, event.record or {}
        text = {"skip": "finished before", "fail": f"FAILED: {record.get('failed')}"}.get(event.kind)
        if text is None:
            times = record["timing_s"]
            text = f"denoise {times['denoise']:.2f} s of {times['total']:.2f} s  {record['decisions']['cond']}"
        where = f"{cell.case.name} seed {cell.seed} round {event.repeat + 1}"
        print(f"[{self._done:>3}/{self._total}] {cell.method.name:<22} {where}: {text}", flush=True)
