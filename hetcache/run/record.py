"""The JSON record of a run and the tables that a person reads before and after it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from hetcache.core.session import CacheSession
from hetcache.core.tokens import TokenClasses
from hetcache.core.vocabulary import Branch

SCHEMA = 1
STAGES = ("load", "text", "vae_encode", "denoise", "vae_decode", "composite", "total")


def session_facts(session: CacheSession, classes: TokenClasses | None) -> dict[str, Any]:
    """What the denoising loop did: decisions, tokens (their classes where there is a mask), blocks, FLOPs, cache bytes,
    steps."""
    trace = session.trace
    uncached = trace.flops_uncached
    active = [r.num_active for r in trace.records if r.compute.name == "PARTIAL"]
    return {
        "decisions": {branch.value: trace.decisions(branch) for branch in Branch},
        "accelerated": trace.accelerated,
        "tokens": {
            "total": trace.num_tokens,
            **({} if classes is None else _class_sizes(classes)),
            "active": max(active, default=trace.num_tokens),
        },
        "blocks": dict(trace.work.blocks),
        "sublayers": dict(trace.work.sublayers),
        "flops": {
            "run": trace.work.flops,
            "uncached": uncached,
            "ratio": round(uncached / trace.work.flops, 4) if trace.work.flops else None,
        },
        "cache_bytes": session.cache_bytes,
        "notes": session.notes(),
        "steps": trace.steps_json(),
    }


def _class_sizes(classes: TokenClasses) -> dict[str, int]:
    return {
        "generative": len(classes.generative_G),
        "margin": len(classes.margin_M),
        "context": len(classes.context_C),
    }


def determinism(device: str) -> dict[str, Any]:
    """What the same bytes again depend on: the same files, settings, seed, versions and hardware as in this record."""
    breaks = [
        "another version of torch, diffsynth, hetcache or ffmpeg",
        "another device or dtype",
        "files that have changed under the same name",
    ]
    if device.startswith("cuda"):
        breaks.append("attention or convolution kernels that add in another order (FlashAttention, cuDNN)")
    else:
        breaks.append("another kind of CPU, or another number of threads")
    return {
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "same_bytes_unless": breaks,
    }


def all_windows(facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The facts of a run of several windows from those of each: sums of work and time, peaks of memory. Decisions are
    one word per edited window."""
    edited = [window for window in facts if "skipped" not in window]
    run, uncached = (sum(window["flops"][key] for window in edited) for key in ("run", "uncached"))
    return {
        "decisions": {
            branch.value: " ".join(filter(None, (window["decisions"][branch.value] for window in edited)))
            for branch in Branch
        },
        "accelerated": any(window["accelerated"] for window in edited),
        "tokens": max((window["tokens"] for window in edited), key=lambda tokens: tokens["active"], default={}),
        **{key: _sum_counts([window[key] for window in edited]) for key in ("blocks", "sublayers")},
        "flops": {"run": run, "uncached": uncached, "ratio": round(uncached / run, 4) if run else None},
        "cache_bytes": max((window["cache_bytes"] for window in edited), default=0),
        "peak_memory_gib": max((window["peak_memory_gib"] for window in edited), default=0.0),
        "windows": list(facts),
    }


def _sum_counts(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(total)


def timing_s(stage_ms: Mapping[str, float], load_s: float, composite_s: float, total_s: float) -> dict[str, float]:
    """Stage times in seconds under the record's keys."""
    known = {"load": load_s, "composite": composite_s, "total": total_s}
    return {stage: round(known[stage] if stage in known else stage_ms.get(stage, 0.0) / 1e3, 4) for stage in STAGES}


def sum_timing_s(windows: Sequence[Mapping[str, float]], load_s: float, composite_s: float) -> dict[str, float]:
    """Stage times of all windows, whichever process edited them."""
    total = {stage: round(sum(window[stage] for window in windows), 4) for stage in STAGES}
    total |= {"load": round(load_s, 4), "composite": round(composite_s, 4)}
    total["total"] = round(total["total"] + load_s + composite_s, 4)
    return total


def table(rows: list[tuple[str, str]]) -> str:
    """Two aligned columns."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name.ljust(width)}  {value}" for name, value in rows)


def summary_rows(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The table after a run, from its record."""
    times, flops, tokens = record["timing_s"], record["flops"], record["tokens"]
    stages = ", ".join(f"{stage.replace('_', ' ')} {seconds:.1f} s" for stage, seconds in _all_times(times).items())
    rows = []
    if "windows" in record:
        skipped = sum("skipped" in window for window in record["windows"])
        without = f", {skipped} of them with nothing to edit" if skipped else ""
        seams = [window["join"]["seam_ratio"] for window in record["windows"] if "join" in window]
        worst = max((ratio for ratio in seams if ratio is not None), default=None)
        step = "" if worst is None else f", seam ratio at most {worst:.2f} (1: no join to be seen)"
        rows.append(("windows", f"{len(record['windows'])}{without}{step}"))
    for branch, letters in record["decisions"].items():
        if letters:
            first, *others = letters.split()
            more = f" and so on ({len(others)} more windows, see the record)" if others else ""
            rows.append((f"steps ({branch})", first + more))
    rows.append(("time", stages))
    if not record["accelerated"] and record["mode"] != "baseline" and flops["run"]:
        rows.append(("speed", "NOT ACCELERATED: no partial and no reused step at these settings"))
    elif record["accelerated"]:
        partial = ""
        if any("P" in letters for letters in record["decisions"].values()):
            partial = f"; partial steps compute {tokens['active']} of {tokens['total']} tokens"
        work = f"{flops['run'] / 1e12:.2f} of {flops['uncached'] / 1e12:.2f} TFLOPs"
        rows.append(("FLOPs", f"{flops['ratio']:.2f}x fewer ({work}{partial})"))
    if "put_back" in record:
        rows.append(("mask", _mask_text(record["conditioning"], record["put_back"])))
    rows.append(("memory", f"cache {record['cache_bytes'] / 2**20:.1f} MiB, peak {record['peak_memory_gib']:.2f} GiB"))
    compare = record.get("compare")
    if compare:
        rows.append(
            (
                "against baseline",
                f"denoising {compare['denoise_speedup']:.2f}x faster, whole run {compare['total_speedup']:.2f}x "
                f"(timed {compare['timed']})",
            )
        )
        for metric, unit in (("psnr_db", " dB"), ("ssim", "")):
            shown = ", ".join(
                f"{region.replace('_', ' ')} {_figure(value)}{unit}" for region, value in compare[metric].items()
            )
            rows.append((metric.split("_")[0].upper(), shown))
    rows += [("note", note) for note in record.get("fell_back", [])]
    rows += [(name, path) for name, path in record["outputs"].items() if path]
    return rows


def _all_times(times: Mapping[str, float]) -> dict[str, float]:
    """The stages that a person would notice, with what comes before them: libraries, reading, other frames."""
    before_s = times["total"] - sum(times[stage] for stage in STAGES if stage != "total")
    return {stage: seconds for stage, seconds in {"prepare": before_s, **times}.items() if seconds >= 0.05}


def _mask_text(conditioning: Mapping[str, Any], put_back: Mapping[str, Any]) -> str:
    """What was put under the mask and how the edit was put back."""
    parts = [f"filled by {conditioning['fill']}" if conditioning["fill"] != "none" else "seen by the model"]
    if conditioning["seen_share"] is not None:
        parts[0] += f" ({conditioning['seen_share']:.0%} seen in other frames)"
    if conditioning["kept_share"] is not None:
        parts.append(f"{conditioning['kept_share']:.0%} kept from there")
    if put_back["colour_shift"] is not None:
        parts.append(f"colours moved by {put_back['colour_shift']:.1f} of 255")
    if put_back["restored_share"] is not None:
        parts.append(f"{put_back['restored_share']:.0%} restored from other frames")
    if put_back["grain"] is not None:
        parts.append("grain added")
    return ", ".join(parts)


def _figure(value: float | None) -> str:
    return "none" if value is None else "inf" if value == float("inf") else f"{value:.4g}"
