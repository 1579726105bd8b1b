"""Where the denoising loop spends its time: blocks, embeddings and head, planning, moving rows, the rest.

    python scripts/profile_run.py --output outputs/profile
    OMP_NUM_THREADS=1 python scripts/profile_run.py --cpu-time --output outputs/profile
    python scripts/profile_run.py --random-weights --layers 2 1 --frames 17 --height 240 --width 416 --output wide

Wraps the functions of each part for the time of the run; what a part calls that belongs to another part counts there
alone, so the parts add up to the loop. Writes PREFIX.json and PREFIX.md. `--random-weights` profiles Wan2.1-VACE-1.3B
at its true width with some of its layers, random weights and the decisions of a steady change, and adds the shares
that its true depth would have: the time of each stack scaled by its number of layers, all else as measured.
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

import hetcache.core.session as session_module
from diffsynth_patches.backend import BACKEND, WanPipeline
from diffsynth_patches.denoiser import WanDenoiser
from diffsynth_patches.random_weights import SHAPES, WanShape, random_pipeline
from diffsynth_patches.tiny import TinyConfig, build_tiny_pipeline
from hetcache.core.facts import hardware, package_versions
from hetcache.core.mode import ManagerFactory, RunContext
from hetcache.core.options import EditSettings
from hetcache.core.session import now_ms
from hetcache.core.step import CachedForward
from hetcache.core.vocabulary import Branch, Compute
from hetcache.core.walk import StackWalk
from hetcache.files import DATA, write_json
from hetcache.media.clip import read_clip
from hetcache.media.read import probe
from hetcache.method.replay import replayed, steady_decisions
from hetcache.method.selector import TokenSelector
from hetcache.models import MODELS
from hetcache.models.backend import LoadOptions
from hetcache.modes import MODES
from scripts.measure.shared import add_cpu_time_flag, add_device_flags, command_line, cpu_ms

TRUE = "wan2.1-vace-1.3b"
DIT, VACE, OUTSIDE, PLAN, ROWS, REST = (
    "DiT blocks",
    "VACE blocks and their projections",
    "embeddings and head",
    "decision, planning, k-means, attention mass, classification",
    "gather, hints, residual, scatter",
    "guidance, scheduler, bookkeeping",
)


class Clock:
    """Exclusive milliseconds by part: time goes to the innermost part that is running."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.ms = dict.fromkeys((DIT, VACE, OUTSIDE, PLAN, ROWS, REST), 0.0)
        self._now = now
        self._running: list[str] = []
        self._since = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self._switch()
        self._running.append(name)
        try:
            yield
        finally:
            self._switch()
            self._running.pop()

    def _switch(self) -> None:
        now = self._now()
        if self._running:
            self.ms[self._running[-1]] += now - self._since
        self._since = now

    def wrap(self, function: Callable[..., Any], name: str | Callable[..., str]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(name if isinstance(name, str) else name(*args)):
                return function(*args, **kwargs)

        return timed


@contextmanager
def timed_parts(clock: Clock) -> Iterator[None]:
    """The functions of each part wrapped, put back on exit. A function of another part that is called inside one
    counts for its own."""
    parts: list[tuple[Any, str, str]] = [
        *((WanDenoiser, name, OUTSIDE) for name in ("embed_text", "embed", "embed_condition", "rope", "head")),
        (CachedForward, "_run_stack", ROWS),
        (StackWalk, "vace_to", VACE),
        (TokenSelector, "plan", PLAN),
        (TokenSelector, "observe", PLAN),
        (sys.modules["diffsynth_patches.apply"], "static_schedule", PLAN),
    ]
    with ExitStack() as stack:
        for owner, name, part in parts:
            stack.enter_context(patch.object(owner, name, clock.wrap(getattr(owner, name), part)))
        yield


def time_manager(manager: Any, clock: Clock) -> Any:
    """The same manager with its methods timed."""
    parts = {
        "decide": PLAN,
        "hints": ROWS,
        "keep_hints": ROWS,
        "merge": ROWS,
        "reuse": ROWS,
        "commit": ROWS,
    }
    for name, part in parts.items():
        setattr(manager, name, clock.wrap(getattr(manager, name), part))
    manager.run_block = clock.wrap(manager.run_block, lambda ops, *_: DIT if ops.stack == "dit" else VACE)
    return manager


def profile(args: argparse.Namespace) -> dict[str, Any]:
    """The shares of one run, after a warm-up of one step."""
    info = MODELS[TRUE if args.random_weights else "tiny"]
    source = probe(args.video)
    height, width = info.default_size(source.height, source.width)
    clip = read_clip(args.video, args.mask, args.frames, (args.height or height, args.width or width))
    settings = EditSettings(
        info.prompt, info.negative_prompt, args.steps, info.cfg_scale, 5.0, 0, cfg_batch=args.cfg_batch
    )
    mode = MODES[args.mode]
    config = mode.config(**mode.defaults)
    pipeline = build_pipeline(args, settings.prompts)
    now = cpu_ms if args.cpu_time else now_ms
    clock = Clock(now)
    start = now()
    mask_THW = torch.from_numpy(clip.mask_THW).to(args.device)
    context = RunContext.of(mask_THW, info.model_id, mode.margin_width(config))
    classify_ms, classes = now() - start, context.classes
    make = clock.wrap(replay(config, classes, args.steps) if args.random_weights else mode.build(config, context), PLAN)
    warm_up = EditSettings(info.prompt, info.negative_prompt, 1, info.cfg_scale, 5.0, 0)
    pipeline.edit(clip, MODES["baseline"].build(MODES["baseline"].config(), context), warm_up)
    with timed_parts(clock), patch.object(session_module, "now_ms", now):
        result = pipeline.edit(clip, lambda *run: time_manager(make(*run), clock), settings)
    loop_ms = result.session.stage_ms["denoise"]
    clock.ms[REST] = loop_ms - sum(clock.ms.values())
    trace = result.session.trace
    return {
        "parts_ms": clock.ms,
        "loop_ms": loop_ms,
        "classify_ms": classify_ms,
        "calls": {compute.name.lower(): sum(r.compute is compute for r in trace.records) for compute in Compute},
        "decisions": trace.decisions(Branch.COND),
        "tokens": classes.num_tokens,
        "active": max([r.num_active for r in trace.records if r.compute is Compute.PARTIAL], default=0),
        "size": list(clip.size),
        "frames": clip.num_frames,
    }


def build_pipeline(args: argparse.Namespace, prompts: tuple[str, ...]) -> WanPipeline:
    dtype = getattr(torch, args.dtype)
    if not args.random_weights:
        return BACKEND.load("tiny", LoadOptions(args.device, dtype, prompts))
    true, (num_layers, num_vace) = SHAPES[TRUE], args.layers
    shape = WanShape(true.dim, true.ffn_dim, true.num_heads, num_layers, tuple(range(num_vace)))
    vae = build_tiny_pipeline(TinyConfig()).vae
    pipe = random_pipeline(shape, args.device, dtype, prompts, vae)
    return WanPipeline(pipe, MODELS[TRUE], args.device)


def replay(config: Any, classes: Any, num_steps: int) -> ManagerFactory:
    selector = TokenSelector(classes, config.selection())
    letters = steady_decisions(config.rule(), num_steps)
    return replayed(config, selector, letters)


def shares(profiled: dict[str, Any], args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """By column: each part's share of the loop as measured and, at random weights, at the true depth."""
    columns = {"measured": profiled["parts_ms"]}
    if args.random_weights:
        true, (num_layers, num_vace) = SHAPES[TRUE], args.layers
        scale = {DIT: true.num_layers / num_layers, VACE: len(true.vace_layers) / num_vace}
        columns["at true depth"] = {part: ms * scale.get(part, 1.0) for part, ms in profiled["parts_ms"].items()}
    return {name: {part: ms / sum(parts.values()) for part, ms in parts.items()} for name, parts in columns.items()}


def markdown(report: dict[str, Any]) -> str:
    facts, run, columns = report["hardware"], report["profile"], report["shares"]
    calls = ", ".join(f"{count} {name}" for name, count in run["calls"].items())
    unit = "CPU ms" if report["settings"]["cpu_time"] == "True" else "ms"
    lines = [
        f"# Profile of the denoising loop, {report['date']}",
        "",
        f"{report['model']}, mode {report['settings']['mode']}, {run['frames']} frames of "
        f"{run['size'][0]}x{run['size'][1]}, {run['tokens']} tokens, {run['active']} of them in a partial step, calls: "
        f"{calls} (`{run['decisions']}` in both branches). {facts.get('gpu', facts['cpu'])}, {facts['cores']} cores, "
        f"{facts['threads']} threads, torch {report['versions']['torch']}.",
        "",
        f"| part | {unit} | " + " | ".join(f"share {name}" for name in columns) + " |",
        "|---|---|" + "---|" * len(columns),
    ]
    for part, ms in run["parts_ms"].items():
        lines.append(f"| {part} | {ms:.1f} | " + " | ".join(f"{c[part]:.2%}" for c in columns.values()) + " |")
    inside = " | ".join(f"**{c[DIT] + c[VACE]:.2%}**" for c in columns.values())
    lines += [
        f"| **inside blocks** | {run['parts_ms'][DIT] + run['parts_ms'][VACE]:.1f} | {inside} |",
        "",
        f"Classification of the tokens before the loop: {run['classify_ms']:.1f} ms, "
        f"{run['classify_ms'] / run['loop_ms']:.2%} of the loop.",
        "",
        f"Command: `{report['command']}`",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", default="hetcache", choices=list(MODES))
    parser.add_argument("--video", type=Path, default=DATA / "real.mp4")
    parser.add_argument("--mask", type=Path, default=DATA / "masks.mp4")
    parser.add_argument("--frames", type=int, default=33)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--height", type=int)
    parser.add_argument("--width", type=int)
    parser.add_argument("--random-weights", action="store_true")
    parser.add_argument("--layers", type=int, nargs=2, default=[2, 1], metavar=("DIT", "VACE"))
    add_device_flags(parser)
    parser.add_argument("--cfg-batch", action="store_true")
    add_cpu_time_flag(parser)
    parser.add_argument("--output", type=Path, required=True, help="prefix of the .json and the .md to write")
    args = parser.parse_args()
    if args.random_weights and not args.mode.startswith("hetcache"):
        parser.error("--random-weights replays HetCache's decisions: choose --mode hetcache")
    started = time.perf_counter()
    profiled = profile(args)
    threads = f"OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']} " if "OMP_NUM_THREADS" in os.environ else ""
    true = f"{TRUE} with {args.layers[0]} of its layers and {args.layers[1]} of VACE's, random weights"
    report = {
        "schema": 1,
        "date": datetime.date.today().isoformat(),
        "command": threads + command_line("profile_run"),
        "model": true if args.random_weights else "embedded model",
        "hardware": hardware(args.device),
        "versions": package_versions(),
        "settings": {key: value.name if isinstance(value, Path) else str(value) for key, value in vars(args).items()},
        "profile": profiled,
        "shares": shares(profiled, args),
        "wall_s": round(time.perf_counter() - started, 1),
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.output.with_suffix(".json"), report)
    args.output.with_suffix(".md").write_text(markdown(report))
    print(markdown(report))


if __name__ == "__main__":
    main()
