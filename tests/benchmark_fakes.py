"""An executor without a model: runs in no time, and its figures depend on the cell alone."""

from __future__ import annotations

import hashlib

import numpy as np

from hetcache.benchmark.cells import Case
from hetcache.benchmark.methods import parse_methods
from hetcache.benchmark.runner import Plan
from hetcache.media.write import write_video

FRAMES, HEIGHT, WIDTH, STEPS = 5, 32, 48, 8
LETTERS = {"baseline": "FFFFFFFF", "hetcache": "FRPRRPRF", "teacache": "FRRFRRFF"}
COST = {"F": 1.0, "P": 0.3, "R": 0.01}
SETUP = {
    "model": "fake",
    "model_name": "tiny",
    "flags": [],
    "random": False,
    "decisions": None,
    "frames": FRAMES,
    "size": [HEIGHT, WIDTH],
    "prompt": "a prompt",
}


class FailureError(RuntimeError):
    pass


class FakeExecutor:
    """`calls` are the cells that really ran; `fails` names methods that raise."""

    def __init__(self, store, fails=(), before=None):
        self.store, self.fails, self.before = store, fails, before
        self.calls, self.warm_ups = [], 0

    def warm_up(self, case):
        self.warm_ups += 1

    def run(self, cell, num_steps):
        if self.before is not None:
            self.before(cell)
        self.calls.append((cell.method.name, cell.case.name, cell.seed, num_steps))
        if cell.method.name in self.fails:
            raise FailureError(f"{cell.method.name} ran\nout of luck")
        letters = LETTERS.get(cell.method.mode, "F" * num_steps)[:num_steps].ljust(num_steps, "F")
        return record_of(cell, letters), frames_of(cell)

    def judge(self, cell, frames, baseline):
        error = int(hashlib.sha256(cell.method.name.encode()).hexdigest(), 16) % 20
        regions = {name: {"psnr": 30.0 + error, "ssim": 0.9} for name in ("all", "in_mask", "seam")}
        found = {"source": {"all": {"psnr": 25.0, "ssim": 0.8}}}
        if baseline is not None:
            assert baseline.shape == frames.shape
            found["baseline"] = regions
        return found

    def save_video(self, cell, frames):
        write_video(self.store.video(cell), frames, 8.0)


def record_of(cell, letters):
    work = [COST[letter] * 1e12 for letter in letters]
    seconds = sum(COST[letter] for letter in letters)
    steps = [
        {
            "step": i,
            "timestep": 1000.0 - i,
            "branch": branch,
            "compute": {"F": "full", "P": "partial"}.get(x, "reuse"),
            "reason": "d < delta",
            "signal": 0.1,
            "threshold": 0.2,
            "tokens": 6,
            "flops": work[i],
            "blocks": {"dit": 1, "vace": 1},
        }
        for i, x in enumerate(letters)
        for branch in ("cond", "uncond")
    ]
    record = {
        "mode": cell.method.mode,
        "decisions": {"cond": letters, "uncond": letters},
        "steps": steps,
        "accelerated": set(letters) != {"F"},
        "cache_bytes": 1 << 20,
        "peak_memory_gib": 0.5,
        "flops": {"run": 2 * sum(work), "uncached": 2e12 * len(letters), "ratio": len(letters) / seconds},
        "timing_s": {
            "load": 0,
            "text": 0.1,
            "vae_encode": 0.2,
            "denoise": seconds,
            "vae_decode": 0.3,
            "composite": 0,
            "total": seconds + 0.6,
        },
        "config": {
            "frames": FRAMES,
            "height": HEIGHT,
            "width": WIDTH,
            "num_steps": len(letters),
            "cfg_scale": 2.0,
            "dtype": "float32",
        },
        "hardware": {"device": "cpu", "cpu": "fake cpu", "cores": 2, "threads": 1, "os": "Linux"},
    }
    if "P" in letters:
        record["token_map"] = {"grid": [2, 2, 3], "labels": "001122001122", "rows": {"2": "D/A=", "5": "8PA="}}
    return record


def frames_of(cell):
    """Noise that grows brighter from frame to frame, the same for every method."""
    rng = np.random.default_rng(cell.seed)
    noise = rng.integers(0, 40, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    return noise + np.arange(0, 50 * FRAMES, 50, dtype=np.uint8)[:, None, None, None]


def make_plan(folder, modes=("teacache", "hetcache", "steps:hetcache"), seeds=(0, 1), repeats=2, videos=1):
    """A plan over videos that are written to `folder`."""
    cases = []
    for index in range(videos):
        frames = np.full((FRAMES, HEIGHT, WIDTH, 3), 90, np.uint8)
        frames[:, 8:20, 10:30] = 200
        video, mask = folder / f"v{index}.mp4", folder / f"m{index}.mp4"
        if not video.exists():
            write_video(video, frames, 8.0)
            write_video(mask, np.where(frames > 150, 255, 0).astype(np.uint8), 8.0)
        cases.append(Case(f"v{index}", video, mask, "digest"))
    return Plan(parse_methods(list(modes)), cases, list(seeds), repeats, STEPS, SETUP)
