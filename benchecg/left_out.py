"""Tasks that a run could not ask: what is missing, where it is, under which licence, who may have it. A file beside the results.

A table of results says nothing of what is not in it; this does. `benchecg report` prints it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from benchecg.results import check
from benchecg.tasks.base import Task
from xecg.errors import DataMissing, ReadError

__all__ = ["FORMAT", "LeftOut", "left_out", "read_left_out", "write_left_out"]

FORMAT = "benchecg-left-out/1"
_FILE = "left-out.json"


@dataclass(frozen=True)
class LeftOut:
    """task, title, suite: of the task. The rest is of its data set; missing: what was not there, in words without local paths."""

    task: str
    title: str
    suite: str | None
    dataset: str
    version: str
    folder: str
    missing: str
    size: str
    licence: str
    access: str
    url: str


_ENTRY: dict[str, Any] = {f.name: str for f in fields(LeftOut)} | {"suite": (str, None)}
_SCHEMA = {"format": str, "tasks": [_ENTRY]}


def left_out(task: Task, error: DataMissing | None, root: Path) -> LeftOut:
    """What is to be said of a task whose loader raised `error`; of one whose data not everybody may have, without an error."""
    d = task.dataset
    missing = f"not asked: access is {d.access}" if error is None else _without(str(error), root)
    return LeftOut(
        task.id, task.title, task.suite, d.name, d.version, d.folder, missing, d.size, d.licence, d.access, d.url
    )


def _without(text: str, root: Path) -> str:
    """The first sentence, in which the data root is called DATA."""
    return text.replace(str(root), "DATA").partition(". ")[0].rstrip(".")


def write_left_out(out: Path, tasks: Iterable[LeftOut]) -> Path:
    """Write the file into the folder of the results, whole or not at all; returns its path."""
    from xecg.io.atomic import write_json

    out.mkdir(parents=True, exist_ok=True)
    content = {"format": FORMAT, "tasks": [asdict(t) for t in tasks]}
    check(content, _SCHEMA, _FILE)
    write_json(out / _FILE, content)
    return out / _FILE


def read_left_out(out: Path, *, scored: Collection[str] = ()) -> list[LeftOut]:
    """Of the last run under `out`, without tasks that have results by now; [] where no run said any. Raises ReadError."""
    path = out / _FILE
    if not path.is_file():
        return []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReadError(str(path), "left out", f"unreadable ({error})", "needed a file of `benchecg run`") from None
    if isinstance(content, dict) and content.get("format") != FORMAT:
        raise ReadError(str(path), "format", repr(content.get("format")), f"needed {FORMAT}", "Run the suite again.")
    check(content, _SCHEMA, str(path))
    return [LeftOut(**t) for t in content["tasks"] if t["task"] not in scored]
