"""VMAF through the libvmaf filter of the ffmpeg that comes with imageio-ffmpeg."""

from __future__ import annotations

import json
import math
import subprocess
import tempfile
from pathlib import Path

from hetcache.media.ffmpeg import base_args, input_args, reason
from hetcache.metrics.errors import MetricError
from hetcache.metrics.metric import FileMetric, decimals

MODEL = "libvmaf's built-in default (vmaf_v0.6.1)"


def vmaf(
    pred: Path,
    reference: Path,
    num_frames: int,
    size: tuple[int, int],
    threads: int = 1,
    timeout_s: float = 3600,
) -> float:
    """Mean VMAF (0..100) of the first `num_frames` frames of `pred` against `reference`, both at `size`.

    `size` is (height, width). Frames are paired by number, not by time stamp. Raises MetricError when ffmpeg
    has no libvmaf or fails.
    """
    for path in (pred, reference):
        if not path.is_file():
            raise MetricError(f"VMAF needs video files, not the folder {path}")
    height, width = size
    # One clock for both, or the filter would pair frames by the two files' own time stamps.
    prepare = f"scale={width}:{height}:flags=bicubic,format=yuv420p,settb=1/25,setpts=N,trim=end_frame={num_frames}"
    measure = f"libvmaf=n_threads={threads}:log_fmt=json:log_path=vmaf.json"
    graph = f"[0:V]{prepare}[p];[1:V]{prepare}[r];[p][r]{measure}"
    with tempfile.TemporaryDirectory(prefix="hetcache-vmaf-") as folder:
        command = [
            *base_args(),
            *input_args(pred),
            *input_args(reference),
            "-lavfi",
            graph,
            "-f",
            "null",
            "-",
        ]
        try:
            # The log path is relative to this folder: a path inside a filter graph would need escaping.
            done = subprocess.run(
                command,
                cwd=folder,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise MetricError(f"VMAF of {pred.name} took over {timeout_s:.0f} s: shorten the video") from error
        if "No such filter: 'libvmaf'" in done.stderr:
            raise MetricError(
                "this ffmpeg has no libvmaf: unset IMAGEIO_FFMPEG_EXE or run `pip install imageio-ffmpeg`"
            )
        log = Path(folder) / "vmaf.json"
        if done.returncode != 0 or not log.is_file():
            raise MetricError(f"VMAF of {pred.name} against {reference.name} failed: {reason(done.stderr)}")
        # libvmaf writes "nan" unquoted, which Python's reader knows only as NaN.
        figure = json.loads(log.read_text(encoding="utf-8").replace(": nan", ": NaN"))
    value = float(figure["pooled_metrics"]["vmaf"]["mean"])
    if math.isnan(value):
        raise MetricError(f"VMAF of {pred.name} against {reference.name} is not a number")
    return value


VMAF = FileMetric(
    "vmaf",
    "VMAF",
    "libvmaf's default model vmaf_v0.6.1, mean over frames",
    show=decimals(2),
    by_default=False,
    measure=vmaf,
)
