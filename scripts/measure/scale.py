"""What 1 to 64 GPUs would make of one video, and 1,000 of a batch: computed, not measured.

    python -m scripts.measure.scale
    python -m scripts.measure.scale --steps docs/benchmarks/gpu.json --link-gb-s 450

The cost of a step on one device is its FLOPs at `--tflops`, or what scripts/gpu_check.py measured on yours (`--steps`,
whose model, clip and active fraction must be those asked for here). Exchange is bytes over `--link-gb-s` plus
`--latency-us` a collective, nothing overlapped. docs/scale.md gives the formula.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hetcache.core.flops import ModelShape, cross_attention_flops, full_step_flops, outside_flops, partial_step_flops
from hetcache.files import write_json

MODELS = {
    "1.3b": (ModelShape(1536, 8960, 30, 15, 512), 12),
    "14b": (ModelShape(5120, 13824, 40, 8, 512), 40),
}
"""Dimensions of the published Wan2.1-VACE models, and their heads."""
BYTES = 2  # of a bfloat16
BRANCHES = 2
NUMBERS = (1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 40, 64)
COLLECTIVES = 4  # a self-attention: queries, keys, values, output


@dataclass(frozen=True)
class Machine:
    """`tflops` that a device sustains, `link_gb_s` that it sends, `latency_us` of a collective, `word_us` of one small
    exchange between the hosts."""

    tflops: float
    link_gb_s: float
    latency_us: float
    word_us: float


@dataclass(frozen=True)
class Workload:
    """One denoising loop: `kinds` are its decisions, a letter a step; a partial step computes `active` of the tokens.
    `measured_ms` are one device's full, partial and reused call, None for FLOPs over `Machine.tflops`."""

    shape: ModelShape
    num_heads: int
    num_tokens: int
    kinds: str
    active: float
    measured_ms: tuple[float, float, float] | None = None

    def rows(self, kind: str) -> int:
        return {"F": self.num_tokens, "P": round(self.active * self.num_tokens), "R": 0}[kind]

    def alone_ms(self, kind: str, machine: Machine) -> tuple[float, float]:
        """(what ranks share, what each repeats) of one denoiser call of one branch."""
        outside = outside_flops(self.shape, self.num_tokens)
        if kind != "R":
            # Keys and values of the prompt, in every block.
            blocks = self.shape.num_layers + self.shape.num_vace_layers
            outside += blocks * cross_attention_flops(0, self.shape.text_len, self.shape.dim)
        outside_ms = outside / machine.tflops / 1e9
        if self.measured_ms is not None:
            total = self.measured_ms["FPR".index(kind)]
            repeated = min(total, self.measured_ms[2])
            return total - repeated, repeated
        if kind == "R":
            return 0.0, outside_ms
        rows = self.rows(kind)
        flops = (
            full_step_flops(self.shape, rows) if kind == "F" else partial_step_flops(self.shape, self.num_tokens, rows)
        )
        return flops / machine.tflops / 1e9 - outside_ms, outside_ms


def step_ms(work: Workload, kind: str, machine: Machine, cfg: int, sp: int) -> float:
    """Both branches of one step on `cfg * sp` devices, ms."""
    shared, repeated = work.alone_ms(kind, machine)
    rows = work.rows(kind)
    even = math.ceil(rows / sp) * sp / rows if rows else 1.0
    call = shared * even / sp + repeated + exchange_ms(work, rows, machine, sp)
    calls = BRANCHES // cfg
    if cfg * sp > 1:
        # A decision and an account of the work, between hosts, at each call.
        call += 2 * machine.word_us / 1e3
    if cfg > 1:
        velocity = work.num_tokens * work.shape.patch_volume * work.shape.out_channels * BYTES
        call += velocity / machine.link_gb_s / 1e6 + machine.latency_us / 1e3
    return calls * call


def exchange_ms(work: Workload, rows: int, machine: Machine, sp: int) -> float:
    """Of one call: four all-to-alls a block, and the rows gathered behind the stack."""
    if sp == 1 or not rows:
        return 0.0
    share = rows / sp * work.shape.dim * BYTES
    blocks = work.shape.num_layers + work.shape.num_vace_layers
    sent = blocks * COLLECTIVES * share * (sp - 1) / sp + share * (sp - 1)
    return sent / machine.link_gb_s / 1e6 + (blocks * COLLECTIVES + 1) * machine.latency_us / 1e3


def loop_s(work: Workload, machine: Machine, cfg: int = 1, sp: int = 1) -> float:
    return sum(step_ms(work, kind, machine, cfg, sp) for kind in work.kinds) / 1e3


def ways(num_devices: int, num_heads: int) -> dict[str, tuple[int, int]]:
    """By the value of --parallel, (devices for branches, devices for rows), as far as the heads divide."""
    found = {"off": (1, 1)} if num_devices == 1 else {}
    if num_devices == 2:
        found["cfg"] = (2, 1)
    if num_devices > 1 and num_heads % num_devices == 0:
        found["sp"] = (1, num_devices)
    if num_devices > 2 and num_devices % 2 == 0 and num_heads % (num_devices // 2) == 0:
        found["cfg+sp"] = (2, num_devices // 2)
    return found


@dataclass(frozen=True)
class Fleet:
    """`failures_per_hour` of one GPU; `load_s` for a worker that takes its place at once."""

    gpus: int
    failures_per_hour: float
    load_s: float


def clips_per_hour(fleet: Fleet, clip_s: float) -> float:
    """Finished clips an hour. A failure that finds a GPU at work costs the clip begun, half of one on average, and a
    load; see docs/scale.md."""
    rate = fleet.failures_per_hour / 3600
    if not rate:
        return fleet.gpus * 3600 / clip_s
    # The mean time of one finished clip, where each begin is a race between clip and failure.
    finished = (math.exp(rate * clip_s) - 1) * (1 / rate + fleet.load_s)
    return fleet.gpus * 3600 / finished


def given_up(fleet: Fleet, clip_s: float, retries: int) -> float:
    """The share of clips whose worker is lost at every try."""
    return float((1 - math.exp(-fleet.failures_per_hour / 3600 * clip_s)) ** (retries + 1))


def decisions(counts: Sequence[int]) -> str:
    return "".join(letter * count for letter, count in zip("FPR", counts, strict=True))


def measured(path: Path | None, frames: int) -> tuple[float, float, float] | None:
    if path is None:
        return None
    row = json.loads(path.read_text())["steps"][str(frames)]
    return row["full_ms"], row["partial_ms"], row["reuse_ms"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, nargs="+", default=list(MODELS))
    parser.add_argument("--frames", type=int, default=81)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=832)
    parser.add_argument("--counts", type=int, nargs=3, default=(7, 18, 25), help="full, partial and reused steps")
    parser.add_argument("--active", type=float, default=0.3, help="share of tokens of a partial step")
    parser.add_argument("--steps", type=Path, help="JSON of gpu_check, for one --model")
    parser.add_argument("--tflops", type=float, default=400.0)
    parser.add_argument("--link-gb-s", type=float, default=300.0)
    parser.add_argument("--latency-us", type=float, default=25.0)
    parser.add_argument("--word-us", type=float, default=300.0)
    parser.add_argument(
        "--outside-s", type=float, default=20.0, help="of a clip outside of the loop: text, VAE, writing"
    )
    parser.add_argument("--load-s", type=float, default=120.0)
    parser.add_argument("--failures", type=float, nargs="+", default=[0.0, 1e-4, 1e-3, 1e-2], help="a GPU and hour")
    parser.add_argument("--gpus", type=int, default=1000)
    parser.add_argument("--retries", type=int, default=2)
    parser.add_argument("--output", type=Path, help="JSON of all rows")
    args = parser.parse_args()
    machine = Machine(args.tflops, args.link_gb_s, args.latency_us, args.word_us)
    num_tokens = ((args.frames - 1) // 4 + 1) * (args.height // 16) * (args.width // 16)
    rows: list[dict[str, object]] = []
    for model in args.model:
        shape, num_heads = MODELS[model]
        times = measured(args.steps, args.frames)
        loops = {
            mode: Workload(shape, num_heads, num_tokens, kinds, args.active, times)
            for mode, kinds in (("baseline", "F" * sum(args.counts)), ("hetcache", decisions(args.counts)))
        }
        rows += one_video(model, loops, machine, args.outside_s)
        rows += batch(model, loops, machine, args)
    if args.output:
        write_json(args.output, {"settings": {key: str(value) for key, value in vars(args).items()}, "rows": rows})


def one_video(model: str, loops: dict[str, Workload], machine: Machine, outside_s: float) -> list[dict[str, object]]:
    work = loops["baseline"]
    print(f"\nOne video, {model}, {work.num_tokens} tokens, denoising loop of {len(work.kinds)} steps:\n")
    print("| GPUs | --parallel | baseline s | efficiency | hetcache s | efficiency | hetcache, whole clip s |")
    print("|---|---|---|---|---|---|---|")
    rows: list[dict[str, object]] = []
    for num in NUMBERS:
        for kind, (cfg, sp) in ways(num, work.num_heads).items():
            row: dict[str, object] = {"model": model, "gpus": num, "parallel": kind}
            cells = []
            for mode, loop in loops.items():
                seconds = loop_s(loop, machine, cfg, sp)
                efficiency = loop_s(loop, machine) / num / seconds
                row |= {f"{mode}_s": seconds, f"{mode}_efficiency": efficiency}
                cells.append(f"{seconds:.1f} | {efficiency:.0%}")
            cells.append(f"{loop_s(loops['hetcache'], machine, cfg, sp) + outside_s:.1f}")
            rows.append(row)
            print(f"| {num} | {kind} | {' | '.join(cells)} |")
    return rows


def batch(
    model: str, loops: dict[str, Workload], machine: Machine, args: argparse.Namespace
) -> list[dict[str, object]]:
    print(f"\nBatch, {model}, {args.gpus} GPUs with one clip each, {args.outside_s:g} s a clip outside of the loop:\n")
    print("| failures a GPU and hour | baseline clips/h | hetcache clips/h | lost | given up |\n|---|---|---|---|---|")
    rows: list[dict[str, object]] = []
    clips = {mode: loop_s(loop, machine) + args.outside_s for mode, loop in loops.items()}
    for rate in args.failures:
        fleet = Fleet(args.gpus, rate, args.load_s)
        per_hour = {mode: clips_per_hour(fleet, clip_s) for mode, clip_s in clips.items()}
        lost = 1 - per_hour["hetcache"] * clips["hetcache"] / 3600 / args.gpus
        gone = given_up(fleet, clips["hetcache"], args.retries)
        rows.append({"model": model, "gpus": args.gpus, "failures_per_hour": rate, **per_hour, "given_up": gone})
        print(f"| {rate:g} | {per_hour['baseline']:.0f} | {per_hour['hetcache']:.0f} | {lost:.2%} | {gone:.1e} |")
    return rows


if __name__ == "__main__":
    main()
