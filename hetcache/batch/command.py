"""The command `inference.py batch`: read the manifest, skip what is finished, run the rest, say what failed."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from hetcache.batch.options import BatchOptions, BatchRequest, parse_batch
from hetcache.batch.schedule import DONE, FAILED, RUNNING, SKIPPED, WAITING, Schedule
from hetcache.core.terminal import complain, say, take_any_character
from hetcache.files import UserError, write_json

if TYPE_CHECKING:
    from hetcache.batch.pool import Pool

PROGRAM = "inference.py batch"
SCHEMA = 1


def main(argv: Sequence[str]) -> int:
    """Exit code 0 when every job is done, 1 when some failed, 2 for a batch that cannot be run, 130 after Ctrl-C."""
    take_any_character()
    try:
        return run_batch(parse_batch(argv))
    except KeyboardInterrupt:
        complain(f"\n{PROGRAM}: interrupted")
        return 130
    except (ValueError, OSError) as error:
        complain(f"{PROGRAM}: error: {error}")
        return 2


def run_batch(request: BatchRequest) -> int:
    """See `main`."""
    from hetcache.batch.manifest import RESULTS, read_tasks
    from hetcache.batch.runner import check_out, is_finished, tidy
    from hetcache.batch.storage import join

    tasks = read_tasks(request.jobs, request.out, request.defaults)
    check_out(request.out)
    bar = BatchBar(len(tasks))
    schedule = Schedule(tasks, request.options.retries, lambda: bar.show(schedule))
    schedule.skip_finished(is_finished)
    is_interrupted = False
    try:
        if any(job.state == WAITING for job in schedule.jobs):
            with make_pool(request.options, prompts_of(schedule)) as pool:
                schedule.run(pool)
    except KeyboardInterrupt:
        is_interrupted = True
    finally:
        bar.close()
        for job in schedule.jobs:
            if job.state in (RUNNING, FAILED) and job.tries:
                tidy(job.task)
            if job.state == RUNNING and is_finished(job.task):
                job.state = DONE
        results = join(request.out, f"{RESULTS}.json")
        write_results(results, schedule)
    tell(schedule, results)
    if is_interrupted:
        complain(f"{PROGRAM}: interrupted; the same command goes on with what is not done")
        return 130
    return 1 if any(job.state == FAILED for job in schedule.jobs) else 0


def prompts_of(schedule: Schedule) -> list[str]:
    """All prompts of the jobs to come, for a worker that loads its text encoder once. Those that a model gives itself
    are asked for with its first job."""
    from hetcache.cli import RaisingParser, parse

    found: dict[str, None] = {}
    for job in schedule.jobs:
        if job.state == WAITING:
            edit = parse(job.task.words, kind=RaisingParser).edit
            found |= dict.fromkeys(prompt for prompt in (edit.prompt, edit.negative_prompt) if prompt is not None)
    return list(found)


def make_pool(options: BatchOptions, prompts: Sequence[str]) -> AbstractContextManager[Pool]:
    """Raises UserError for GPUs that are not there."""
    if options.ray is not None:
        from hetcache.batch.ray_pool import RayPool

        return RayPool(options.ray, options.workers, options.gpus, prompts)
    from hetcache.batch.local_pool import LocalPool

    return LocalPool(environments(options), prompts)


def environments(options: BatchOptions) -> list[Mapping[str, str]]:
    """One a worker. Raises UserError for more GPUs than there are."""
    import torch

    there = torch.cuda.device_count()
    if options.workers is not None or (options.gpus is None and there == 0):
        return [{"CUDA_VISIBLE_DEVICES": ""}] * (options.workers or 1)
    wanted = there if options.gpus is None else options.gpus
    if wanted > there:
        raise UserError(f"--gpus {wanted}: this machine has {there}; on a CPU use --workers")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(index) for index in range(there)]
    return [{"CUDA_VISIBLE_DEVICES": name} for name in names[:wanted]]


class BatchBar:
    """One bar for the batch: jobs that need no more work, and where each running one is."""

    def __init__(self, num_jobs: int) -> None:
        self._bar = tqdm(
            total=num_jobs,
            unit="job",
            file=sys.stderr,
            dynamic_ncols=True,
            bar_format="{n}/{total} jobs|{bar:20}| [{elapsed}<{remaining}] {desc}",
        )

    def show(self, schedule: Schedule) -> None:
        states = [job.state for job in schedule.jobs]
        self._bar.n = sum(state not in (WAITING, RUNNING) for state in states)
        running = ", ".join(
            f"{job.task.name} {job.step[0]}/{job.step[1]}" if job.step[1] else job.task.name
            for job in schedule.jobs
            if job.state == RUNNING
        )
        failed = states.count(FAILED)
        self._bar.set_description_str((f"{failed} failed; " if failed else "") + running)

    def close(self) -> None:
        self._bar.close()


def results_json(schedule: Schedule) -> dict[str, Any]:
    """What the file of results holds: counts, and every job in the manifest's order."""
    jobs = [job.to_json() for job in schedule.jobs]
    counts = {state: sum(job["state"] == state for job in jobs) for state in (DONE, SKIPPED, FAILED, WAITING)}
    return {"schema": SCHEMA, "counts": counts, "jobs": jobs}


def write_results(place: str, schedule: Schedule) -> None:
    import tempfile

    from hetcache.batch.storage import deliver, is_url

    if not is_url(place):
        write_json(place, results_json(schedule))
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "results.json")
        write_json(file, results_json(schedule))
        deliver(file, place)


def tell(schedule: Schedule, results: str) -> None:
    """The counts, and a line for each job that failed."""
    counts = results_json(schedule)["counts"]
    say(", ".join(f"{count} {state}" for state, count in counts.items() if count) + f"; see {results}")
    for job in schedule.jobs:
        if job.state == FAILED:
            say(f"  job {job.task.index} ({job.task.name}): {job.error}")
