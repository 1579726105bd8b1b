"""What is chosen on the page is what the command line would make of the line that the page shows."""

from __future__ import annotations

import shlex
from dataclasses import fields
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="the page needs its extra: pip install -r requirements-app.txt")

from hetcache.app.choice import (
    ADVANCED,
    DESCRIBE,
    NOT_HERE,
    OWN_SPEED,
    REMOVE,
    SPEEDS,
    Choice,
    advanced,
    command_line,
    first_frames,
    request_of,
)
from hetcache.app.clips import safe_name
from hetcache.app.marks import Marks
from hetcache.app.options import AppOptions
from hetcache.cli import GROUPS, parse
from hetcache.files import UserError
from hetcache.modes import MODES
from hetcache.run.options import Files, Task

CLIP, MASK = Path("/somewhere/my clip.mp4"), Path("/somewhere/mask.mp4")


@pytest.mark.parametrize(
    "choice",
    [
        Choice(),
        Choice(DESCRIBE, "--an empty lawn; rm -rf 'x' $HOME", "Fast"),
        Choice(REMOVE, "", "Exact: every step in full", whole=True),
        Choice(speed=OWN_SPEED, speedup=3.5, extras={"--steps": "12", "--lossless": True, "--model": "tiny"}),
        Choice(extras={"--apply-mask-to-input": False, "--focus": "40", "--fill": "grey", "--cache-thresh": "0.2"}),
        Choice(
            extras={"--outpaint": "16,0,16,0", "--window": "17", "--overlap": "5", "--focus-area": "320x192"},
            whole=True,
        ),
    ],
)
def test_the_command_line_is_the_request(choice: Choice) -> None:
    request = request_of(choice, CLIP, MASK, 81)
    words = shlex.split(command_line(request))
    assert words[:2] == ["python", "inference.py"]
    again = parse(words[2:])
    for item in fields(request):
        if item.name != "words":
            assert getattr(again, item.name) == getattr(request, item.name), item.name
    assert request.files.video == CLIP and request.files.mask == MASK


def test_words_become_settings() -> None:
    request = request_of(Choice(), CLIP, MASK, 81)
    assert request.mode is MODES["hetcache"] and request.task.task == "remove"
    assert request.length.frames == 33 and request.output.report
    described = request_of(Choice(DESCRIBE, " a dog ", "Careful", whole=True), CLIP, MASK, 81)
    assert described.edit.prompt == "a dog" and described.task.task == "fill"
    assert described.length.frames == "all" and not described.output.report
    assert request_of(Choice(whole=True), CLIP, MASK, 30).output.report
    own = request_of(Choice(speed=OWN_SPEED, speedup=4.0), CLIP, MASK, 81)
    assert own.output.target_speedup == 4.0
    assert request_of(Choice(extras={"--fill": "grey"}), CLIP, MASK, 81).edit.fill == "grey"
    assert [first_frames(count, 33) for count in (1, 4, 5, 33, 81)] == [1, 1, 5, 33, 33]


def test_every_speed_in_words_is_a_mode() -> None:
    assert set(SPEEDS.values()) <= set(MODES)


@pytest.mark.parametrize(
    "extras, message",
    [
        ({"--steps": "0"}, "--steps 0: at least 1"),
        ({"--steps": "many"}, "--steps: invalid int value: 'many'"),
        ({"--seed": "-1"}, "--seed -1"),
        ({"--output": "/etc/passwd"}, "--output /etc/passwd: is not offered on this page"),
        ({"--model": "/root/weights"}, "--model /root/weights: is not offered on this page"),
        ({"--video": "/etc/passwd"}, "--video /etc/passwd: is not offered on this page"),
        ({"--height": "100"}, "--height 100: the model takes multiples of 16"),
    ],
)
def test_what_cannot_be_run_says_why_and_ends_nothing(extras: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        request_of(Choice(extras=extras), CLIP, MASK, 81)


def test_the_settings_are_those_of_the_command_line() -> None:
    """A new field appears on the page, or somebody says why not."""
    offered = {setting.flag for _, settings in advanced() for setting in settings}
    shown = {config for _, config in ADVANCED}
    for _, configs in GROUPS:
        for config in configs:
            assert config in shown or config in (Files, Task)
    names = {item.name for _, config in ADVANCED for item in fields(config)}
    assert len(offered) == len(names - set(NOT_HERE)) and set(NOT_HERE) <= names
    assert all(setting.help for _, settings in advanced() for setting in settings)


@pytest.mark.parametrize(
    "name, clean",
    [
        ("clip.mp4", "clip.mp4"),
        ("../../etc/passwd", "passwd"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("-rf *.mp4", "rf_.mp4"),
        ("", "clip"),
        ("...", "clip"),
        ("a\x00b\n\x1b[31m.mp4", "a_b_31m.mp4"),
        ("<script>alert(1)</script>.mp4", "script_.mp4"),
        ("ф" * 300 + ".mp4", "mp4"),
        ("a" * 300 + ".mp4", "a" * 72 + ".mp4"),
    ],
)
def test_names_are_harmless(name: str, clean: str) -> None:
    assert safe_name(name) == clean


@pytest.mark.parametrize(
    "values",
    [
        "no list",
        [{"kind": "lasso", "frame": 0}],
        [{"kind": "box", "frame": 0, "box": [1, 2, 3]}],
        [{"kind": "box", "frame": 0, "box": [1, 2, 3, "nan"]}],
        [{"kind": "painted", "frame": 0, "file": "../../../etc/passwd"}],
        [{"kind": "painted", "frame": 0, "file": "painted-../x.png"}],
        [None],
        [{"kind": "point", "frame": 0, "point": [0, 0], "positive": True}] * 501,
    ],
)
def test_marks_that_are_none_are_refused(values: object) -> None:
    with pytest.raises(UserError, match="^marks: "):
        Marks.read(values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "words, message",
    [
        ({"host": "0.0.0.0"}, "--host 0.0.0.0: others could open the page; give --auth"),
        ({"auth": "me"}, "--auth: give USER:PASSWORD"),
        ({"auth": "me:short"}, "--auth: give USER:PASSWORD, the password of 8 characters"),
        ({"port": 70000}, "--port 70000: from 0 to 65535"),
        ({"max_mib": 0.0}, "--max-mib 0.0: greater than 0"),
    ],
)
def test_options_that_cannot_be_served(words: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HETCACHE_AUTH", raising=False)
    with pytest.raises(UserError, match=message):
        AppOptions(**words)  # type: ignore[arg-type]


def test_a_password_opens_the_page_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    assert AppOptions(host="0.0.0.0", auth="me:long enough").credentials == "me:long enough"
    monkeypatch.setenv("HETCACHE_AUTH", "you:long enough")
    assert AppOptions(host="0.0.0.0").credentials == "you:long enough"
