"""Training tools: Muon, gradient averaging over processes, an averaged model, a clock and a schedule."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised by Newton-Schulz, for weight matrices and convolution kernels (flattened to 2-D).

    Written out because `torch.optim.Muon` refuses convolution kernels.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
                buffer.lerp_(p.grad, 1 - group["momentum"])
                update = orthogonalise(p.grad.lerp(buffer, group["momentum"]).flatten(1))
                scale = 0.2 * max(update.shape) ** 0.5
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update.reshape(p.shape).to(p.dtype), alpha=-group["lr"] * scale)


def orthogonalise(gradient_MN: Tensor, steps: int = 5) -> Tensor:
    """Nearest semi-orthogonal matrix, roughly (singular values end between 0.7 and 1.2)."""
    x = gradient_MN.bfloat16()
    flip = x.shape[0] > x.shape[1]
    x = x.T if flip else x
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.T if flip else x


def make_optimizers(
    module: nn.Module,
    adam_names: tuple[str, ...] = ("embedding", "head", "linear"),
    weight_decay: float = 0.01,
) -> list[torch.optim.Optimizer]:
    """Muon for the inner matrices, AdamW for biases, gains, embeddings and the first and last layers.

    AdamW is the first of the list. The loop sets the learning rates.
    """
    muon: list[nn.Parameter] = []
    adam: list[nn.Parameter] = []
    for name, p in module.named_parameters():
        if p.requires_grad:
            inner = p.ndim >= 2 and "modulation" not in name and not any(word in name for word in adam_names)
            (muon if inner else adam).append(p)
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(adam, lr=1e-3, betas=(0.9, 0.97), weight_decay=0.0)]
    if muon:
        optimizers.append(Muon(muon, lr=1e-3, weight_decay=weight_decay))
    return optimizers


def init_processes() -> tuple[int, int]:
    """(rank, world size) under torchrun, (0, 1) otherwise."""
    if "RANK" not in os.environ:
        return 0, 1
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return dist.get_rank(), dist.get_world_size()


def average_gradients(params: list[nn.Parameter], max_norm: float) -> float:
    """All-reduces the gradients in one message, clips them, returns the norm before clipping."""
    grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in params]
    if dist.is_initialized():
        flat = torch.cat([g.flatten() for g in grads])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        for p, piece in zip(params, flat.split([p.numel() for p in params]), strict=True):
            p.grad = piece.view_as(p)
    return float(torch.nn.utils.clip_grad_norm_(params, max_norm))


class Ema:
    """Exponential moving average of a module, with a warm-up so that early steps are forgotten."""

    def __init__(self, module: nn.Module, decay: float):
        self.module = copy.deepcopy(module).requires_grad_(False).eval()
        self.decay = decay
        self.steps = 0

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(list(self.module.parameters()), list(module.parameters()), 1 - decay)


def give_way(file: Path = Path("/proc/self/autogroup")) -> None:
    """Hands this process's niceness on to its session: where the kernel groups processes by session, `nice` alone
    counts only among the processes of one."""
    niceness = os.nice(0)
    if niceness > 0 and file.exists():
        with suppress(OSError):  # a session that is not ours
            file.write_text(str(niceness))


class Clock:
    """Progress 0..1 of a time budget in seconds. A long pause of the process counts as one ordinary step."""

    def __init__(self, budget_s: float, used_s: float = 0.0):
        self.budget_s, self.used_s, self.last = budget_s, used_s, time.monotonic()

    def tick(self) -> float:
        now = time.monotonic()
        self.used_s += min(now - self.last, 30.0)
        self.last = now
        progress = torch.tensor(self.used_s / self.budget_s)
        if dist.is_initialized():
            dist.broadcast(progress, 0)
        return float(progress)

    def skip(self) -> None:
        """What passed since the last tick (saving, watching) is not training."""
        self.last = time.monotonic()


def schedule(progress: float, steps_since_start: int, warmup_steps: int, cooldown: float) -> float:
    """Learning-rate factor: a warm-up after the start, flat, and linear to 2 % over the last `cooldown` share."""
    warm = min(1.0, (steps_since_start + 1) / max(warmup_steps, 1))
    cool = min(1.0, (1 - progress) / cooldown) if cooldown else 1.0
    return max(0.02, warm * cool)
