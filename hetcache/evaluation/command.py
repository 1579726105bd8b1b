"""How good are edited videos? `quality` compares them with other videos, `vbench` scores them without any.

python evaluation.py quality --gt data/real.mp4 --pred data/test_hetcache.mp4
python evaluation.py quality --gt-dir GT --pred-dir PRED --method hetcache --output results.json
python evaluation.py vbench --pred-dir PRED --method hetcache --vbench-script VBench/evaluate.py \\
    --conda-env vbench

Exit code: 0 all measured; 1 some videos, dimensions or named weights failed and are listed; 2 nothing could
be measured, for the reason on the last line.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from hetcache.evaluation import report
from hetcache.evaluation import vbench as vbench_runner
from hetcache.evaluation.compare import Settings
from hetcache.evaluation.pairs import Job, Matching, match_folders
from hetcache.evaluation.quality import evaluate, load_models, one_line, resolve_device
from hetcache.evaluation.videos import parse_resize
from hetcache.files import write_json, write_text
from hetcache.metrics.errors import MetricError
from hetcache.metrics.metric import Choices, Metric, SetMetric
from hetcache.metrics.regions import DEFAULT_SEAM_PX
from hetcache.metrics.registry import chosen, families


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand; see the module's docstring for the exit codes."""
    args = build_parser().parse_args(argv)
    try:
        return int(args.run(args))
    except (ValueError, OSError) as error:
        print(f"evaluation {args.command}: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    """The command line; `args.run` is the subcommand's function."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="evaluation.py", description=__doc__, formatter_class=raw)
    commands = parser.add_subparsers(dest="command", required=True)
    titles = ", ".join(metric.title for metric in chosen(Metric) if metric.title)
    quality_text = f"{titles}: edited videos against other videos"
    _add_quality(commands.add_parser("quality", help=quality_text, description=quality_text))
    vbench_text = "VBench's no-reference dimensions of edited videos, by VBench itself"
    _add_vbench(commands.add_parser("vbench", help=vbench_text, description=vbench_text))
    return parser


def _add_quality(parser: argparse.ArgumentParser) -> None:
    pair = parser.add_argument_group("one video")
    pair.add_argument("--pred", type=Path, metavar="FILE", help="the edited video")
    pair.add_argument("--gt", type=Path, metavar="FILE", help="the source video (the paper's figures)")
    pair.add_argument("--reference", type=Path, metavar="FILE", help="the uncached output of the same seed")
    pair.add_argument("--mask", type=Path, metavar="FILE", help="measure inside it, along its seam and outside too")
    batch = parser.add_argument_group("many videos, paired by name: a.mp4 with a.mp4 or a_METHOD.mp4")
    for name in ("pred", "gt", "reference", "mask"):
        batch.add_argument(f"--{name}-dir", type=Path, metavar="DIR", help=f"folder in the place of --{name}")
    batch.add_argument("--method", metavar="NAME", help="the ending of the predictions' names")
    what = parser.add_argument_group("what to measure, and how")
    what.add_argument("--metrics", nargs="+", choices=families(), metavar="NAME", help=_about_metrics())
    what.add_argument("--vmaf", action="store_true", help="VMAF too")
    what.add_argument("--target-frames", type=_count(2), default=8, metavar="N", help="frames I3D sees of a video (8)")
    what.add_argument("--i3d-checkpoint", type=Path, metavar="FILE", help="I3D weights, such as i3d_rgb_imagenet.pt")
    what.add_argument("--lpips-net", choices=("alex", "vgg"), default="alex", help="LPIPS trunk (%(default)s)")
    what.add_argument("--lpips-weights", metavar="FILE", help="trunk, or torchvision to let torchvision download it")
    resize = "allow different sizes: compare at the size of pred (the default), gt, reference, or at WxH"
    what.add_argument("--resize", nargs="?", const="pred", metavar="TO", help=resize)
    what.add_argument("--seam-px", type=_count(0), default=DEFAULT_SEAM_PX, metavar="N", help="seam, pixels a side (8)")
    what.add_argument("--batch-frames", type=_count(1), default=8, metavar="N", help="frames decoded at a time (8)")
    what.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 ... (auto: cuda if there is one)")
    files = parser.add_argument_group("files to write")
    files.add_argument("--output", type=Path, metavar="FILE", help="everything, as JSON")
    files.add_argument("--csv", type=Path, metavar="FILE", help="the rows of the table, as CSV")
    parser.set_defaults(run=quality)


def _about_metrics() -> str:
    """The names that `--metrics` takes, those that are not measured by default, and those that give several figures."""
    extra = [family for family in families() if family not in families(by_default=True)]
    several = []
    for family in families():
        titles = [metric.title for metric in chosen(Metric, [family]) if metric.title]
        if len(titles) > 1:
            several.append(f"{family} is {' and '.join(titles)}")
    return f"of: {' '.join(families())} (default: all but {' '.join(extra)}; {'; '.join(several)})"


def _add_vbench(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pred-dir", type=Path, required=True, metavar="DIR", help="folder of the edited videos")
    parser.add_argument("--method", metavar="NAME", help="score only the videos whose names end in _NAME")
    parser.add_argument("--vbench-script", type=Path, required=True, metavar="FILE", help="VBench's evaluate.py")
    parser.add_argument("--conda-env", metavar="NAME", help="VBench's conda environment (default: this Python)")
    names = vbench_runner.DEFAULT_DIMENSIONS
    dimensions = f"VBench's dimensions (default: {' '.join(names)})"
    parser.add_argument("--dimensions", nargs="+", default=names, metavar="NAME", help=dimensions)
    files = Path("vbench_results")
    parser.add_argument("--vbench-output", type=Path, default=files, metavar="DIR", help="VBench's files (%(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write everything here, as JSON")
    parser.set_defaults(run=vbench)


def _count(least: int) -> Callable[[str], int]:
    """An argparse type: a whole number from `least` on."""

    def whole_number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be {least} or more, not {value}")
        return value

    return whole_number


def quality(args: argparse.Namespace) -> int:
    """The `quality` subcommand."""
    report.check_targets([args.output, args.csv])
    parse_resize(args.resize)
    single, matching = _jobs(args)
    asked = set(args.metrics or families(by_default=True)) | ({"vmaf"} if args.vmaf else set())
    sets = {metric.asked for metric in chosen(SetMetric)}
    if single:
        asked -= sets
    settings = Settings(
        target_frames=args.target_frames, resize=args.resize, seam_px=args.seam_px, batch_frames=args.batch_frames,
        device=resolve_device(args.device),
    )  # fmt: skip
    choices = Choices(settings.device, args.lpips_net, args.lpips_weights, args.i3d_checkpoint)
    ready, result = load_models(asked, choices)
    for family in sets.intersection(args.metrics or ()) if single else ():
        result.missing[family] = "A distance between sets of clips needs several videos: use --gt-dir and --pred-dir"
    if not ready:
        raise MetricError(f"nothing can be measured. {' '.join(result.missing.values())}")
    result.failures += matching.failures
    with tqdm(unit="frame", disable=None) as bar:

        def progress(name: str, done: int, total: int) -> None:
            if done <= bar.n or total != bar.total:
                bar.reset(total)
            bar.set_description(name)
            bar.update(done - bar.n)

        evaluate(matching.jobs, settings, ready, result, progress)
    if single and result.failures:
        raise MetricError(result.failures[0][1])
    if result.results:
        print(report.table(result))
    print(report.notes(matching.unmatched, result.warnings, result.failures), end="", file=sys.stderr)
    parameters = {key: value for key, value in vars(args).items() if key not in ("run", "command")}
    parameters |= {"metrics": sorted(asked), "device": settings.device}
    if args.output:
        write_json(args.output, report.document(result, parameters, matching.unmatched))
    if args.csv:
        write_text(args.csv, report.to_csv(result))
    if not result.results:
        raise MetricError(f"nothing could be measured: none of {len(result.failures)} pairs, for the reasons above")
    named = {"lpips": args.lpips_weights, "vfid": args.i3d_checkpoint}
    return 1 if result.failures or any(named.get(metric) for metric in result.missing) else 0


def vbench(args: argparse.Namespace) -> int:
    """The `vbench` subcommand."""
    report.check_targets([args.output])
    with tqdm(total=len(args.dimensions), unit="dimension", disable=None) as bar:

        def progress(dimension: str) -> None:
            bar.set_description(dimension)
            bar.update()

        run = vbench_runner.run_vbench(
            args.pred_dir, args.vbench_script, args.vbench_output, args.method, args.conda_env,
            args.dimensions, progress,
        )  # fmt: skip
    if run.scores:
        rows = [["dimension", "score"], *([name, f"{score:.4f}"] for name, score in run.scores.items())]
        print(f"VBench, {len(run.videos)} videos\n{report.align(rows)}")
    print(report.notes({}, run.warnings, list(run.errors.items())), end="", file=sys.stderr)
    parameters = {key: value for key, value in vars(args).items() if key not in ("run", "command")}
    if args.output:
        write_json(args.output, vbench_runner.document(run, parameters))
    if not run.scores:
        raise MetricError("nothing could be measured: every dimension failed, for the reasons above")
    return 1 if run.errors else 0


def _jobs(args: argparse.Namespace) -> tuple[bool, Matching]:
    """Whether one pair was named, and what there is to do; MetricError for flags that do not go together."""
    files, folders = ("pred", "gt", "reference", "mask"), ("pred_dir", "gt_dir", "reference_dir", "mask_dir")
    given = [bool([name for name in names if getattr(args, name)]) for names in (files, folders)]
    if given[0] == given[1]:
        raise MetricError("give either --pred with --gt or --reference, or --pred-dir with --gt-dir or --reference-dir")
    if given[0]:
        against = {role: getattr(args, role) for role in ("gt", "reference") if getattr(args, role)}
        if args.pred is None or not against:
            raise MetricError("one video needs --pred, and --gt, --reference or both to compare it with")
        if args.method or args.i3d_checkpoint:
            raise MetricError("--method and --i3d-checkpoint go with --pred-dir: leave them out for one video")
        return True, Matching(jobs=[Job(args.pred.stem, args.pred, against, args.mask)])
    if args.pred_dir is None:
        raise MetricError("--pred-dir is missing: the folder of the videos to judge")
    return False, match_folders(args.pred_dir, args.gt_dir, args.reference_dir, args.mask_dir, args.method)


if __name__ == "__main__":
    sys.exit(main())
