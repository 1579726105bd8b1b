"""Which prediction belongs to which source, reference and mask: by stem, with or without a suffix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hetcache.metrics.errors import MetricError

VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".gif")
MASK_SUFFIXES = ("mask",)
REFERENCE_SUFFIXES = ("baseline", "reference")

AGAINST = ("gt", "reference")


@dataclass(frozen=True)
class Job:
    """One prediction and what it is compared with: "gt" (the source), "reference" (the uncached output)."""

    name: str
    pred: Path
    against: dict[str, Path]
    mask: Path | None = None


@dataclass
class Matching:
    """Jobs, files without a partner (by role), and names that cannot be evaluated, with reasons."""

    jobs: list[Job] = field(default_factory=list)
    unmatched: dict[str, list[str]] = field(default_factory=dict)
    failures: list[tuple[str, str]] = field(default_factory=list)


def match_folders(
    pred_dir: Path,
    gt_dir: Path | None = None,
    reference_dir: Path | None = None,
    mask_dir: Path | None = None,
    method: str | None = None,
) -> Matching:
    """Pair the videos of folders by stem: `a.mp4` with `a.mp4` or `a_METHOD.mp4`.

    References may also be called `a_baseline` or `a_reference`, masks `a_mask`. A prediction needs every
    folder that was given. MetricError when a folder is missing or no pair is found.
    """
    folders = {"gt": gt_dir, "reference": reference_dir}
    given = {role: list_videos(folder, role) for role, folder in folders.items() if folder is not None}
    if not given:
        raise MetricError("nothing to compare with: give --gt-dir, --reference-dir or both")
    preds = list_videos(pred_dir, "prediction")
    masks = list_videos(mask_dir, "mask") if mask_dir else []
    suffixes = (method,) if method else ()
    lead = "gt" if "gt" in given else "reference"
    matching = Matching()
    used: dict[str, set[Path]] = {role: set() for role in ("pred", "mask", *given)}
    for source in given[lead]:
        # With one folder for videos and masks, `a_mask.mp4` is a mask, not a video that lacks a prediction.
        if source in masks and any(source.stem.endswith(f"_{suffix}") for suffix in MASK_SUFFIXES):
            used[lead].add(source)
            continue
        name = _base(source.stem, REFERENCE_SUFFIXES + suffixes) if lead == "reference" else source.stem
        pred = _find(preds, name, suffixes)
        if pred is None or pred == source:
            continue
        job, problem = _complete(name, pred, given, masks if mask_dir else None, suffixes)
        used["pred"].add(pred)
        used[lead].add(source)
        if problem:
            matching.failures.append((name, problem))
            continue
        assert job is not None
        for role, path in job.against.items():
            used[role].add(path)
        if job.mask:
            used["mask"].add(job.mask)
        matching.jobs.append(job)
    everything = {"pred": preds, "mask": masks, **given}
    # One folder may serve several roles: a file that is used in one of them is not without a partner.
    matched = set().union(*used.values())
    matching.unmatched = {
        role: [str(path) for path in paths if path not in matched] for role, paths in everything.items() if paths
    }
    if not matching.jobs and not matching.failures:
        raise MetricError(_no_pairs(pred_dir, preds, folders[lead], method))
    return matching


def list_videos(folder: Path, role: str) -> list[Path]:
    """The videos of a folder by name; MetricError when it is no folder or holds no video."""
    if not folder.is_dir():
        raise MetricError(f"the {role} folder {folder} does not exist: check the path")
    videos = sorted(path for path in folder.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file())
    if not videos:
        raise MetricError(f"the {role} folder {folder} holds no video ({', '.join(VIDEO_SUFFIXES)})")
    return videos


def select_method(pred_dir: Path, method: str | None) -> list[Path]:
    """The predictions of one method: `*_METHOD`, or all videos when no name ends so or none is asked."""
    videos = list_videos(pred_dir, "prediction")
    chosen = [path for path in videos if method and path.stem.endswith(f"_{method}")]
    return chosen or videos


def _complete(
    name: str, pred: Path, given: dict[str, list[Path]], masks: list[Path] | None, suffixes: Sequence[str]
) -> tuple[Job | None, str]:
    """Find the partners of one prediction in the other folders, or say which is missing."""
    against: dict[str, Path] = {}
    for role, paths in given.items():
        endings = (*suffixes, *REFERENCE_SUFFIXES) if role == "reference" else ()
        partner = _find(paths, name, endings)
        if partner is None:
            return (
                None,
                f"no {role} video is called {' or '.join(_names(name, endings))}: add it or leave --{role}-dir out",
            )
        against[role] = partner
    if masks is None:
        return Job(name, pred, against), ""
    mask = _find(masks, name, (*MASK_SUFFIXES, *suffixes))
    if mask is None:
        return (
            None,
            f"no mask is called {' or '.join(_names(name, MASK_SUFFIXES))}: add it or leave --mask-dir out",
        )
    return Job(name, pred, against, mask), ""


def _find(paths: Sequence[Path], name: str, suffixes: Sequence[str]) -> Path | None:
    """The file called `name_suffix` (first suffix first), else the one called `name`."""
    stems = {path.stem: path for path in reversed(paths)}
    for stem in (*(f"{name}_{suffix}" for suffix in suffixes), name):
        if stem in stems:
            return stems[stem]
    return None


def _base(stem: str, suffixes: Sequence[str]) -> str:
    for suffix in suffixes:
        if stem.endswith(f"_{suffix}"):
            return stem.removesuffix(f"_{suffix}")
    return stem


def _names(name: str, suffixes: Sequence[str]) -> list[str]:
    return [name, *(f"{name}_{suffix}" for suffix in suffixes)]


def _no_pairs(pred_dir: Path, preds: Sequence[Path], folder: Path | None, method: str | None) -> str:
    pattern = f"NAME.* or NAME_{method}.*" if method else "NAME.*"
    hint = "check --method" if method else "give --method, if their names end in it"
    return (
        f"0 pairs: no video in {pred_dir} ({len(preds)}, such as {preds[0].name}) is called "
        f"{pattern} after a video in {folder}: {hint}"
    )
