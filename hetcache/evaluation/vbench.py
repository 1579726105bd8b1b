"""Run VBench (Huang et al. 2024) in its own environment and collect its scores.

VBench pins old packages, so it lives in another conda environment and is called through its command line:
`evaluate.py --dimension D --videos_path FOLDER --mode custom_input --output_path FOLDER`. It leaves
`*_eval_results.json`, {dimension: [score, [{"video_path", "video_results"}]]}.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hetcache.evaluation.pairs import select_method
from hetcache.evaluation.report import SCHEMA
from hetcache.metrics.errors import MetricError

DEFAULT_DIMENSIONS = (
    "subject_consistency", "background_consistency", "motion_smoothness",
    "dynamic_degree", "aesthetic_quality", "imaging_quality",
)  # fmt: skip
_RESULTS = "*_eval_results.json"
_INSTALL = "git clone https://github.com/Vchitect/VBench, follow its README, and name its evaluate.py"


@dataclass
class VBenchRun:
    """Scores by dimension, scores by video, and the dimensions that failed with their reasons."""

    scores: dict[str, float] = field(default_factory=dict)
    per_video: dict[str, dict[str, float]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    result_files: dict[str, str] = field(default_factory=dict)
    videos: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def run_vbench(
    pred_dir: Path,
    script: Path,
    output_dir: Path,
    method: str | None = None,
    conda_env: str | None = None,
    dimensions: Sequence[str] = DEFAULT_DIMENSIONS,
    progress: Callable[[str], None] | None = None,
) -> VBenchRun:
    """Score the videos of `method` in `pred_dir`, one VBench call per dimension, results under `output_dir`.

    A dimension that fails is kept in `errors` and the others go on. MetricError when the videos, the script
    or conda are missing.
    """
    videos = select_method(pred_dir, method)
    launcher = _launcher(script, conda_env)
    run = VBenchRun(videos=[path.name for path in videos])
    if method and not any(path.stem.endswith(f"_{method}") for path in videos):
        run.warnings.append(f"no name in {pred_dir} ends in _{method}: all {len(videos)} videos were taken")
    output_dir.mkdir(parents=True, exist_ok=True)
    # A fresh folder per run: an older result file can never be taken for this run's.
    run_dir = Path(tempfile.mkdtemp(prefix="run-", dir=output_dir)).absolute()
    staged = run_dir / "videos"
    staged.mkdir()
    for path in videos:
        _stage(path, staged / path.name)
    for dimension in dimensions:
        if progress:
            progress(dimension)
        folder = run_dir / dimension
        folder.mkdir(exist_ok=True)
        command = [
            *launcher, "--dimension", dimension, "--videos_path", str(staged), "--mode", "custom_input",
            "--output_path", str(folder),
        ]  # fmt: skip
        try:
            _score(run, dimension, command, folder, script)
        except MetricError as error:
            run.errors[dimension] = str(error)
    return run


def document(run: VBenchRun, parameters: dict[str, Any]) -> dict[str, Any]:
    """The JSON document of a `vbench` run."""
    return {
        "schema": SCHEMA,
        "command": "vbench",
        "parameters": parameters,
        "videos": run.videos,
        "scores": run.scores,
        "per_video": run.per_video,
        "errors": run.errors,
        "result_files": run.result_files,
        "warnings": run.warnings,
    }


def _launcher(script: Path, conda_env: str | None) -> list[str]:
    """The argument list that starts the script, in the conda environment or in this Python."""
    if not script.is_file():
        raise MetricError(f"no VBench script at {script}: {_INSTALL}")
    path = str(script.absolute())
    if conda_env is None:
        return [sys.executable, path]
    conda = os.environ.get("CONDA_EXE") or shutil.which("conda")
    if conda is None:
        raise MetricError(
            "conda is not on the PATH: start from a conda shell, or leave --conda-env out to use this Python"
        )
    return [conda, "run", "--no-capture-output", "-n", conda_env, "python", path]


def _stage(source: Path, target: Path) -> None:
    """Give VBench a folder with this method's videos and nothing else."""
    try:
        target.symlink_to(source.absolute())
    except OSError:
        shutil.copyfile(source, target)


def _score(run: VBenchRun, dimension: str, command: Sequence[str], folder: Path, script: Path) -> None:
    """Run one dimension and read the newest result file it left."""
    try:
        done = subprocess.run(
            command,
            cwd=script.absolute().parent,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise MetricError(f"VBench could not be started: {error}") from error
    (folder / "log.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
    if done.returncode != 0:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        why = lines[-1] if lines else "no message"
        raise MetricError(f"VBench ended with status {done.returncode}: {why} (all of it: {folder / 'log.txt'})")
    files = sorted(folder.rglob(_RESULTS), key=lambda path: path.stat().st_mtime_ns)
    if not files:
        raise MetricError(f"VBench wrote no {_RESULTS} into {folder}: see {folder / 'log.txt'}")
    newest = files[-1]
    try:
        score, details = json.loads(newest.read_text(encoding="utf-8"))[dimension][:2]
        per_video = {Path(item["video_path"]).name: float(item["video_results"]) for item in details}
        run.scores[dimension] = float(score)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MetricError(f"{newest} does not hold a score for {dimension}: {type(error).__name__} {error}") from error
    run.result_files[dimension] = str(newest)
    for name, value in per_video.items():
        run.per_video.setdefault(name, {})[dimension] = value
