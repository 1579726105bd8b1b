"""What a person sees while there are no steps to count: before the first one, and in the times afterwards."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bad_media import good
from PIL import Image

from hetcache.cli import parse
from hetcache.core.terminal import meanwhile
from hetcache.media.write import write_video
from hetcache.models.backend import BACKENDS, backend
from hetcache.queue.job import Progress, QueuedJob
from hetcache.queue.store import Queue
from hetcache.queue.watch import CancelledError, StepWatch
from hetcache.queue.worker import do
from hetcache.run.command import main
from hetcache.run.record import STAGES, summary_rows
from hetcache.run.studio import Studio

SMALL = "--video v.mp4 --mask m.mp4 --frames 5 --steps 1 --height 48 --width 64 --model tiny --mode baseline".split()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_is_told_and_left_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with pytest.raises(ValueError), meanwhile("loading"):
        assert terminal.getvalue() == "  loading ..."
        raise ValueError
    said, blank, end = terminal.getvalue().split("\r")
    assert (blank, end) == (" " * len(said), "")


def test_a_pipe_is_not_told(capsys: pytest.CaptureFixture[str]) -> None:
    with meanwhile("loading"):
        pass
    assert capsys.readouterr() == ("", "")


def test_a_run_says_what_it_prepares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good(tmp_path)
    monkeypatch.chdir(tmp_path)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert main([*SMALL, "--output", "a.mp4"]) == 0
    shown = terminal.getvalue()
    assert (
        0 < shown.index("preparing the video, its mask") < shown.index("loading the model") < shown.index("baseline:")
    )
    record = json.loads((tmp_path / "a.json").read_text())
    times = dict(summary_rows(record))["time"]
    parts = {name: float(part) for name, part in (text.removesuffix(" s").rsplit(" ", 1) for text in times.split(", "))}
    assert next(iter(parts)) == "prepare"
    total = parts.pop("total")
    assert sum(parts.values()) == pytest.approx(total, abs=0.06 * len(STAGES))


def test_a_job_says_what_it_prepares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good(tmp_path)
    monkeypatch.chdir(tmp_path)
    queue = Queue(tmp_path / "queue")
    job, said = queue.add(parse(SMALL)), list[str]()
    put = QueuedJob.put_progress

    def seen(mine: QueuedJob, progress: Progress) -> None:
        said.append(progress.describe())
        put(mine, progress)

    monkeypatch.setattr(QueuedJob, "put_progress", seen)
    queue.take()
    do(queue, job, Studio())
    assert job.standing.state == "done"
    first = said.index("preparing the video, its mask and what goes under it")
    assert first < said.index("loading the model", first) < said.index("step 1 of 1 (F)")


def test_a_job_can_be_cancelled_before_its_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good(tmp_path)
    monkeypatch.chdir(tmp_path)
    job = Queue(tmp_path / "queue").add(parse(SMALL))
    watch = StepWatch(job, 1)
    watch.tell("loading the model")
    job.ask_to_cancel()
    with pytest.raises(CancelledError):
        watch.tell("loading the model")


def test_loading_a_library_says_nothing_of_torchs_own_trees(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    logger = logging.getLogger("torch.utils._pytree")
    (tmp_path / "noisy_adapter.py").write_text(
        "import logging\nlogging.getLogger('torch.utils._pytree').warning('an Enum subclass')\nBACKEND = 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(BACKENDS, "noisy", "noisy_adapter:BACKEND")
    told: list[logging.LogRecord] = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", told.append)
    logger.addHandler(handler)
    before = logger.level
    try:
        assert backend("noisy") == 1
    finally:
        logger.removeHandler(handler)
    assert told == [] and logger.level == before


def test_the_table_before_a_run_says_what_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (9, 48, 64, 3), dtype=np.uint8)
    write_video(tmp_path / "v.mp4", frames, 10.0)
    (tmp_path / "images").mkdir()
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / "images" / f"{index}.png")
    mask = np.zeros((48, 64), np.uint8)
    mask[16:32, 16:32] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    monkeypatch.chdir(tmp_path)

    def told(video: str, count: int) -> str:
        words = ["--video", video, "--mask", "m.png", "--frames", str(count), "--steps", "1", "--plan"]
        assert main([*words, "--height", "48", "--width", "64", "--model", "tiny"]) == 0
        return capsys.readouterr().out

    assert "v.mp4, 64x48, the first 5 frames of 0.9 s (--frames all: all of them), 8% masked" in told("v.mp4", 5)
    assert "v.mp4, 64x48, 9 frames, 8% masked" in (whole := told("v.mp4", 9))
    assert "1 pixel of the model for one of the video" in whole or "the whole picture" in whole
    assert "images, 64x48, the first 5 frames of 9 (" in told("images", 5)


@pytest.mark.parametrize(("letters", "said"), [("FPR", True), ("FRR", False)])
def test_tokens_of_partial_steps_are_told_where_there_are_some(letters: str, said: bool) -> None:
    record = {
        "mode": "hetcache",
        "timing_s": dict.fromkeys(STAGES, 1.0),
        "flops": {"run": 1e12, "uncached": 3e12, "ratio": 3.0},
        "tokens": {"active": 7, "total": 20},
        "decisions": {"cond": letters},
        "accelerated": True,
        "cache_bytes": 0,
        "peak_memory_gib": 1.0,
        "outputs": {},
    }
    assert ("partial steps compute 7 of 20 tokens" in dict(summary_rows(record))["FLOPs"]) is said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--video", "none.mp4", "--mask", "m.png"], "video none.mp4: no such file"),
        (["--video", "text.mp4", "--mask", "m.png"], "video text.mp4: neither a video nor an image"),
        (["--video", "v.png", "--mask", "none.mp4"], "mask none.mp4: no such file"),
        (["--video", "v.png"], "which part is to be edited? Give --mask or --outpaint"),
        (["--mask", "m.png"], "--mask m.png: of which video? Give --video too"),
    ],
)
def test_a_wrong_file_is_told_before_torch_is_loaded(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("v.png", "m.png"):
        Image.new("L", (64, 48), 255).save(tmp_path / name)
    (tmp_path / "text.mp4").write_text("hello")
    code = (
        "import sys\nfrom hetcache.run.command import main\n"
        f"code = main({words!r})\nprint(code, 'torch' in sys.modules)\n"
    )
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "2 False\n" and said in done.stderr and done.stderr.count("\n") == 1
