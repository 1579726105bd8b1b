"""What outlives a run: the model; and what a killed one leaves, which the next removes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hetcache.core.vocabulary import Step
from hetcache.models.backend import LoadOptions
from hetcache.run.output import Outputs, sole_run
from hetcache.run.studio import Studio


class Library:
    """A backend that counts its loads."""

    def __init__(self) -> None:
        self.loads: list[tuple[str, LoadOptions]] = []

    def load(self, model: str, options: LoadOptions) -> Any:
        self.loads.append((model, options))
        return object()


def options(*prompts: str, device: str = "cpu") -> LoadOptions:
    return LoadOptions(device, torch.float32, prompts)


def test_the_same_model_is_loaded_once() -> None:
    library: Any = Library()
    studio = Studio()
    first = studio.pipeline(library, "tiny", options("a lawn"))
    assert studio.pipeline(library, "tiny", options("a lawn")) is first and len(library.loads) == 1


@pytest.mark.parametrize("other", [("14b", options("a lawn")), ("tiny", options("a lawn", device="cuda"))])
def test_another_one_takes_its_place(other: tuple[str, LoadOptions]) -> None:
    library: Any = Library()
    studio = Studio()
    studio.pipeline(library, "tiny", options("a lawn"))
    studio.pipeline(library, *other)
    studio.pipeline(library, *other)
    assert [model for model, _ in library.loads] == ["tiny", other[0]]


def test_prompts_that_are_known_of_need_no_other_load() -> None:
    library: Any = Library()
    studio = Studio(["a lawn", "a road"])
    studio.pipeline(library, "tiny", options("a lawn", "dark"))
    studio.pipeline(library, "tiny", options("a road", "dark"))
    assert [each.prompts for _, each in library.loads] == [("a lawn", "dark", "a road")]
    studio.pipeline(library, "tiny", options("a lake"))
    assert library.loads[1][1].prompts == ("a lake", "a lawn", "a road")


def test_who_watches_sees_every_step_and_may_end_the_run() -> None:
    seen: list[int] = []

    def watch(step: Step, records: list[Any]) -> None:
        seen.append(step.index)
        if step.index == 1:
            raise KeyboardInterrupt

    shown: list[int] = []
    observe = Studio(watch=watch).observer(lambda step, records: shown.append(step.index))
    observe(Step(0, 2, 900.0), [])
    with pytest.raises(KeyboardInterrupt):
        observe(Step(1, 2, 500.0), [])
    assert seen == shown == [0, 1]


def test_temporary_files_of_a_killed_run_go_with_the_next(tmp_path: Path) -> None:
    mine = [".a.0123abcd.tmp.mp4", ".a.0123abcd.tmp.json", ".a_raw.0123abcd.tmp.mp4"]
    others = [".a.b.0123abcd.tmp.mp4", ".b.0123abcd.tmp.mp4", ".a.txt", "a.mp4", ".a.0123abcd.tmp.html"]
    for name in (*mine, *others):
        (tmp_path / name).touch()
    with sole_run(Outputs(tmp_path / "a.mp4", tmp_path / "a.json", tmp_path / "a_raw.mp4")):
        assert sorted(path.name for path in tmp_path.iterdir() if path.name != ".a.lock") == sorted(others)
