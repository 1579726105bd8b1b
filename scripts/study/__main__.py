"""Curves of every method over clips, seeds and lengths, with intervals by clip.

    python -m scripts.study --output outputs/study
    python -m scripts.study --output outputs/study --videos DIR --masks DIR --clips pan real mine
    python -m scripts.study --output outputs/study --report --publish docs/benchmarks/study

Stop it at any moment, also with `kill -9`; the same command goes on. `--report` writes what is finished. It runs on the
embedded model on a CPU; `OMP_NUM_THREADS=1 nice -n 10` leaves the machine to others.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from hetcache.core.facts import facts_of_code
from hetcache.files import sole_holder
from scripts.study.report import write_report
from scripts.study.study import Asked, Study, say
from scripts.study.sweeps import chosen_sweeps, known_sweeps


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--output", type=Path, default=Path("outputs/study"), help="folder of clips and finished runs")
    made.add_argument("--videos", type=Path, help="folder of videos of your own, beside the generated ones")
    made.add_argument("--masks", type=Path, help="folder of their masks, NAME.* or NAME_mask.* (default: --videos)")
    made.add_argument("--clips", nargs="+", default=[], help="names of clips (default: all)")
    made.add_argument("--curves", nargs="+", default=[], help=f"of {', '.join(known_sweeps())} (default: all)")
    made.add_argument(
        "--from-point",
        type=int,
        default=1,
        help="leave out the points of a curve before this one: the first, at 2x, costs two fifths of all (default 1)",
    )
    made.add_argument("--frames", nargs="+", type=int, default=[33, 9, 17], help="lengths, 4k+1, in this order")
    made.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    made.add_argument("--height", type=int, default=112)
    made.add_argument("--width", type=int, default=192)
    made.add_argument("--steps", type=int, default=50)
    made.add_argument("--minutes", type=float, default=1e6, help="begin no clip and seed after so many")
    made.add_argument("--report", action="store_true", help="run nothing, write the report of what is finished")
    made.add_argument("--publish", type=Path, metavar="DIR", help="also write the report under dated names here")
    return made


def asked(args: argparse.Namespace) -> Asked:
    """Raises ValueError for curves that are not known."""
    folders = None if args.videos is None else (args.videos, args.masks or args.videos)
    return Asked(
        args.output,
        tuple(sweep.from_point(args.from_point) for sweep in chosen_sweeps(args.curves)),
        folders,
        tuple(args.clips),
        tuple(args.frames),
        tuple(args.seeds),
        (args.height, args.width),
        args.steps,
    )


def main(argv: list[str] | None = None) -> int:
    """0 when all is finished, 1 when runs failed, 2 for what cannot be run, 130 after Ctrl-C."""
    words = sys.argv[1:] if argv is None else argv
    args = parser().parse_args(words)
    try:
        study = Study(asked(args))
        args.output.mkdir(parents=True, exist_ok=True)
        taken = f"--output {args.output}: another study is writing it"
        failed = 0
        if not args.report:
            say(f"code {facts_of_code()}, {len(study.cases)} clips: {', '.join(case.name for case in study.cases)}")
            with sole_holder(args.output / ".lock", taken):
                failed = study.run(args.minutes)
        for path in write_report(study, shlex.join(["python", "-m", "scripts.study", *words]), args.publish):
            say(str(path))
    except KeyboardInterrupt:
        say("interrupted; the same command goes on")
        return 130
    except (ValueError, OSError) as error:
        print(f"study: error: {error}", file=sys.stderr)
        return 2
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
