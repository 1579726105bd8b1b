"""The flags of `evaluation.py quality` and `vbench`, as values."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from hetcache.evaluation.pairs import Job, Matching, match_folders
from hetcache.evaluation.vbench import DEFAULT_DIMENSIONS
from hetcache.media.options import Timing
from hetcache.metrics.errors import MetricError
from hetcache.metrics.metric import Metric
from hetcache.metrics.regions import DEFAULT_SEAM_PX
from hetcache.metrics.registry import chosen, families


@dataclass(frozen=True)
class QualityRequest:
    """What to compare with what, by which metrics, and where to write it."""

    pred: Path | None
    gt: Path | None
    reference: Path | None
    mask: Path | None
    pred_dir: Path | None
    gt_dir: Path | None
    reference_dir: Path | None
    mask_dir: Path | None
    method: str | None
    metrics: Sequence[str] | None
    vmaf: bool
    target_frames: int
    i3d_checkpoint: Path | None
    lpips_net: str
    lpips_weights: str | None
    resize: str | None
    seam_px: int
    mask_timing: Timing
    batch_frames: int
    device: str
    output: Path | None
    csv: Path | None

    @property
    def asked(self) -> set[str]:
        """The families of metrics to measure."""
        return set(self.metrics or families(by_default=True)) | ({"vmaf"} if self.vmaf else set())

    def jobs(self) -> tuple[bool, Matching]:
        """Whether one pair was named, and what there is to do; MetricError for flags that do not go together."""
        one = any((self.pred, self.gt, self.reference, self.mask))
        if one == any((self.pred_dir, self.gt_dir, self.reference_dir, self.mask_dir)):
            raise MetricError(
                "give either --pred with --gt or --reference, or --pred-dir with --gt-dir or --reference-dir"
            )
        if one:
            against = {role: path for role, path in (("gt", self.gt), ("reference", self.reference)) if path}
            if self.pred is None or not against:
                raise MetricError("one video needs --pred, and --gt, --reference or both to compare it with")
            if self.method or self.i3d_checkpoint:
                raise MetricError("--method and --i3d-checkpoint go with --pred-dir: leave them out for one video")
            return True, Matching(jobs=[Job(self.pred.stem, self.pred, against, self.mask)])
        if self.pred_dir is None:
            raise MetricError("--pred-dir is missing: the folder of the videos to judge")
        return False, match_folders(self.pred_dir, self.gt_dir, self.reference_dir, self.mask_dir, self.method)


@dataclass(frozen=True)
class VBenchRequest:
    """Which videos VBench is to score, where it is, and where to write it."""

    pred_dir: Path
    method: str | None
    vbench_script: Path
    conda_env: str | None
    dimensions: Sequence[str]
    vbench_output: Path
    output: Path | None


def parse(description: str, argv: Sequence[str] | None = None) -> QualityRequest | VBenchRequest:
    """What is asked for; argparse ends the program for flags that cannot be read."""
    given = vars(_build_parser(description).parse_args(argv))
    return QualityRequest(**given) if given.pop("command") == "quality" else VBenchRequest(**given)


def _build_parser(description: str) -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="evaluation.py", description=description, formatter_class=raw)
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
    timing = "a mask of another frame rate: as an edit takes it (%(default)s), frame by frame, or by time"
    what.add_argument("--mask-timing", choices=get_args(Timing), default="auto", help=timing)
    what.add_argument("--batch-frames", type=_count(1), default=8, metavar="N", help="frames decoded at a time (8)")
    what.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 ... (auto: cuda if there is one)")
    files = parser.add_argument_group("files to write")
    files.add_argument("--output", type=Path, metavar="FILE", help="everything, as JSON")
    files.add_argument("--csv", type=Path, metavar="FILE", help="the rows of the table, as CSV")


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
    names = DEFAULT_DIMENSIONS
    dimensions = f"VBench's dimensions (default: {' '.join(names)})"
    parser.add_argument("--dimensions", nargs="+", default=names, metavar="NAME", help=dimensions)
    files = Path("vbench_results")
    parser.add_argument("--vbench-output", type=Path, default=files, metavar="DIR", help="VBench's files (%(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write everything here, as JSON")


def _count(least: int) -> Callable[[str], int]:
    """An argparse type: a whole number from `least` on."""

    def whole_number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be {least} or more, not {value}")
        return value

    return whole_number
