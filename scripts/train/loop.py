"""The one training loop: every stage brings a model and a loss, the loop brings the rest.

Under the run's folder it keeps, per stage, `NAME.pt` (everything to go on from), `NAME-steady.pt` (the same, from
before the learning rate was lowered, so that a longer run goes on from there) and `NAME.jsonl` (machine, minutes,
steps, losses). Minutes count from the start of the stage, pauses left out, over all sessions; `cpu_s` is the processor
time of this call alone, which says how much of them a busy machine gave.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hetcache.files import atomic_output
from scripts.train.optim import Clock, Ema, average_gradients, give_way, init_processes, make_optimizers, schedule

Values = dict[str, float]


class Stage(Protocol):
    """What a stage brings. `name` names its files; parameters in `adam_names` are not orthogonalised."""

    name: str
    model: nn.Module
    adam_names: tuple[str, ...]

    def begin(self, seed: tuple[int, int], averaged: nn.Module) -> None:
        """Called once before the first step: a seed that no other process and resumption has, the averaged model."""

    def loss(self, progress: float) -> tuple[Tensor, Values]:
        """Draws a batch; the loss to go down, and the figures to log. `progress` is 0..1 of the whole stage."""

    def watch(self, model: nn.Module) -> Values:
        """Figures of clips never trained on; empty when there are none."""

    def close(self) -> None:
        """Called once after the last step."""


@dataclass(frozen=True)
class LoopOptions:
    """`minutes` is the whole stage's, of which the last `cooldown` share lowers the learning rate to 2 %. The call ends
    after `session_minutes` of them, if given: the next one goes on."""

    out: Path
    minutes: float
    lr: float
    adam_factor: float = 1.0  # AdamW's learning rate over Muon's
    warmup_steps: int = 60
    cooldown: float = 0.25
    session_minutes: float | None = None
    save_minutes: float = 4.0
    log_steps: int = 20
    decay: float = 0.998


def train(stage: Stage, options: LoopOptions) -> None:
    """Trains until the stage's minutes are used up, going on from its checkpoint when there is one."""
    rank, _ = init_processes()
    give_way()
    options.out.mkdir(parents=True, exist_ok=True)
    checkpoint = options.out / f"{stage.name}.pt"
    model = stage.model
    params = [p for p in model.parameters() if p.requires_grad]
    optimizers = make_optimizers(model, adam_names=stage.adam_names)
    ema = Ema(model, options.decay)
    state = _restore(checkpoint, options, model, ema, optimizers)
    first_step = step = state["step"]
    # The warm-up is for optimisers that know nothing yet.
    warmup_steps = options.warmup_steps if "optimizers" not in state else 0
    stage.begin((rank, step), ema.module)
    log = RunLog(options.out / f"{stage.name}.jsonl") if rank == 0 else None
    if log:
        log.row(machine=machine(), step=step, used_s=state["used_s"])
    clock, sums = Clock(options.minutes * 60, state["used_s"]), Means()
    steady_saved = checkpoint_steady(checkpoint).exists() and state["used_s"] / 60 >= _steady_minutes(options)
    progress, next_save = clock.tick(), clock.used_s + options.save_minutes * 60
    session_end_s = min(options.minutes, state["used_s"] / 60 + (options.session_minutes or options.minutes)) * 60
    ended = progress >= 1
    while not ended:
        cooling = progress > 1 - options.cooldown
        if cooling and not steady_saved and rank == 0:
            _save(checkpoint_steady(checkpoint), model, ema, optimizers, step, clock.used_s, options, cooled=False)
            steady_saved = True
        factor = schedule(progress, step - first_step, warmup_steps, options.cooldown)
        _set_rates(optimizers, options, factor)
        loss, figures = stage.loss(progress)
        loss.backward()
        norm = average_gradients(params, 1.0)
        for optimizer in optimizers:
            if math.isfinite(norm):
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        ema.update(model)
        step += 1
        progress = clock.tick()
        ended = progress * options.minutes * 60 >= session_end_s
        sums.add({**figures, "norm": norm})
        if log and step % options.log_steps == 0:
            log.row(step=step, used_s=clock.used_s, cpu_s=time.process_time(), lr=factor, **sums.take())
        if log and (clock.used_s > next_save or ended):
            next_save = clock.used_s + options.save_minutes * 60
            _save(checkpoint, model, ema, optimizers, step, clock.used_s, options, cooled=cooling)
            watched = stage.watch(ema.module)
            if watched:
                log.row(step=step, used_s=clock.used_s, watched=watched)
            clock.skip()
    stage.close()


class RunLog:
    """Appends JSON lines; numbers are kept to five digits."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def row(self, **values: Any) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(_rounded(values)) + "\n")


class Means:
    """Running means of named figures."""

    def __init__(self) -> None:
        self.sums: Values = {}
        self.count = 0

    def add(self, figures: Mapping[str, float]) -> None:
        self.count += 1
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)

    def take(self) -> Values:
        means = {name: total / max(self.count, 1) for name, total in self.sums.items()}
        self.sums, self.count = {}, 0
        return means


def machine() -> dict[str, str | int]:
    """What a log says about where it was made."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "torch": torch.__version__,
        "started": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
    }


def checkpoint_steady(checkpoint: Path) -> Path:
    """Beside a checkpoint: the last state at the full learning rate."""
    return checkpoint.with_name(f"{checkpoint.stem}-steady.pt")


def _steady_minutes(options: LoopOptions) -> float:
    return options.minutes * (1 - options.cooldown)


def _restore(
    checkpoint: Path, options: LoopOptions, model: nn.Module, ema: Ema, optimizers: list[torch.optim.Optimizer]
) -> dict[str, Any]:
    """Loads the checkpoint into everything; step 0 when there is none.

    A run that was cooling down and is given more minutes than it was cooling for goes on from its steady state; with
    the same minutes it goes on cooling. A state without optimisers (`state.read_parts`) leaves them new: the warm-up is
    for them.
    """
    if not checkpoint.exists():
        return {"step": 0, "used_s": 0.0}
    state: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
    steady = checkpoint_steady(checkpoint)
    if state.get("cooled") and options.minutes > state.get("minutes", 0.0) and steady.exists():
        state = torch.load(steady, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    ema.module.load_state_dict(state["ema"])
    ema.steps = state["step"]
    for optimizer, saved in zip(optimizers, state.get("optimizers", []), strict=False):
        optimizer.load_state_dict(saved)
    return state


def _save(
    path: Path,
    model: nn.Module,
    ema: Ema,
    optimizers: list[torch.optim.Optimizer],
    step: int,
    used_s: float,
    options: LoopOptions,
    cooled: bool,
) -> None:
    state = {
        "model": model.state_dict(),
        "ema": ema.module.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "step": step,
        "used_s": used_s,
        "cooled": cooled,
        "minutes": options.minutes,
    }
    with atomic_output(path) as temporary:
        torch.save(state, temporary)


def _set_rates(optimizers: list[torch.optim.Optimizer], options: LoopOptions, factor: float) -> None:
    for index, optimizer in enumerate(optimizers):
        rate = options.lr * factor * (options.adam_factor if index == 0 else 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return value
