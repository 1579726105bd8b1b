"""What a benchmark leaves behind: benchmark.json, table.md, report.html, and dated copies of them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from hetcache.benchmark.cells import Cell, Store
from hetcache.benchmark.methods import BASELINE
from hetcache.benchmark.quality import metrics
from hetcache.benchmark.rows import table_rows
from hetcache.benchmark.runner import Plan
from hetcache.benchmark.table import failures, markdown, plain
from hetcache.core.facts import package_versions
from hetcache.files import ROOT, to_json, write_text
from hetcache.metrics.errors import MetricError
from hetcache.metrics.weights import FETCH_COMMAND
from hetcache.models import MODELS

SCHEMA = 1
RANDOM = (
    "Random weights: time and memory at the model's true dimensions with replayed decisions. No quality can be read "
    "from this page, and the text encoder's time and memory are not in it."
)


def write_outputs(
    output: Path, plan: Plan, store: Store, model_id: str, command: str, today: date, publish: Path | None = None
) -> tuple[list[Path], str]:
    """Write everything into `output`, and into `publish` under a dated name; (paths, the table for a terminal).

    Without matplotlib the page is left out, and the text says which command brings it.
    """
    from hetcache.benchmark.page import benchmark_html

    document = make_document(plan, store, model_id, command, today)
    text = plain(document["rows"])
    contents = {
        "benchmark.json": to_json(document, indent=1),
        "table.md": page_markdown(document),
    }
    try:
        contents["report.html"] = benchmark_html(document, plan, store)
    except MetricError as error:
        text += f"\nno report.html: {error}"
    paths = [output / name for name in contents]
    for name, content in contents.items():
        _write(output / name, content)
    if publish is not None:
        for name, content in contents.items():
            target = publish / f"{document['name']}{Path(name).suffix}"
            _write(target, content)
            paths.append(target)
    return paths, text


def make_document(plan: Plan, store: Store, model_id: str, command: str, today: date) -> dict[str, Any]:
    """The JSON document: settings, environment, rows (see `table_rows`), commands, warnings."""
    rows = table_rows(plan, store)
    by_video = {case.name: table_rows(plan, store, [case]) for case in plan.cases} if len(plan.cases) > 1 else {}
    first = _any_record(plan, store)
    hardware = first["hardware"] if first else {}
    config = first["config"] if first else {}
    machine = str(hardware.get("gpu") or hardware.get("cpu") or "unknown machine")
    place = "cuda" if "gpu" in hardware else f"cpu-{hardware.get('cores', 0)}-cores"
    processes = {record["process"] for record in _records(plan, store)}
    size = f"{config.get('width', 0)}x{config.get('height', 0)}"
    random = bool(plan.setup["random"])
    return {
        "schema": SCHEMA,
        "name": f"{today.isoformat()}-{model_id}{'-random' if random else ''}-{place}",
        "title": f"HetCache benchmark: {model_id}{', random weights' if random else ''}",
        "lead": f"{machine}, {today.isoformat()}. {config.get('frames', 0)} frames of {size}, {plan.num_steps} steps, "
        f"guidance {config.get('cfg_scale', 0):g}, {_counted(len(plan.cases), 'video')}, "
        f"{_counted(len(plan.seeds), 'seed')}, {_counted(plan.num_repeats, 'repeat')}.",
        "random_weights": random,
        "warnings": _warnings(plan, store, rows, random, len(processes)),
        "rows": rows,
        "rows_by_video": by_video,
        "environment": {
            "date": today.isoformat(),
            **{name: value for name, value in hardware.items()},
            **{f"{name} version": value for name, value in package_versions().items()},
            "model": model_id,
            "dtype": config.get("dtype", ""),
            "prompt": plan.setup.get("prompt", ""),
            "videos": ", ".join(f"{case.name} (sha256 {case.digest})" for case in plan.cases),
            "seeds": " ".join(map(str, plan.seeds)),
            "processes": len(processes),
        },
        "commands": [{"method": "this benchmark", "command": command}]
        + ([] if random else _commands(plan, store, model_id)),
    }


def page_markdown(document: Mapping[str, Any]) -> str:
    """The table with its settings, for a reader of the repository."""
    lines = [f"# {document['title']}", "", document["lead"], ""]
    lines += [f"- {line}" for line in document["warnings"]]
    lines += ["", markdown(document["rows"], brief=True), "", "## All columns", "", markdown(document["rows"]), ""]
    lines += [f"- {line}" for line in failures(document["rows"])]
    for name, rows in document["rows_by_video"].items():
        lines += [f"## {name}", "", markdown(rows), ""]
    lines += ["", "## Environment", "", *(f"- {name}: {value}" for name, value in document["environment"].items())]
    lines += ["", "## Commands", ""]
    lines += [f"- {entry['method']}: `{entry['command']}`" for entry in document["commands"]]
    return "\n".join(lines) + "\n"


def inference_command(cell: Cell, plan: Plan, model: str, fill: str) -> str:
    """The command that makes this cell's edit alone: of whole frames, with what the model was trained to see under the
    mask (`fill`) where nothing else was asked."""
    setup = plan.setup
    words = ["python", "inference.py", *cell.method.flags()]
    words += ["--video", shown_path(cell.case.video), "--mask", shown_path(cell.case.mask), "--model", model]
    words += ["--frames", str(setup["frames"]), "--steps", str(cell.method.num_steps or plan.num_steps)]
    words += ["--seed", str(cell.seed)]
    for name, value in zip(("height", "width"), setup["size"], strict=True):
        words += [f"--{name}", str(value)] if value is not None else []
    flags = list(setup["flags"])
    words += ["--focus", "off", *([] if "--fill" in flags else ["--fill", fill]), *flags]
    if cell.method.mode != BASELINE:
        words.append("--compare")
    return shlex.join(words)


def shown_path(path: Path) -> str:
    """Relative to the repository or the current folder where possible: a report must not tell where it was made."""
    for root in (ROOT, Path.cwd()):
        if path.resolve().is_relative_to(root):
            return str(path.resolve().relative_to(root))
    return path.name


def _commands(plan: Plan, store: Store, model_id: str) -> list[dict[str, str]]:
    fill = MODELS[model_id].fill if model_id in MODELS else "grey"
    case, seed = plan.cases[0], plan.seeds[0]
    cells = [plan.settled(method, case, seed, store) for method in plan.methods]
    return [
        {"method": cell.method.name, "command": inference_command(cell, plan, plan.setup["model_name"], fill)}
        for cell in cells
    ]


def _warnings(plan: Plan, store: Store, rows: list[dict[str, Any]], random: bool, num_processes: int) -> list[str]:
    lines = [RANDOM, f"Replayed decisions: {plan.setup['decisions']}"] if random else []
    lines += dict.fromkeys(doubt for record in _records(plan, store) for doubt in record.get("doubts", []))
    measured = [row for row in rows if row.get("quality", {}).get("source")]
    for metric in metrics() if measured and not random else ():
        if metric.fetch and not any(metric.name in row["quality"]["source"].get("all", {}) for row in measured):
            command = f"{FETCH_COMMAND} {metric.fetch}"
            lines.append(f"{metric.title} was not measured: its weights come with `{command}`.")
    if num_processes > 1:
        lines.append(
            f"Taken in {num_processes} processes: the benchmark was interrupted and resumed. Each ratio is "
            "against the baseline of its own process."
        )
    return lines


def _records(plan: Plan, store: Store) -> list[dict[str, Any]]:
    cells = [
        plan.settled(method, case, seed, store) for method in plan.methods for case in plan.cases for seed in plan.seeds
    ]
    return [record for cell in cells for record in store.runs(cell, plan.num_repeats)]


def _any_record(plan: Plan, store: Store) -> dict[str, Any] | None:
    return next(iter(_records(plan, store)), None)


def _counted(count: int, name: str) -> str:
    return f"{count} {name}" + ("" if count == 1 else "s")


def _write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, content)
