"""How good are edited videos? `quality` compares them with other videos, `vbench` scores them without any.

python evaluation.py quality --gt data/real.mp4 --pred data/test_hetcache.mp4
python evaluation.py quality --gt-dir GT --pred-dir PRED --method hetcache --output results.json
python evaluation.py vbench --pred-dir PRED --method hetcache --vbench-script VBench/evaluate.py \\
    --conda-env vbench

Exit code: 0 all measured; 1 some videos, dimensions or named weights failed and are listed; 2 nothing could
be measured, for the reason on the last line.
"""

from __future__ import annotations

import sys
from dataclasses import fields
from typing import Any

from tqdm import tqdm

from hetcache.core.terminal import complain, say
from hetcache.evaluation import report
from hetcache.evaluation import vbench as vbench_runner
from hetcache.evaluation.compare import Settings
from hetcache.evaluation.options import QualityRequest, VBenchRequest, parse
from hetcache.evaluation.quality import evaluate, load_models, one_line, resolve_device
from hetcache.evaluation.videos import parse_resize
from hetcache.files import write_json, write_text
from hetcache.metrics.errors import MetricError
from hetcache.metrics.metric import Choices, SetMetric
from hetcache.metrics.registry import chosen


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand; see the module's docstring for the exit codes."""
    assert __doc__ is not None
    request = parse(__doc__, argv)
    name = "quality" if isinstance(request, QualityRequest) else "vbench"
    try:
        return quality(request) if isinstance(request, QualityRequest) else vbench(request)
    except (ValueError, OSError) as error:
        complain(f"evaluation {name}: {one_line(error)}")
        return 2
    except KeyboardInterrupt:
        complain("interrupted")
        return 130


def quality(request: QualityRequest) -> int:
    """The `quality` subcommand."""
    report.check_targets([request.output, request.csv])
    parse_resize(request.resize)
    single, matching = request.jobs()
    asked = request.asked
    sets = {metric.asked for metric in chosen(SetMetric)}
    if single:
        asked -= sets
    settings = Settings(
        target_frames=request.target_frames,
        resize=request.resize,
        seam_px=request.seam_px,
        mask_timing=request.mask_timing,
        batch_frames=request.batch_frames,
        device=resolve_device(request.device),
    )
    choices = Choices(settings.device, request.lpips_net, request.lpips_weights, request.i3d_checkpoint)
    ready, result = load_models(asked, choices)
    for family in sets.intersection(request.metrics or ()) if single else ():
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
        say(report.table(result))
    sys.stderr.write(report.notes(matching.unmatched, result.warnings, result.failures))
    parameters = {**_parameters(request), "metrics": sorted(asked), "device": settings.device}
    if request.output:
        write_json(request.output, report.document(result, parameters, matching.unmatched))
    if request.csv:
        write_text(request.csv, report.to_csv(result))
    if not result.results:
        raise MetricError(f"nothing could be measured: none of {len(result.failures)} pairs, for the reasons above")
    named = {"lpips": request.lpips_weights, "vfid": request.i3d_checkpoint}
    return 1 if result.failures or any(named.get(metric) for metric in result.missing) else 0


def vbench(request: VBenchRequest) -> int:
    """The `vbench` subcommand."""
    report.check_targets([request.output])
    with tqdm(total=len(request.dimensions), unit="dimension", disable=None) as bar:

        def progress(dimension: str) -> None:
            bar.set_description(dimension)
            bar.update()

        run = vbench_runner.run_vbench(
            request.pred_dir,
            request.vbench_script,
            request.vbench_output,
            request.method,
            request.conda_env,
            request.dimensions,
            progress,
        )
    if run.scores:
        rows = [["dimension", "score"], *([name, f"{score:.4f}"] for name, score in run.scores.items())]
        say(f"VBench, {len(run.videos)} videos\n{report.align(rows)}")
    sys.stderr.write(report.notes({}, run.warnings, list(run.errors.items())))
    if request.output:
        write_json(request.output, vbench_runner.document(run, _parameters(request)))
    if not run.scores:
        raise MetricError("nothing could be measured: every dimension failed, for the reasons above")
    return 1 if run.errors else 0


def _parameters(request: QualityRequest | VBenchRequest) -> dict[str, Any]:
    return {item.name: getattr(request, item.name) for item in fields(request)}


if __name__ == "__main__":
    sys.exit(main())
