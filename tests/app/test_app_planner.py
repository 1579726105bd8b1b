"""The plan on the page is the run's own, and the time is measured or that of a finished job."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from error_tables import TINY, smooth_tables
from long_runs import make_clip

pytest.importorskip("gradio", reason="the page needs its extra: pip install -r requirements-app.txt")

from hetcache.app.choice import OWN_SPEED, Choice, request_of
from hetcache.app.planner import Planner
from hetcache.queue.store import Queue
from hetcache.queue.worker import do
from hetcache.run import exact
from hetcache.run.studio import Studio

SMALL = {"--model": "tiny", "--height": "48", "--width": "64", "--steps": "8", "--fill": "push_pull", "--focus": "off"}


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    make_clip(tmp_path)
    return tmp_path


def request(clip: Path, num_frames: int = 17, **changed: Any) -> Any:
    return request_of(Choice(**{"extras": SMALL, **changed}), clip / "v.mp4", clip / "m.mp4", num_frames)


def test_the_plan_its_time_and_the_job(clip: Path) -> None:
    queue = Queue(clip / "queue")
    planner = Planner(queue)
    asked = request(clip, speed="Fast")
    early = planner.outlook(asked, measure=False)
    assert not early.is_timed and early.words.endswith("the time is being measured")
    outlook = planner.outlook(asked)
    assert outlook.is_timed and outlook.speedup is not None and outlook.speedup > 1
    assert re.fullmatch(r"[\d.]+x fewer FLOPs .*TFLOPs\), about \d+ s here", outlook.words), outlook.words
    assert outlook.html.count("<g>") == 8 and planner.outlook(asked, measure=False).is_timed
    job = queue.add(asked)
    queue.take()
    do(queue, job, Studio())
    letters = job.progress.decisions
    kinds = re.findall(r'<rect class="(full|partial|reuse)"', outlook.html)
    assert "".join({"full": "F", "partial": "P", "reuse": "R"}[kind] for kind in kinds) == letters
    # Another planner knows it from the job.
    assert Planner(queue).outlook(asked, measure=False).is_timed


def test_an_exact_plan_is_the_slider_s_too(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smooth_tables(origin=TINY).save(clip / "tables")
    monkeypatch.setattr(exact, "tables_file", lambda calibration: clip / "tables")
    planner, extras = Planner(Queue(clip / "queue")), {**SMALL, "--steps": "12", "--planner": "exact"}
    for speedup in (1.3, 1.9):
        asked = request(clip, speed=OWN_SPEED, speedup=speedup, extras=extras)
        outlook = planner.outlook(asked, measure=False)
        assert outlook.speedup is not None and outlook.speedup >= speedup
    with pytest.raises(ValueError, match="out of reach of the exact plan"):
        planner.outlook(request(clip, speed=OWN_SPEED, speedup=11.0, extras=extras), measure=False)


def test_the_slider_reaches_what_it_says_or_says_why_not(clip: Path) -> None:
    planner = Planner(Queue(clip / "queue"))
    outlook = planner.outlook(request(clip, speed=OWN_SPEED, speedup=1.5), measure=False)
    assert outlook.speedup is not None and outlook.speedup >= 1.5
    with pytest.raises(ValueError, match="out of reach"):
        planner.outlook(request(clip, speed=OWN_SPEED, speedup=11.0), measure=False)


def test_windows_are_counted(clip: Path) -> None:
    planner = Planner(Queue(clip / "queue"))
    extras = {**SMALL, "--window": "9", "--overlap": "5"}
    outlook = planner.outlook(request(clip, whole=True, extras=extras), measure=False)
    assert "in 3 windows" in outlook.words
