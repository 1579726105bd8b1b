"""What caches do with VACE's hints, and what a cached step costs: ours beside those of diffusers and cache-dit.

    python -m scripts.measure.other_caches --output outputs/other_caches.json --page outputs/other_caches.md

One small `WanVACEPipeline` with random weights, one process. The same step comes again and again: the scheduler stands
still, so that latents and timestep never change and a cached step that is right gives the computed step's output, bit
for bit. Per method: how far it is from that, in units of the hints that VACE adds; the work and time of a cached step
over those of a computed one; the VACE blocks that it runs; the bytes kept from step to step. Every method's threshold
is set so that it caches what it can. Random weights: nothing about quality is said, or can be.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.util
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanVACEPipeline, WanVACETransformer3DModel
from diffusers import hooks as diffusers_hooks
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from diffusers_patches.apply import patched
from hetcache import enable_cache
from hetcache.core.facts import hardware
from hetcache.core.session import CacheSession
from hetcache.core.tokens import classify
from hetcache.files import write_text
from hetcache.method.config import HetCacheConfig
from hetcache.method.replay import replayed
from hetcache.method.selector import TokenSelector
from scripts.measure.shared import cpu_ms, write_results

NUM_STEPS = 8
FRAMES, HEIGHT, WIDTH = 9, 160, 256
REPEATS = 3


class Standstill(FlowMatchEulerDiscreteScheduler):
    """Its timestep stays the same and a step changes nothing."""

    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        super().set_timesteps(*args, **kwargs)
        self.timesteps = torch.full_like(self.timesteps, 500.0)
        self.velocities: list[torch.Tensor] = []

    def step(self, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, **kwargs: Any) -> Any:
        self.velocities.append(model_output)
        return (sample,)


@dataclass
class Seen:
    """One run: per step the velocity, what enters the head, milliseconds, FLOPs, VACE and DiT blocks, bytes held."""

    velocities: list[torch.Tensor] = field(default_factory=list)
    tokens: dict[int, torch.Tensor] = field(default_factory=dict)
    ms: list[float] = field(default_factory=list)
    flops: list[int] = field(default_factory=list)
    vace_blocks: list[int] = field(default_factory=list)
    nbytes: list[int] = field(default_factory=list)
    hints: list[torch.Tensor] = field(default_factory=list)


def build(args: argparse.Namespace) -> Any:
    torch.manual_seed(0)
    transformer = WanVACETransformer3DModel(
        num_attention_heads=args.heads,
        attention_head_dim=24,
        ffn_dim=args.heads * 24 * 4,
        text_dim=64,
        freq_dim=64,
        num_layers=args.layers,
        vace_layers=list(range(0, args.layers, 2)),
    ).eval()
    vae = AutoencoderKLWan(base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    pipe = WanVACEPipeline(None, None, vae, Standstill(), transformer, None)
    pipe.set_progress_bar_config(disable=True)
    encode, known = pipe.prepare_video_latents, []

    def encode_once(*args: Any, **kwargs: Any) -> torch.Tensor:
        """The autoencoder is not what is measured."""
        if not known:
            known.append(encode(*args, **kwargs))
        latents: torch.Tensor = known[0]
        return latents

    pipe.prepare_video_latents = encode_once
    return pipe


def mask_THW() -> torch.Tensor:
    mask = torch.zeros(FRAMES, HEIGHT, WIDTH, dtype=torch.bool)
    mask[:, 48:112, 80:176] = True
    return mask


def call(pipe: Any, **kwargs: Any) -> Any:
    frames = np.random.default_rng(0).integers(0, 255, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    return pipe(
        prompt_embeds=torch.randn(1, 32, 64, generator=torch.Generator().manual_seed(1)),
        video=[Image.fromarray(frame) for frame in frames],
        mask=[Image.fromarray(mask.numpy().astype(np.uint8) * 255).convert("RGB") for mask in mask_THW()],
        height=HEIGHT,
        width=WIDTH,
        num_frames=FRAMES,
        num_inference_steps=NUM_STEPS,
        guidance_scale=1.0,
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
        **kwargs,
    )


@contextmanager
def ours(pipe: Any, mode: str, **settings: Any) -> Iterator[None]:
    with enable_cache(pipe, mode, mask_THW(), **settings):
        yield


@contextmanager
def our_partial_steps(pipe: Any) -> Iterator[None]:
    """By script: of a step that stands still, HetCache's rule would compute nothing."""
    config = HetCacheConfig()
    selector = TokenSelector(classify(mask_THW(), config.margin_width), config.selection())
    with patched(pipe, CacheSession(replayed(config, selector, "F" + "P" * (NUM_STEPS - 1)))):
        yield


@contextmanager
def of_diffusers(pipe: Any, config: str, **settings: Any) -> Iterator[None]:
    pipe.transformer.enable_cache(getattr(diffusers_hooks, config)(**settings))
    try:
        yield
    finally:
        pipe.transformer.disable_cache()


@contextmanager
def of_cache_dit(pipe: Any) -> Iterator[None]:
    cache_dit = importlib.import_module("cache_dit")
    config = cache_dit.DBCacheConfig(
        Fn_compute_blocks=1, Bn_compute_blocks=0, max_warmup_steps=1, residual_diff_threshold=10.0
    )
    cache_dit.enable_cache(pipe, cache_config=config)
    try:
        yield
    finally:
        cache_dit.disable_cache(pipe)


def methods() -> dict[str, Callable[[Any], Any]]:
    """Each as its users switch it on. `hetcache` without a calibration, as there is none for random weights."""
    modules = [r"(vace_)?blocks\.\d+\.(attn1|attn2|ffn)"]
    taylor = {"cache_interval": NUM_STEPS, "disable_cache_before_step": 2, "taylor_factors_dtype": torch.float32}
    found: dict[str, Callable[[Any], Any]] = {
        "hetcache, reused": lambda pipe: ours(pipe, "hetcache", signal="output", cache_thresh=1e9),
        "hetcache, partial": our_partial_steps,
        "easycache (here)": lambda pipe: ours(pipe, "easycache", easycache_thresh=1e9, easycache_first=2),
        "pab (here)": lambda pipe: ours(pipe, "pab"),
        "FirstBlockCache": lambda pipe: of_diffusers(pipe, "FirstBlockCacheConfig", threshold=1e9),
        "MagCache": lambda pipe: of_diffusers(
            pipe, "MagCacheConfig", num_inference_steps=NUM_STEPS, mag_ratios=[1.0] * NUM_STEPS, max_skip_steps=99
        ),
        "TaylorSeer, its own modules": lambda pipe: of_diffusers(pipe, "TaylorSeerCacheConfig", **taylor),
        "TaylorSeer, attention and FFN named": lambda pipe: of_diffusers(
            pipe, "TaylorSeerCacheConfig", cache_identifiers=modules, **taylor
        ),
    }
    if importlib.util.find_spec("cache_dit") is not None:
        found["cache-dit DBCache F1B0"] = of_cache_dit
    return found


def held() -> int:
    """Bytes of all tensors that Python knows, each storage once."""
    storages = {}
    for thing in gc.get_objects():
        if type(thing) is torch.Tensor:
            storages[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
    return sum(storages.values())


def observe(pipe: Any, mode: str) -> Seen:
    """Run the pipeline and look at every step. `mode`: `values`, `time`, `flops` or `bytes`, one at a time, because
    looking costs."""
    seen, model, start = Seen(), pipe.transformer, 0.0
    counter: Any = None
    ran: list[int] = []

    def begin() -> None:
        nonlocal start, counter
        ran.clear()
        if mode == "flops":
            counter = FlopCounterMode(display=False)
            counter.__enter__()
        start = cpu_ms()

    def end(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.ms.append(cpu_ms() - start)
        seen.vace_blocks.append(len(ran))
        if mode == "flops":
            counter.__exit__(None, None, None)
            seen.flops.append(counter.get_total_flops())
        if mode == "bytes":
            seen.nbytes.append(held())
        begin()
        return tensors

    handles = []
    if mode == "values":
        handles.append(
            model.norm_out.register_forward_hook(
                lambda _, args, out: seen.tokens.update({len(seen.ms): args[0].clone()})
            )
        )
        for block in model.vace_blocks:
            handles.append(block.proj_out.register_forward_hook(lambda _, args, out: seen.hints.append(out.clone())))
    for block in model.vace_blocks:
        handles.append(block.proj_out.register_forward_hook(lambda *_: ran.append(1)))
    begin()
    try:
        call(pipe, callback_on_step_end=end)
    finally:
        if mode == "flops":
            counter.__exit__(None, None, None)
        for handle in handles:
            handle.remove()
    seen.velocities = pipe.scheduler.velocities
    return seen


def measure(pipe: Any, method: Callable[[Any], Any], uncached: dict[str, Any]) -> dict[str, Any]:
    """The row of one method; `uncached` are the figures of a computed step. Step 0 and the steps after it that a method
    computes to warm up are left out: the fourth on is looked at, but the last, which some force to be computed."""

    def run(what: str) -> Seen:
        pipe.scheduler = Standstill()
        gc.collect()
        with method(pipe):
            return observe(pipe, what)

    kept = max(run("bytes").nbytes[1:-1]) - uncached["nbytes"]
    flops = statistics.median(run("flops").flops[3:-1])
    times = [statistics.median(run("time").ms[3:-1]) for _ in range(REPEATS)]
    values = run("values")
    vace = values.vace_blocks[4]
    hints = torch.stack(values.hints[: len(pipe.transformer.vace_blocks)]).sum(0)
    change = relative(values.velocities[4] - values.velocities[0], values.velocities[0])
    # A method that keeps the velocity runs no head.
    extra = values.tokens.get(4, values.tokens[0]) - values.tokens[0]
    return {
        "relative_change_of_velocity": change,
        "change_in_hints": relative(extra, hints),
        "differs_from_one_more_hint_by": relative(extra - hints, hints),
        "flops": flops / uncached["flops"],
        "time": min(times) / uncached["ms"],
        "ms": min(times),
        "vace_blocks": vace,
        "kept_mib": kept / 2**20,
    }


def relative(change: torch.Tensor, of: torch.Tensor) -> float:
    return float(change.norm() / of.norm())


def page(rows: dict[str, dict[str, Any]], facts: dict[str, Any], command: str) -> str:
    lines = [
        "# A cached step of VACE: ours beside diffusers' and cache-dit's",
        "",
        f"Made by `{command}`. {facts['what']} {facts['where']}",
        "",
        "The same step again and again, so that a cached step ought to give the computed step's output. *Hints added "
        "again*: how much the tokens before the head differ from the computed step's, in units of the sum of VACE's "
        "hints; 1.00 with *rest* 0.00 says that every hint was added once more. *Rest*: what differs from exactly "
        "that. Work, time and VACE blocks are of a cached step, over those of a computed one. *Kept*: tensors that "
        "stay from step to step, one branch. A partial step attends among the tokens that it computes alone, so it is "
        "an approximation even of a step that stands still. Random weights: nothing here speaks of quality.",
        "",
        "| method | velocity differs by | hints added again | rest | FLOPs | time | VACE blocks run | kept, MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        again = row["change_in_hints"] > 0.5 and row["differs_from_one_more_hint_by"] < 0.5
        rest = row["differs_from_one_more_hint_by"] if again else row["change_in_hints"]
        lines.append(
            f"| {name} | {row['relative_change_of_velocity']:.2g} | {'1.00' if again else 'no'} | {rest:.2g} | "
            f"{row['flops']:.1%} | {row['time']:.1%} | {row['vace_blocks']} of {facts['vace_blocks']} | "
            f"{row['kept_mib']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--page", type=Path)
    parser.set_defaults(device="cpu")
    args = parser.parse_args()
    pipe = build(args)
    with torch.no_grad():
        flops = statistics.median(observe(pipe, "flops").flops[1:])
        gc.collect()
        nbytes = max(observe(pipe, "bytes").nbytes[1:-1])
        ms = min(statistics.median(observe(pipe, "time").ms[3:-1]) for _ in range(REPEATS))
        uncached = {"flops": flops, "ms": ms, "nbytes": nbytes}
        rows = {name: measure(pipe, method, uncached) for name, method in methods().items()}
    libraries = ["torch", "diffusers", *(["cache-dit"] if importlib.util.find_spec("cache_dit") else [])]
    facts = {
        "what": f"{args.layers} DiT and {len(pipe.transformer.vace_blocks)} VACE blocks of width {args.heads * 24}, "
        f"{3 * HEIGHT * WIDTH // 256} tokens, float32, {ms:.0f} ms and {uncached['flops'] / 1e9:.1f} GFLOPs a computed "
        "step; times are CPU times, medians of 4 steps, the best of 3 runs.",
        "where": f"{hardware('cpu')['cpu']}, {torch.get_num_threads()} thread; "
        + ", ".join(f"{name} {version(name)}" for name in libraries)
        + ".",
        "vace_blocks": len(pipe.transformer.vace_blocks),
    }
    text = page(rows, facts, "python -m scripts.measure.other_caches")
    if args.page:
        write_text(args.page, text)
    write_results(args, rows, uncached=uncached, **facts)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
