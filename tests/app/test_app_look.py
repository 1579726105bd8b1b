"""What the form shows while its plan is being made."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from long_runs import make_clip

pytest.importorskip("gradio", reason="the page needs its extra: pip install -r requirements-app.txt")

from hetcache.app import page
from hetcache.app.choice import DEFAULT_SPEED, REMOVE, Choice, request_of
from hetcache.app.page import PLANNING, Form
from hetcache.app.planner import Outlook

VALUES = (REMOVE, "", DEFAULT_SPEED, 1.0, "First part")


class Looker:
    """A session with a clip and its mask, of one look."""

    clip = None
    folder = Path("nowhere")

    def looked(self) -> int:
        return 1

    def is_newest(self, look: int) -> bool:
        return True


class Slow:
    """A planner that answers when it is allowed to."""

    def __init__(self) -> None:
        self.may = threading.Event()

    def outlook(self, asked: Any, measure: bool) -> Outlook:
        assert self.may.wait(30)
        if asked.edit.num_steps == 7:
            raise ValueError("seven is refused")
        return Outlook("<svg/>", "2.0x fewer FLOPs", 2.0)


def looking(clip: Path, monkeypatch: pytest.MonkeyPatch, planner: Slow, steps: int = 8) -> Any:
    make_clip(clip)
    form: Any = Form(None, None, planner)  # type: ignore[arg-type]
    asked = request_of(Choice(extras={"--model": "tiny", "--steps": str(steps)}), clip / "v.mp4", clip / "m.mp4", 17)
    monkeypatch.setattr(form, "_session", lambda request: Looker())
    monkeypatch.setattr(form, "_asked", lambda session, values: (asked, ""))
    return form.look(None, *VALUES)


def test_a_plan_that_takes_long_is_announced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "PATIENCE_S", 0.01)
    planner = Slow()
    looks = looking(tmp_path, monkeypatch, planner)
    plan, line, run, *_ = next(looks)
    assert PLANNING in plan and "--steps 8" in line and "interactive" not in run
    planner.may.set()
    plan, _, run, slider, _ = next(looks)
    assert "2.0x fewer FLOPs" in plan and run["interactive"] and slider == 2.0
    assert list(looks) == []


def test_one_that_is_there_at_once_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planner = Slow()
    planner.may.set()
    monkeypatch.setattr(page, "PATIENCE_S", 30)
    (only,) = looking(tmp_path, monkeypatch, planner)
    assert "2.0x fewer FLOPs" in only[0]
    ((plan, _, run, *_),) = looking(tmp_path, monkeypatch, planner, steps=7)
    assert "seven is refused" in plan and not run["interactive"]
