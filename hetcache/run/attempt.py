"""One run of a queue or batch: words in, an outcome out. It prints and writes what `inference.py` does and never raises
what a run may raise, because exceptions do not travel between processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hetcache.cli import RaisingParser, parse, words_of_request
from hetcache.core.terminal import say
from hetcache.run.command import run
from hetcache.run.options import Request
from hetcache.run.output import Outputs
from hetcache.run.studio import Studio
from hetcache.run.window_store import ForeignWindowsError, WindowStore


@dataclass(frozen=True)
class Outcome:
    """`error` None: the output is written. `is_final`: another try, on another worker, would end the same."""

    error: str | None = None
    is_final: bool = True


def attempt(words: Sequence[str], studio: Studio) -> Outcome:
    """Run the flags `words` with the model that `studio` holds. KeyboardInterrupt passes."""
    try:
        go_on(parse(words, kind=RaisingParser), studio)
    except (ValueError, OSError, MemoryError) as error:
        return Outcome(str(error) or type(error).__name__)
    except Exception as error:
        # A device that failed may work elsewhere; this process should not be trusted with another run.
        return Outcome(f"{type(error).__name__}: {error}", is_final=False)
    return Outcome()


def go_on(request: Request, studio: Studio) -> None:
    """Edit as `inference.py` does. Windows that an earlier attempt finished are kept if they are this very run's."""
    store = WindowStore(Outputs.of(request).video)
    if not store.finished():
        run(request, studio)
        return
    resumed = replace(request, output=replace(request.output, resume=True))
    try:
        run(replace(resumed, words=tuple(words_of_request(resumed))), studio)
    except ForeignWindowsError as error:
        say(f"{error}: they are of another version or machine, so the job starts again")
        store.remove()
        run(request, studio)
