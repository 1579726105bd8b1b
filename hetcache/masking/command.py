"""The command `hetcache-mask`: parse, make, save, say which frames deserve a look."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hetcache.core.terminal import complain, say, take_any_character
from hetcache.files import UserError
from hetcache.masking.options import EngineOptions, MaskRequest, parse

if TYPE_CHECKING:
    from hetcache.masking.track import Engine, MaskTrack

PROGRAM = "hetcache-mask"
DEFAULT_FOLDER = Path("outputs")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 when the mask is written, 2 for a clip, marks or settings that cannot be used, 130 after Ctrl-C."""
    take_any_character()
    debug = False
    try:
        request = parse(sys.argv[1:] if argv is None else argv)
        debug = request.output.debug
        run(request)
    except KeyboardInterrupt:
        complain(f"\n{PROGRAM}: interrupted: no mask was written")
        return 130
    except (ValueError, OSError, MemoryError) as error:
        if debug:
            raise
        complain(f"{PROGRAM}: error: {error}")
        return 2
    return 0


def run(request: MaskRequest) -> None:
    # Imported here: --help and a bad flag need neither OpenCV nor torch.
    from tqdm import tqdm

    from hetcache.masking.make import make_mask
    from hetcache.masking.saving import check_outputs, record_path, save_mask, sheet_path

    prompts = request.marks.prompts
    output = _output(request)
    painted = [each.mask for each in request.marks.painted if isinstance(each.mask, Path)]
    check_outputs(output, [request.clip, *painted])
    engine = choose_engine(request.engine)
    with tqdm(unit="frame", disable=None) as bar:

        def progress(done: int, total: int, what: str) -> None:
            bar.total = total
            bar.set_description(what, refresh=False)
            bar.update(done - bar.n)

        track = make_mask(request.clip, prompts, engine, progress=progress)
    save_mask(track, request.clip, prompts, output)
    for line in summary(track):
        say(line)
    say(f"mask: {output}\nrecord: {record_path(output)}\npicture: {sheet_path(output)}")


def choose_engine(options: EngineOptions) -> Engine:
    """The engine that is asked for, loaded. Raises UserError where its weights are not there."""
    if options.engine == "sam2":
        from hetcache.masking.sam2 import Sam2Engine

        return Sam2Engine.load(options.sam2, options.device)
    from hetcache.masking.builtin import FlowEngine

    return FlowEngine()


def summary(track: MaskTrack) -> list[str]:
    """What came of it, for a person."""
    mean, low, high = sum(track.shares) / len(track), min(track.shares), max(track.shares)
    lines = [f"{len(track)} frames, the mask covers {mean:.1%} of the picture ({low:.1%} to {high:.1%})"]
    empty = [index for index, share in enumerate(track.shares) if share == 0]
    if empty:
        lines.append(f"empty in {spans(empty)}")
    if track.weak:
        lines.append(f"look at {spans(track.weak)}: the confidence fell there; mark the thing on one of them again")
    return lines


def spans(frames: Sequence[int]) -> str:
    """ "frame 3" or "frames 3, 7-12"."""
    parts: list[list[int]] = []
    for frame in frames:
        if parts and frame == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], frame]
        else:
            parts.append([frame])
    shown = ", ".join("-".join(map(str, part)) for part in parts)
    return f"frame{'s' if len(frames) > 1 else ''} {shown}"


def _output(request: MaskRequest) -> Path:
    if request.output.output is not None:
        return request.output.output
    try:
        DEFAULT_FOLDER.mkdir(exist_ok=True)
    except OSError as error:
        cause = "is a file" if DEFAULT_FOLDER.is_file() else error.strerror or error
        raise UserError(f"output folder {DEFAULT_FOLDER}: {cause}; move it away or give --output") from error
    return DEFAULT_FOLDER / f"{request.clip.stem}_mask.mp4"
