"""The plan of what is on screen, before it runs: every step's decision, its FLOPs, and how long that takes here."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any

from hetcache.core.mode import NotPlannable
from hetcache.core.vocabulary import Branch
from hetcache.modes import MODES
from hetcache.modes.planning import RunPlan, branches_of, call_flops, find_setting, plan_run
from hetcache.queue.job import span
from hetcache.queue.store import Queue
from hetcache.report.timeline import Timeline, timelines_html
from hetcache.run.editor import Editor
from hetcache.run.exact import exact_plan
from hetcache.run.job import Job, prepare
from hetcache.run.options import Request
from hetcache.run.output import Outputs
from hetcache.run.studio import Studio
from hetcache.run.task import as_task

KEPT_JOBS = 4
UNPLANNED: dict[str, Any] = {"target_speedup": None, "quality": None, "seconds": None, "planner": "auto"}
"""A job is the same whatever plan is asked of it."""


@dataclass(frozen=True)
class Pace:
    """How fast this machine computes: `s_per_flop` in the denoising loop, `around_s` for all else of a window, without
    filling from other frames unless a whole job was measured (`is_whole`)."""

    s_per_flop: float
    around_s: float
    is_whole: bool = False


@dataclass(frozen=True)
class Outlook:
    """What to expect: the plan as HTML and in words. `speedup` is that of the denoising loop by FLOPs, None where
    there is no plan beforehand; `is_timed` says whether the words tell the time or it is still to be measured."""

    html: str
    words: str
    speedup: float | None = None
    is_timed: bool = True


class Planner:
    """Plans requests with a model that it holds: the embedded one, which costs next to nothing. Other models are held
    by the worker alone. All methods may be called from any thread; one plan is made at a time."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._lock = threading.Lock()
        self._studio = Studio()
        self._jobs: OrderedDict[Any, Job] = OrderedDict()
        self._paces: dict[Any, Pace] = {}

    def outlook(self, request: Request, measure: bool = True) -> Outlook:
        """With the time if it is known, or with `measure` by computing one step. Raises ValueError for a request that
        could not run."""
        with self._lock:
            # What the model is shown under the mask changes no decision, and finding it in other frames takes long.
            cheap = request if request.input.keep_seen else replace(request, edit=replace(request.edit, fill="grey"))
            job = self._job(cheap)
            if not job.clip.source_mask_THW.any():
                return Outlook("", "The mask is empty in these frames: nothing would be edited.")
            if job.info.family != "tiny":
                return Outlook(
                    "", f"The plan of {job.info.model_id} is made when the job begins; its log and its page show it."
                )
            try:
                return self._planned(request, job, measure)
            except NotPlannable as error:
                return Outlook("", f"No plan beforehand: {error}")

    def _planned(self, request: Request, job: Job, measure: bool) -> Outlook:
        editor = Editor(job, self._studio)
        config, mode = request.config, request.mode
        context = job.context(config)
        schedule, shape = editor.schedule
        branches = branches_of(job.settings.cfg_scale)
        target, wish = request.output.target_speedup, request.output.wish
        if wish is not None:
            if wish.seconds is not None and not measure:
                raise NotPlannable("the steps are timed first")
            found = exact_plan(job, wish, editor, config, context)
            config, plan = found.config, found.plan
        elif target is None:
            plan = plan_run(mode, config, context, schedule, shape, branches)
        else:
            config, plan = find_setting(mode, config, target, context, schedule, shape, branches)
        fills = _fills(request, job)
        pace = self._pace(job, editor, fills, measure)
        steps = []
        for index, decision in enumerate(plan.decisions[Branch.COND]):
            flops = call_flops(decision, mode, config, context, shape)
            steps.append(
                {
                    "step": index,
                    "timestep": schedule.timesteps[index],
                    "branch": "cond",
                    "compute": decision.compute.name.lower(),
                    "reason": decision.reason,
                    "signal": decision.signal,
                    "threshold": decision.threshold,
                    "tokens": context.classes.num_tokens,
                    "flops": flops,
                }
            )
        full = plan.flops_uncached / (len(branches) * max(len(steps), 1))
        html = timelines_html([Timeline("plan", _counts(plan), steps, full)])
        return Outlook(html, _words(plan, job, pace, fills), plan.speedup, pace is not None)

    def _job(self, request: Request) -> Job:
        """The request prepared; what was asked lately is not read again."""
        key = repr(replace(request, words=(), output=replace(request.output, **UNPLANNED)))
        if key not in self._jobs:
            self._jobs[key] = prepare(request, Outputs.of(request))
            while len(self._jobs) > KEPT_JOBS:
                self._jobs.popitem(last=False)
        self._jobs.move_to_end(key)
        return self._jobs[key]

    def _pace(self, job: Job, editor: Editor, fills: bool, measure: bool) -> Pace | None:
        """By the last such job that the queue has finished, else by one full step on this very clip, which is computed
        if `measure` says so."""
        known = self._finished_pace(job, fills)
        if known is not None:
            return known
        key = job.info.model_id, job.clip.size, job.clip.num_frames
        if key not in self._paces and measure:
            baseline = MODES["baseline"]
            settings = replace(job.settings, num_steps=1)
            context = job.context(job.config)
            result = editor.edit(job.clip, baseline, baseline.config(), context, settings, "pace")
            stage_ms = result.session.stage_ms
            flops = sum(record.flops for record in result.session.trace.records)
            around_s = (sum(stage_ms.values()) - stage_ms["denoise"]) / 1e3
            self._paces[key] = Pace(stage_ms["denoise"] / 1e3 / max(flops, 1), around_s)
        return self._paces.get(key)

    def _finished_pace(self, job: Job, fills: bool) -> Pace | None:
        for done in reversed(self._queue.jobs()):
            if done.standing.state != "done":
                continue
            try:
                record = json.loads(done.video.with_suffix(".json").read_text(encoding="utf-8"))
                if record["model"] != job.info.model_id or "compare" in record or "windows" in record:
                    continue
                config, size = record["config"], job.clip.size
                if (config["height"], config["width"], config["frames"]) != (*size, job.num_frames):
                    continue
                if fills is not (
                    config["fill"] == "propagate" or (config["fill"], job.info.fill) == ("auto", "propagate")
                ):
                    continue
                times = record["timing_s"]
                around_s = times["total"] - times["denoise"] - times["load"]
                return Pace(times["denoise"] / record["flops"]["run"], around_s, True)
            except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
                continue
        return None


def _counts(plan: RunPlan) -> str:
    letters = plan.string(Branch.COND)
    return " ".join(f"{letters.count(letter)}{letter}" for letter in "FPR" if letter in letters)


def _fills(request: Request, job: Job) -> bool:
    """Whether the run looks at other frames for what to show under the mask."""
    asked = as_task(request).edit.fill
    return (job.info.fill if asked == "auto" else asked) == "propagate"


def _words(plan: RunPlan, job: Job, pace: Pace | None, fills: bool) -> str:
    windows = len(job.windows)
    tera = plan.flops_run * windows / 1e12
    of = plan.flops_uncached * windows / 1e12
    several = f" in {windows} windows" if windows > 1 else ""
    work = f"{plan.speedup:.1f}x fewer FLOPs than every step in full ({tera:.3g} of {of:.3g} TFLOPs{several})"
    if pace is None:
        return f"{work}; the time is being measured"
    more = ", and the filling from other frames" if fills and not pace.is_whole else ""
    return f"{work}, about {span(windows * (plan.flops_run * pace.s_per_flop + pace.around_s))} here{more}"
