"""What a mode is: a decider and a cache under one name, with what the command line and the plan must know of both.

The decider says what each step computes: `plan`, a pure function of the schedule, or `lead`, which looks at the run
itself. The cache is the manager class that does it; the default, `StackResidual`, computes or reuses whole steps.

The command line reads every mode's settings, so importing the modes does not load torch: what computes with tensors
is imported where it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from hetcache.core.calibration import Calibration, load_calibration
from hetcache.core.conditions import Conditions, doubts
from hetcache.core.flops import ModelShape
from hetcache.core.lead import Decider, Lead, Planned
from hetcache.core.residual import StackResidual
from hetcache.core.vocabulary import Branch, CacheManager, Decision, Grid, Schedule

if TYPE_CHECKING:
    import torch

    from hetcache.core.tokens import Margin, TokenClasses


class NotPlannable(ValueError):  # noqa: N818 - reads as what it says at the raise
    """The decisions depend on the run's content, so there is no plan before it."""


@dataclass(frozen=True)
class RunContext:
    """What a mode may know about the run: the model's calibration (loaded on demand, so that a mode that needs none
    runs on any model), the tokens of the mask, None where there is none, and the run's token grid where it is known
    without one."""

    calibration: Callable[[], Calibration]
    tokens: TokenClasses | None
    grid: Grid | None = None

    @classmethod
    def of(
        cls,
        mask: torch.Tensor | TokenClasses | None,
        calibration: str | Callable[[], Calibration],
        margin_width: int | Margin | None = None,
        grid: Grid | None = None,
    ) -> RunContext:
        """`mask` is [T, H, W], bool or 0/1, on the device of the run; `calibration` a model's name or what loads one;
        `margin_width` the mode's own (`Mode.margin_width`). Raises ValueError for a mask of no latent grid."""
        from hetcache.core.tokens import TokenClasses, classify

        model_id = calibration
        load = (lambda: load_calibration(model_id, model=model_id)) if isinstance(model_id, str) else model_id
        if mask is not None and not isinstance(mask, TokenClasses):
            mask = classify(mask, margin_width)
        return cls(load, mask, grid if mask is None else mask.grid)

    @property
    def classes(self) -> TokenClasses:
        """The token classes. Raises ValueError in a run without a mask."""
        if self.tokens is None:
            raise ValueError("this run has no mask, so its tokens have no classes")
        return self.tokens

    @property
    def num_tokens(self) -> int:
        """Of a full step. Raises ValueError in a run of unknown size."""
        if self.grid is None:
            raise ValueError("neither a mask nor a size says how many tokens this run has")
        return self.grid.num_tokens

    def behind(self, reference_frames: int) -> RunContext:
        """This run behind as many latent frames of reference images."""
        if reference_frames == 0 or self.tokens is None:
            return self
        tokens = self.tokens.behind(reference_frames)
        return replace(self, tokens=tokens, grid=tokens.grid)


@dataclass(frozen=True)
class Dial:
    """The config field that trades quality for speed: higher never computes more, or never less where it is `falling`.
    `high` bounds the search of `--target-speedup`; `whole` says that only integers are allowed, as in every falling
    one."""

    field: str
    high: float
    low: float = 0.0
    whole: bool = False
    falling: bool = False


ManagerFactory = Callable[[Branch, Schedule], CacheManager]
"""Makes one branch's manager, complete, once the run's schedule is known."""

PlanRule = Callable[[Schedule, Any, RunContext, Branch], list[Decision]]
LeadRule = Callable[[Schedule, Any, RunContext], Lead | None]
MakeManager = Callable[[Decider, Branch], CacheManager]
CacheRule = Callable[[Any, RunContext], MakeManager]
PartialFlops = Callable[[Decision, Any, RunContext, ModelShape, int], int]
CacheBytes = Callable[[Any, ModelShape, int, int], int]
Settle = Callable[[Any, RunContext], Any]
CheckModel = Callable[[Any, ModelShape], None]
Lighter = Callable[[Any], Sequence[tuple[str, Any]]]

ONE_STEP = Schedule((1000.0,), {"e": (0.0,), "e0": (0.0,)})


def whole_steps(config: Any, context: RunContext) -> MakeManager:
    return StackResidual


def _no_lead(schedule: Schedule, config: Any, context: RunContext) -> Lead | None:
    return None


@dataclass(frozen=True)
class Mode:
    """One line of `--mode`. `config` is a frozen dataclass whose fields are the mode's flags; a preset is a mode with
    changed `defaults`.

    `plan(schedule, config, context, branch)`: every step's decision before the run, where the schedule alone tells;
    `lead(schedule, config, context)`: the content-aware decider of a video, None where this config is planned.
    `cache(config, context)` makes the managers of one video, `(decider, branch) -> CacheManager`.

    `dial` is what `--target-speedup` turns; `dial_by_config(config)` another one, where the config asks for it.
    `partial_flops(decision, config, context, shape, num_tokens)` is what a planned PARTIAL or BLOCKS step costs.
    `cache_bytes(config, shape, num_tokens, bytes_per_value)` is what a branch will keep, in the modes that can make do
    with less: `lighter(config)` lists (what is given up, the config without it), the mildest first.
    `margin_width(config)` is the width of the margin class in tokens, None for the grid's default; `needs_mask` says
    that nothing can be decided without those classes, but for configs that are `maskless`; `vace_on_reuse(config)` that
    the VACE blocks run on reused steps too. `batches` is False where each branch chooses tokens of its own, which one
    batch of both (`--cfg-batch`) cannot compute.

    `check_model(config, shape)` raises ValueError for a setting that a model of this shape cannot have.

    `settle(config, context)` puts the values published for this model where the config leaves them open;
    `calibrated(config)`, of a settled one, names the parts of the calibration that the plan is made from
    (`hetcache.core.conditions.doubts`). `outside(config)` says what lies outside the settings that its authors publish,
    "" where nothing does: such a row is no statement about their method.
    """

    name: str
    title: str
    paper: str
    config: type
    plan: PlanRule | None = None
    lead: LeadRule = _no_lead
    cache: CacheRule = whole_steps
    dial: Dial | None = None
    partial_flops: PartialFlops | None = None
    cache_bytes: CacheBytes | None = None
    lighter: Lighter = lambda config: ()
    margin_width: Callable[[Any], int | Margin | None] = lambda config: None
    needs_mask: bool = False
    maskless: Callable[[Any], bool] = lambda config: False
    vace_on_reuse: Callable[[Any], bool] = lambda config: False
    batches: bool = True
    check_model: CheckModel = lambda config, shape: None
    settle: Settle = lambda config, context: config
    calibrated: Callable[[Any], tuple[str, ...]] = lambda config: ()
    outside: Callable[[Any], str] = lambda config: ""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    dial_by_config: Callable[[Any], Dial | None] = lambda config: None

    def dial_of(self, config: Any) -> Dial | None:
        return self.dial_by_config(config) or self.dial

    def build(self, config: Any, context: RunContext) -> ManagerFactory:
        """The managers of one video. Raises ValueError where the mask or the calibration that it needs is missing:
        now, and not after the video was encoded."""
        self.check_mask(config, context)
        self.decider(ONE_STEP, config, context, Branch.COND)
        return VideoManagers(self, config, context)

    def check_mask(self, config: Any, context: RunContext) -> None:
        """Raises ValueError where the mode needs a mask and the run has none."""
        if self.needs_mask and context.tokens is None and not self.maskless(config):
            raise ValueError(f"--mode {self.name} works by the mask: give one, or use a mode that needs none")

    def doubts(self, config: Any, context: RunContext, run: Conditions, schedule: Schedule) -> list[str]:
        """Where the run lies outside what its calibration was measured on: a sentence a part, with the remedy. Raises
        ValueError where no plan can be made for the run at all: now, and not after the video was encoded."""
        config = self.settle(config, context)
        if self.plan is not None:
            with suppress(NotPlannable):
                self.plan(schedule, config, context, Branch.COND)
        parts = dict.fromkeys(self.calibrated(config))
        return [doubt for part in parts for doubt in doubts(context.calibration(), part, run, schedule.rel_l1)]

    def decider(self, schedule: Schedule, config: Any, context: RunContext, branch: Branch) -> Decider:
        """The branch's own plan, or a lead for both branches."""
        lead = self.lead(schedule, config, context)
        if lead is not None:
            return lead
        return Decider() if self.plan is None else Planned(self.plan(schedule, config, context, branch))


class VideoManagers:
    """A `ManagerFactory`: plans once per branch, makes one lead, and gives each to the managers. The tokens are counted
    from behind the schedule's reference images."""

    def __init__(self, mode: Mode, config: Any, context: RunContext) -> None:
        self._mode = mode
        self._config = config
        self._context = context
        self._make = mode.cache(config, context)
        self._reference_frames = 0
        self._lead: Lead | None = None

    def __call__(self, branch: Branch, schedule: Schedule) -> CacheManager:
        mode = self._mode
        if schedule.reference_frames != self._reference_frames:
            self._reference_frames = schedule.reference_frames
            self._make = mode.cache(self._config, self._context.behind(self._reference_frames))
        decider = self._lead or mode.decider(schedule, self._config, self._context, branch)
        if isinstance(decider, Lead):
            self._lead = decider
        manager = self._make(decider, branch)
        manager.vace_on_reuse = mode.vace_on_reuse(self._config)
        return manager
