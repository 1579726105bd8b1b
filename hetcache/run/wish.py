"""What is asked of the plan of a run: to be shown, and to reach a speed-up, a quality or a time."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from hetcache.core.settings import flag_of, refused, setting
from hetcache.files import UserError

MOST_DB = 80.0
"""Of --quality; calibration counts runs that are closer than this as equal."""


@dataclass(frozen=True)
class Wish:
    """What an exact plan is asked for: one of these."""

    target_speedup: float | None = None
    quality: float | None = None
    seconds: float | None = None


WISHES = tuple(item.name for item in fields(Wish))
"""Of which a plan is asked for one."""


@dataclass(frozen=True)
class Planning:
    """Flags of a run's plan."""

    plan: bool = setting(False, "print the decision of every step and the expected speed-up without running the model")
    target_speedup: float | None = setting(
        None,
        "choose the mode's threshold so that the denoising loop does X times less work (static schedules)",
        shown="",
        metavar="X",
    )
    quality: float | None = setting(
        None,
        "plan the fewest FLOPs with which the edit is, in nine of ten runs like calibration's, so close to the "
        "uncached one: PSNR in the mask (hetcache; needs error tables, python -m hetcache.calibrate --errors)",
        shown="",
        metavar="DB",
    )
    seconds: float | None = setting(
        None,
        "plan the least error for so many seconds of denoising; the steps are timed on this machine first (hetcache)",
        shown="",
        metavar="S",
    )
    planner: Literal["auto", "threshold", "exact"] = setting(
        "auto",
        "how --target-speedup is reached: by the mode's threshold, or by the sequence of steps with the least "
        "predicted error (hetcache); auto is threshold there, --quality and --seconds are exact",
    )

    def __post_init__(self) -> None:
        """One thing is asked of a plan."""
        if self.target_speedup is not None and self.target_speedup < 1:
            raise refused(self, "target_speedup", "at least 1")
        asked = [name for name in WISHES if getattr(self, name) is not None]
        if len(asked) > 1:
            flags = " and ".join(flag_of(self, name) for name in asked)
            raise UserError(f"{flags} ask for different plans: give one of them")
        for name in ("quality", "seconds"):
            if getattr(self, name) is None:
                continue
            if getattr(self, name) <= 0:
                raise refused(self, name, "greater than 0")
            if name == "quality" and getattr(self, name) > MOST_DB:
                raise refused(self, name, f"at most {MOST_DB:g} dB: beyond, only the rounding of pixels differs")
            if self.planner == "threshold":
                raise UserError(f"{flag_of(self, name)} needs predicted errors: leave --planner threshold out")
        if self.planner != "auto" and not asked:
            raise UserError("--planner says how a plan is found: give --target-speedup, --quality or --seconds with it")

    @property
    def wish(self) -> Wish | None:
        """What an exact plan is asked for; None where a threshold decides."""
        if self.quality is None and self.seconds is None and self.planner != "exact":
            return None
        return Wish(self.target_speedup, self.quality, self.seconds)
