"""A task from a user's own table: a CSV with a path for each recording and what is to be learned of it.

`record` is relative to the table's folder. `patient` keeps a person on one side of the split; without it a record is a patient.
`split` (train, val, test) overrides the rule: blake2b of the patient, three fifths train, one validates, one tests.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchecg.protocols.features import is_synthetic
from benchecg.tasks.base import SPLITS, Dataset, Record, Task, TaskData, hash_fraction
from xecg.errors import ReadError, SpecError
from xecg.model.predict import AAMI

__all__ = ["KINDS", "beats_task", "peaks_task", "table_task"]

KINDS = ("binary", "multiclass", "multilabel", "regression", "survival")
_MOST_CLASSES = 10  # different numbers beyond which a single column is a number to be told, not a class
_TEST, _VAL = 0.2, 0.4
_BEATS = ("N", "S", "V", "other")  # AAMI EC57, fusion and unclassifiable beats together
_CLASS = {symbol: _BEATS.index(name) for symbol, name in AAMI.items()}
_METRIC = {
    "binary": ("auroc", True), "multiclass": ("macro_f1", True), "multilabel": ("macro_auroc", True),
    "regression": ("mae", False), "survival": ("c_index", True),
}  # fmt: skip


def table_task(path: Path, labels: Sequence[str], *, kind: str | None = None) -> tuple[Task, TaskData]:
    """The task of the columns `labels`: several make a multilabel task of 0/1, or with kind="survival" time and event.

    Of one column: two values make a binary task, numbers of more than ten different values a regression, others classes; `kind`
    decides otherwise. Raises ReadError naming row, column and value, SpecError.
    """
    rows = _rows(path, labels)
    kind = kind or _kind(rows, labels)
    columns = {"survival": "two", "multilabel": "several"}.get(kind, "one")
    if kind not in KINDS or len(labels) != {"two": 2, "one": 1}.get(columns, max(2, len(labels))):
        raise SpecError(
            f"kind is {kind!r} for {len(labels)} label columns; needed one of {', '.join(KINDS)}, and {columns} of them"
        )
    classes: tuple[str, ...] = ()
    if kind in ("binary", "multiclass"):
        classes = tuple(sorted({row[labels[0]] for row in rows}))
        if (kind == "binary" and len(classes) != 2) or len(classes) < 2:
            needed = "2" if kind == "binary" else "2 or more"
            raise SpecError(f"{path}: column {labels[0]} holds {len(classes)} classes; a {kind} task needs {needed}")
        label = np.array([classes.index(row[labels[0]]) for row in rows])
    else:
        label = np.array([[_number(path, i, row, name) for name in labels] for i, row in enumerate(rows)])
        label = label[:, 0] if kind == "regression" else label
        classes = () if kind == "regression" else tuple(labels)
    records = _records(path, rows)
    n = len(records)
    task = _task(path, records, kind, classes, f"column{'s' * (len(labels) > 1)} {', '.join(labels)} of the table")
    return task, TaskData(records, np.arange(n), np.full(n, np.nan), label, True, (path,))


def beats_task(path: Path) -> tuple[Task, TaskData]:
    """Every annotated beat of the table's recordings, as N, S, V or other (AAMI EC57). Raises ReadError, SpecError."""
    from xecg import read

    rows = _rows(path, ())
    records = _records(path, rows)
    record, time_s, label = [], [], []
    for i, r in enumerate(records):
        given = read(r.path)
        if given.annotations is None:
            raise ReadError(str(r.path), "annotations", "absent", "needed an annotation file beside the recording")
        beats = [
            (s, _CLASS[c]) for s, c in zip(given.annotations.sample.tolist(), given.annotations.symbol) if c in _CLASS
        ]
        record += [i] * len(beats)
        time_s += [s / given.rate for s, _ in beats]
        label += [c for _, c in beats]
    task = _task(path, records, "multiclass", _BEATS, "symbols of the annotations by AAMI EC57; F and Q are other")
    return task, TaskData(records, np.array(record), np.array(time_s), np.array(label), True, (path,))


def peaks_task(path: Path) -> tuple[Task, TaskData]:
    """The R peaks of the table's recordings: the times of their annotated beats. Raises ReadError, SpecError."""
    task, data = beats_task(path)
    rule = "an R peak is any annotated beat"
    asked = replace(
        task, kind="peaks", classes=("R",), metric="f1_75ms", title=f"{path.name}: {rule}", label_rule=rule,
        records_per_call=1,
    )  # fmt: skip
    return asked, replace(data, label=np.ones(len(data.label), np.int64))


def _rows(path: Path, labels: Sequence[str]) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            reader = csv.DictReader(handle)
            names = reader.fieldnames or ()
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ReadError(str(path), "table", f"unreadable ({error})", "needed a CSV in UTF-8") from None
    for name in ("record", *labels):
        if name not in names:
            raise ReadError(str(path), "columns", ", ".join(names), f"needed a column {name!r}")
    if len(set(names)) != len(names):
        raise ReadError(str(path), "columns", ", ".join(names), "needed each name once")
    if not rows:
        raise ReadError(str(path), "rows", "none", "needed one row a recording")
    for i, row in enumerate(rows, 1):
        cells = sum(cell is not None for key, cell in row.items() if key is not None) + len(row.get(None, ()))  # type: ignore[call-overload]
        if cells != len(names):
            raise ReadError(str(path), f"row {i}", f"{cells} cells", f"the first row names {len(names)} columns")
    return rows


def _kind(rows: list[dict[str, str]], labels: Sequence[str]) -> str:
    if len(labels) > 1:
        return "multilabel"
    values = {row[labels[0]] for row in rows}
    if len(values) == 2:
        return "binary"
    try:
        return "regression" if len({float(v) for v in values}) > _MOST_CLASSES else "multiclass"
    except ValueError:
        return "multiclass"


def _number(path: Path, row: int, values: dict[str, str], name: str) -> float:
    try:
        found = float(values[name])
    except (TypeError, ValueError):
        found = float("nan")
    if not np.isfinite(found):
        raise ReadError(
            str(path), f"{name} of row {row + 1}", repr(values[name]), "needed a number", "Leave the row out."
        )
    return found


def _records(path: Path, rows: list[dict[str, str]]) -> tuple[Record, ...]:
    records = []
    for i, row in enumerate(rows):
        where = path.parent / row["record"]
        where = where if where.is_file() else where.with_name(where.name + ".hea")
        if not where.is_file():
            raise ReadError(
                str(path),
                f"record of row {i + 1}",
                repr(row["record"]),
                "needed a file, relative to the table's folder",
            )
        patient = row.get("patient") or row["record"]
        records.append(Record(row["record"], patient, row.get("split") or _split(patient), where))
        if records[-1].split not in SPLITS:
            raise ReadError(
                str(path), f"split of row {i + 1}", repr(row["split"]), f"needed one of {', '.join(SPLITS)}"
            )
    return tuple(records)


def _split(patient: str) -> str:
    at = hash_fraction("table", patient)
    return "test" if at < _TEST else "val" if at < _VAL else "train"


def _task(path: Path, records: tuple[Record, ...], kind: str, classes: tuple[str, ...], rule: str) -> Task:
    from xecg import read

    metric, higher = _METRIC[kind]

    def unloaded(root: Path) -> TaskData:
        raise SpecError("a table's task is loaded with it")

    return Task(
        id=path.stem,
        version="1",
        title=f"{path.name}: {rule}",
        dataset=Dataset(path.name, "as given", path.parent.name, "the user's", "as given", str(path)),
        kind=kind,
        classes=classes,
        metric=metric,
        higher_is_better=higher,
        load=unloaded,
        unit="recording" if kind != "multiclass" or classes != _BEATS else "beat",
        leads="as found",
        rate_hz=0.0,
        split_rule="column split of the table, else blake2b of the patient: below 0.2 tests, below 0.4 validates",
        label_rule=rule,
        synthetic=is_synthetic(records[0].path, read(records[0].path)),
    )
