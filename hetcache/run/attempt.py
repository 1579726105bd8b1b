"""One run of a queue or batch: words in, an outcome out. It prints and writes what `inference.py` does and never raises
what a run may raise, because exceptions do not travel between processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hetcache.cli import RaisingParser, parse
from hetcache.run.command import run
from hetcache.run.studio import Studio


@dataclass(frozen=True)
class Outcome:
    """`error` None: the output is written. `is_final`: another try, on another worker, would end the same."""

    error: str | None = None
    is_final: bool = True


def attempt(words: Sequence[str], studio: Studio) -> Outcome:
    """Run the flags `words` with the model that `studio` holds. KeyboardInterrupt passes."""
    try:
        run(parse(words, kind=RaisingParser), studio)
    except (ValueError, OSError, MemoryError) as error:
        return Outcome(str(error) or type(error).__name__)
    except Exception as error:
        # A device that failed may work elsewhere; this process should not be trusted with another run.
        return Outcome(f"{type(error).__name__}: {error}", is_final=False)
    return Outcome()
