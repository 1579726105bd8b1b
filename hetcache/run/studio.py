"""Studio: what outlives a run in one process: the model that is loaded, and who watches the steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from hetcache.core.session import Observer
from hetcache.core.terminal import meanwhile
from hetcache.core.trace import StepRecord
from hetcache.core.vocabulary import Step
from hetcache.models.backend import Backend, LoadOptions, Pipeline

Key = tuple[Backend, str, LoadOptions]
Watcher = Callable[[Step, list[StepRecord]], None]


class Studio:
    """Runs that are given the same studio load a model once, as long as they ask for the same one.

    `prompts` are those of all runs to come: a published model's text encoder leaves memory after loading, and a prompt
    that it was not asked for then needs another load. `watch(step, records)` is called after every step of every edit;
    what it raises ends the run. `told(words)` is called when something begins that takes long without steps.
    """

    def __init__(self, prompts: Sequence[str] = (), watch: Watcher | None = None) -> None:
        self.watch = watch
        self.told: Callable[[str], None] | None = None
        self._prompts = tuple(prompts)
        self._held: tuple[Key, frozenset[str], Pipeline] | None = None

    def pipeline(self, backend: Backend, model: str, options: LoadOptions) -> Pipeline:
        """The pipeline that is held, if it is this one and knows these prompts, else a new one in its place."""
        key = backend, model, replace(options, prompts=())
        if self._held is not None and self._held[0] == key and self._held[1] >= set(options.prompts):
            return self._held[2]
        self.clear()
        prompts = tuple(dict.fromkeys((*options.prompts, *self._prompts)))
        pipeline = backend.load(model, replace(options, prompts=prompts))
        self._held = key, frozenset(prompts), pipeline
        return pipeline

    def clear(self) -> None:
        """Let go of the model."""
        self._held = None

    @contextmanager
    def stage(self, words: str) -> Iterator[None]:
        """Around work that takes long and has no steps: says so, on a terminal and to who is `told`."""
        if self.told is not None:
            self.told(words)
        with meanwhile(words):
            yield

    def observer(self, shown: Observer) -> Observer:
        """Calls `shown` and who watches."""

        def observe(step: Step, records: list[StepRecord]) -> None:
            shown(step, records)
            if self.watch is not None:
                self.watch(step, records)

        return observe
