"""The vocabulary that every mode shares: branches, steps, decisions, token plans and the manager contract.

Nothing in this module knows a pipeline library. `hetcache.core.step` drives managers through these types, and a
mode is one subclass of `CacheManager` plus one frozen config dataclass.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import torch


class Branch(enum.Enum):
    """The two denoiser calls of classifier-free guidance, named at the call and never inferred by counting."""

    COND = "cond"
    UNCOND = "uncond"


class Compute(enum.Enum):
    """How much of a denoising step is computed. The value is its letter in decision strings (`FFRPR...`).

    FULL computes every block for every token, PARTIAL for the tokens of a plan, REUSE none. A step of level BLOCKS
    takes every token into the stack, where blocks or sub-layers are computed or not.
    """

    FULL = "F"
    PARTIAL = "P"
    BLOCKS = "B"
    REUSE = "R"


@dataclass(frozen=True)
class Step:
    """One denoising step: `index` counts from 0 to `count - 1`, `timestep` is the scheduler's value (0..1000)."""

    index: int
    count: int
    timestep: float

    @property
    def is_first(self) -> bool:
        return self.index == 0

    @property
    def is_last(self) -> bool:
        return self.index == self.count - 1


@dataclass(frozen=True)
class Grid:
    """Token grid of one video: latent frames x patch rows x patch columns; token n = (f * height + h) * width + w."""

    frames: int
    height: int
    width: int

    @property
    def num_tokens(self) -> int:
        return self.frames * self.height * self.width


@dataclass(frozen=True)
class Schedule:
    """What is known about a run before its first step.

    `rel_l1` maps a static signal's name to its relative L1 change per step, `rel_l1[name][i]` between steps
    i - 1 and i (entry 0 is 0.0): `e0` is the projected modulation (6 D values), `e` the timestep embedding.
    `skipped` are the steps that an outer composition reuses: the mode inside is not asked there. `reference_frames`
    latent frames, of reference images, stand before the video's: the mask does not cover them.
    """

    timesteps: tuple[float, ...]
    rel_l1: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    skipped: frozenset[int] = frozenset()
    reference_frames: int = 0

    @property
    def num_steps(self) -> int:
        return len(self.timesteps)


@dataclass(frozen=True)
class Hidden:
    """The embedded inputs of one denoiser call, before any block.

    x_BND tokens, t_BD timestep embedding (`e`), t_mod_B6D modulation (`e0`), context_BLD text tokens,
    latents_BCFHW the raw noisy latents of this step.
    """

    x_BND: torch.Tensor
    t_BD: torch.Tensor
    t_mod_B6D: torch.Tensor
    context_BLD: torch.Tensor
    latents_BCFHW: torch.Tensor
    grid: Grid


@dataclass(frozen=True)
class TokenPlan:
    """The tokens that a PARTIAL step computes: `rows_A`, int64 [|A|] ascending, out of `num_tokens`."""

    rows_A: torch.Tensor
    num_tokens: int
    num_generative: int = 0
    num_margin: int = 0
    num_context: int = 0
    num_reference: int = 0

    @property
    def num_active(self) -> int:
        return int(self.rows_A.shape[0])


@dataclass(frozen=True)
class Decision:
    """What a step computes and why: reuse iff `signal < threshold` for accumulating rules, see each mode.

    PARTIAL computes the plan's tokens. BLOCKS takes `cached_sublayers` (of `self_attn`, `cross_attn`, `mlp`) from the
    cache, or lets each block decide. `order` is the order of the forecast of what is not computed and `context_ratio`
    the share of context tokens that a PARTIAL step computes, where a plan chooses them step by step: None is the
    config's.
    """

    compute: Compute
    reason: str
    signal: float | None = None
    threshold: float | None = None
    plan: TokenPlan | None = None
    cached_sublayers: frozenset[str] = frozenset()
    order: int | None = None
    context_ratio: float | None = None


class Attention(NamedTuple):
    """Output of one self-attention before its gate, with the normalised, rotated queries and keys that made it."""

    out_BND: torch.Tensor
    q_BND: torch.Tensor
    k_BND: torch.Tensor
    v_BND: torch.Tensor


class BlockOps(Protocol):
    """One transformer block at one step, on the rows that the step computes; every call is metered.

    `full` is the upstream block, untouched. The sub-layer calls composed in order (`self_attn`, `add_self_attn`,
    `cross_attn`, `add_cross_attn`, `mlp`, `add_mlp`) are the same arithmetic in the same order, bit for bit.
    """

    stack: str
    layer: int
    num_layers: int
    num_heads: int

    def full(self, x_BND: torch.Tensor) -> torch.Tensor: ...

    def self_attn(self, x_BND: torch.Tensor, kv: tuple[torch.Tensor, torch.Tensor] | None = None) -> Attention:
        """Self-attention output. With `kv`, fresh K and V rows are written into those [B, N, D] buffers in place
        (at this step's rows) and the queries attend to the whole buffers."""
        ...

    def add_self_attn(self, x_BND: torch.Tensor, out_BND: torch.Tensor) -> torch.Tensor: ...

    def cross_attn(self, x_BND: torch.Tensor) -> torch.Tensor: ...

    def add_cross_attn(self, x_BND: torch.Tensor, out_BND: torch.Tensor) -> torch.Tensor: ...

    def mlp(self, x_BND: torch.Tensor) -> torch.Tensor: ...

    def add_mlp(self, x_BND: torch.Tensor, out_BND: torch.Tensor) -> torch.Tensor: ...

    def all_rows(self, x_BND: torch.Tensor) -> torch.Tensor:
        """The rows of the whole step, where several ranks share them; else `x_BND` itself."""
        ...

    def all_heads(self, x_BND: torch.Tensor) -> torch.Tensor:
        """Queries or keys of all heads, where several ranks share them; else `x_BND` itself."""
        ...

    def at(self, rows_A: torch.Tensor) -> BlockOps:
        """The same block restricted to the given rows (of the rows it already works on)."""
        ...


def sublayer(ops: BlockOps, name: str, x_BND: torch.Tensor) -> torch.Tensor:
    """The output of `self_attn`, `cross_attn` or `mlp`, before its gate."""
    if name == "self_attn":
        return ops.self_attn(x_BND).out_BND
    return ops.cross_attn(x_BND) if name == "cross_attn" else ops.mlp(x_BND)


class Walk(Protocol):
    """One computed step on its way through the blocks (`hetcache.core.walk.StackWalk`): `x_BAD` are the tokens before
    DiT block `layer`, of the rows that are computed here."""

    layer: int
    x_BAD: torch.Tensor

    @property
    def num_layers(self) -> int: ...

    @property
    def num_vace_layers(self) -> int:
        """0 in a call without a VACE condition."""
        ...

    def dit_to(self, layer: int) -> torch.Tensor:
        """Run up to DiT block `layer`, which is not run: its input, behind the hints of the layers before it."""
        ...

    def vace_to(self, layer: int) -> torch.Tensor:
        """Run up to VACE block `layer`, which is not run: its input, at 0 the embedded condition."""
        ...

    def jump(self, layer: int, x_BAD: torch.Tensor) -> None:
        """Go on at DiT block `layer` with `x_BAD` as its input; the blocks before it are left out."""
        ...

    def finish(self) -> torch.Tensor:
        """Run what is left: the tokens behind the last DiT block."""
        ...


class CacheManager:
    """State and decisions of one mode for one CFG branch of one video. Only `decide` is mandatory.

    It is made complete, once the run's schedule is known, and never holds the pipeline, the model or the other
    branch's manager. `reuse_level` says what `reuse` returns: `tokens` (the hidden states after the block stack) or
    `velocity` (the model output itself). `vace_on_reuse` runs the VACE blocks on reused steps and drops their result,
    as DiffSynth's own cache does. `num_tokens` is how many tokens the mode was told of before the run, None where it
    takes any number: a denoiser with another number is refused at its first call.

    For several processes that compute one video: `shares_decisions` says that both branches decide as one, by what the
    first sees; `keeps_hints` that `keep_hints` wants the hints of all rows; `splits_rows` that a step's rows may be
    shared out among processes.
    """

    reuse_level: str = "tokens"
    vace_on_reuse: bool = False
    shares_decisions: bool = False
    keeps_hints: bool = False
    splits_rows: bool = True
    num_tokens: int | None = None

    def decide(self, step: Step, hidden: Hidden) -> Decision:
        raise NotImplementedError

    def run_block(self, ops: BlockOps, x_BND: torch.Tensor, decision: Decision) -> torch.Tensor:
        return ops.full(x_BND)

    def hints(self, hidden: Hidden, decision: Decision) -> list[torch.Tensor] | None:
        """Cached VACE hints for the rows of this step, or None to run the VACE blocks."""
        return None

    def keep_hints(self, hints: list[torch.Tensor], decision: Decision) -> None:
        """Called with the hints that the VACE blocks have just computed."""

    def run_stack(self, walk: Walk, step: Step, hidden: Hidden, decision: Decision) -> torch.Tensor:
        """Hidden states of the computed rows behind the last DiT block. A manager that decides on the way looks at the
        walk's tokens, leaves blocks out (`jump`) or does not finish, and tells in `outcome` what it did."""
        return walk.finish()

    def merge(self, step: Step, hidden: Hidden, x_BAD: torch.Tensor, decision: Decision) -> torch.Tensor:
        """Hidden states of all tokens after the stack, from the rows that were computed."""
        return x_BAD

    def reuse(self, step: Step, hidden: Hidden) -> torch.Tensor:
        raise NotImplementedError(f"{type(self).__name__} never reuses a step")

    def commit(
        self, step: Step, decision: Decision, hidden: Hidden, x_out_BND: torch.Tensor, velocity: torch.Tensor
    ) -> None:
        """Called after every step that was not REUSE, with what it produced."""

    def outcome(self, decision: Decision) -> Decision:
        """The decision as it came out, for the trace: modes whose blocks decide say here what they did."""
        return decision

    def release(self) -> None:
        """Drop the cached tensors; `cache_bytes` and `notes` stay readable."""

    @property
    def cache_bytes(self) -> int:
        """Peak bytes of what this branch kept from step to step."""
        return 0

    def notes(self) -> dict[str, Any]:
        """Facts about the run that belong in its record (JSON values)."""
        return {}
