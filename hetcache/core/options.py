"""What every command may ask of an edit: sampling, speed, memory. Every field is a flag, checked here for all doors."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from hetcache.core.settings import check_settings, refused, setting
from hetcache.files import UserError

Tiling = Literal["auto", "on", "off"]
Fill = Literal["auto", "grey", "push_pull", "propagate"]
Parallel = Literal["off", "cfg", "sp", "cfg+sp"]
MAX_SEED = 2**63


def typed(text: str) -> str:
    """A text as it was meant, where the locale does not know its characters: commands are typed in UTF-8 then."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return os.fsencode(text).decode("utf-8", "replace")
    return text


@dataclass(frozen=True)
class Sampling:
    """What the model is asked for. None is the model's own: see `ModelInfo.complete`."""

    prompt: str | None = setting(
        None,
        "what should be there",
        shown="the model's own, printed before the run",
        metavar="TEXT",
        parser=typed,
    )
    negative_prompt: str | None = setting(
        None, "what should not be there", shown="the model's own", metavar="TEXT", parser=typed
    )
    num_steps: int = setting(50, "denoising steps", flag="steps")
    cfg_scale: float | None = setting(
        None, "guidance scale, 1 runs the conditional branch alone", shown="the model's own"
    )
    sigma_shift: float = setting(
        5.0, "shift of the noise schedule: 5 is DiffSynth's default, 16 what Wan's own script sets for VACE"
    )
    seed: int = setting(0, "seed of the initial noise")
    apply_mask_to_input: bool = setting(
        True,
        "hide from the model what lies under the mask; --no-apply-mask-to-input lets it see the original, for edits "
        "that keep its structure",
    )

    fill: Fill = setting(
        "auto",
        "what the model gets to see in place of what lies under the mask: grey, an interpolation (push_pull), or what "
        "other frames show there, interpolated where none does (propagate); auto is propagate for the embedded model "
        "and what they were trained with, grey, for Wan's",
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if self.num_steps < 1:
            raise refused(self, "num_steps", "at least 1")
        if not 0 <= self.seed < MAX_SEED:
            raise refused(self, "seed", "from 0 to 2^63 - 1")
        if self.cfg_scale is not None and self.cfg_scale < 0:
            raise refused(self, "cfg_scale", "not negative; 1 is no guidance")
        if self.sigma_shift <= 0:
            raise refused(
                self, "sigma_shift", "greater than 0; 5 is DiffSynth's default, 16 what Wan's own script sets for VACE"
            )


@dataclass(frozen=True)
class Speed:
    """Faster ways to compute the same step."""

    fast_rope: bool = setting(
        False,
        "rotate queries and keys in float32 instead of upstream's float64: faster, not bit-exact; the record says "
        "what difference it made",
    )
    cfg_batch: bool = setting(
        False, "run both branches of guidance as one batch of 2 (modes with a plan before the run)"
    )
    compile: bool = setting(
        False,
        "compile the parts of a block between its attentions with torch.compile, once per run and row count: "
        "not bit-exact; the record says what difference it made",
    )
    parallel: Parallel = setting(
        "off",
        "one video on several GPUs, under torchrun --nproc-per-node N: cfg computes the two branches of guidance on "
        "two, sp shares out the tokens, cfg+sp does both (docs/scale.md)",
    )
    parallel_timeout: float = setting(
        600.0, "how long a process waits for the others before it gives up", metavar="SECONDS"
    )


@dataclass(frozen=True)
class Memory:
    """Limits on what an edit keeps in memory."""

    vae_tiling: Tiling = setting(
        "auto", "auto: the VAE works on the whole frame when that fits in GPU memory, else in tiles (slower)"
    )
    cache_budget_gib: float | None = setting(
        None,
        "most that the cache may keep; hetcache, taylorseer and spectrum give up what docs/methods.md lists to stay "
        "below it, and the record says so; other modes stop",
        shown="for these on a GPU half of its free memory, else no limit",
        metavar="GIB",
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if self.cache_budget_gib is not None and self.cache_budget_gib < 0:
            raise refused(self, "cache_budget_gib", "GiB, not negative")


@dataclass(frozen=True)
class EditSettings(Memory, Speed, Sampling):
    """What the model is asked for and how, independent of the caching mode; the fields of all three, sampling first."""

    def __post_init__(self) -> None:
        Sampling.__post_init__(self)
        Memory.__post_init__(self)
        if self.cfg_batch and self.cfg_scale == 1:
            raise UserError("--cfg-batch: guidance scale 1 runs one branch alone, leave the flag out")
        if self.parallel_timeout <= 0:
            raise refused(self, "parallel_timeout", "seconds, greater than 0")
        if "cfg" in self.parallel and self.cfg_scale == 1:
            raise UserError(f"--parallel {self.parallel}: guidance scale 1 runs one branch alone, use --parallel sp")
        if self.cfg_batch and self.parallel != "off":
            raise UserError(f"--parallel {self.parallel}: --cfg-batch is for one GPU, leave one of the two out")
        if self.compile and "sp" in self.parallel:
            raise UserError(f"--parallel {self.parallel}: not with --compile, leave one of the two out")

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts that will be embedded: without guidance the negative one is not. Both must be filled in."""
        assert self.prompt is not None and self.negative_prompt is not None
        return (self.prompt,) if self.cfg_scale == 1 else (self.prompt, self.negative_prompt)


@dataclass(frozen=True)
class VramOptions:
    """`limit_gib` switches DiffSynth's VRAM management on: weights rest on the CPU, in fp8 if asked, and visit the
    GPU as long as used memory stays below the limit."""

    limit_gib: float | None = setting(
        None,
        "keep weights on the CPU and move them to the GPU while less than this is used",
        flag="vram-limit",
        shown="all on the GPU",
        metavar="GIB",
    )
    fp8_storage: bool = setting(False, "with --vram-limit: store resting weights as fp8")

    def __post_init__(self) -> None:
        check_settings(self)
        if self.limit_gib is not None and self.limit_gib <= 0:
            raise refused(self, "limit_gib", "GiB, greater than 0")


def check_compile(edit: EditSettings, vram: VramOptions) -> None:
    """Raises ValueError for --compile with --vram-limit: a block's weights must stay where they are compiled for."""
    if vram.limit_gib is not None and edit.compile:
        raise UserError("--compile: with --vram-limit a block's weights move at every call; leave one of the two out")
