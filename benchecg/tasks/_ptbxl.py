"""PTB-XL (Wagner et al. 2020) for the tasks that share it: which statements count is the task's, everything else is here."""

from __future__ import annotations

import ast
import csv
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from benchecg.tasks.base import Dataset, Record, TaskData
from xecg.errors import ReadError

__all__ = ["DATASET", "HELME", "SPLIT_RULE", "Statements", "load"]

DATASET = Dataset(
    name="PTB-XL",
    version="1.0.3",
    folder="ptb-xl",
    licence="CC BY 4.0 (Wagner et al. 2020; PhysioNet)",
    size="21,799 records, 1.7 GB zipped, 3.0 GB unpacked",
    url="https://physionet.org/content/ptb-xl/1.0.3/",
)
SPLIT_RULE = "strat_fold 1-8 train, 9 validates, 10 tests (folds keep patients together)"
HELME = "helme/ecg_ptbxl_benchmarking, PTB-XL 1.0.1, supervised from scratch, fold 10"

_ALL_RECORDS = 21_799
_TABLE, _STATEMENTS = "ptbxl_database.csv", "scp_statements.csv"

Statements = Mapping[str, Mapping[str, str]]  # statement code → its row of scp_statements.csv


def load(
    root: Path,
    classes: tuple[str, ...],
    class_of: Callable[[str, Mapping[str, str]], str | None],
    what: str,
    *,
    keep_unlabelled: bool = False,
) -> TaskData:
    """Records with at least one class. class_of: a statement's code and row → its class, None for none. what: names a class.

    keep_unlabelled: also records without one, as negatives of every class.

    A statement counts whatever its likelihood: 0 means "not stated", not "absent". Raises ReadError for a statement whose class
    is not of the task, because then the release is another one.
    """
    folder = DATASET.find(root, _TABLE, _STATEMENTS)
    column = _columns(folder / _STATEMENTS, classes, class_of)
    with (folder / _TABLE).open(newline="") as handle:
        rows = sorted(csv.DictReader(handle), key=lambda r: int(r["ecg_id"]))
    records, label, unlabelled, absent = [], [], 0, 0
    for row in rows:
        marks = _labels(row["scp_codes"], column, len(classes), row["ecg_id"])
        path = folder / f"{row['filename_hr']}.hea"
        wanted = keep_unlabelled or any(marks)
        unlabelled += not wanted
        absent += wanted and not path.is_file()
        if wanted and path.is_file():
            patient = str(int(float(row["patient_id"])))
            records.append(Record(row["ecg_id"], patient, _split_of(int(row["strat_fold"])), path, *age_and_sex(row)))
            label.append(marks)
    notes = [f"{unlabelled} records without a {what} are left out"] if unlabelled else []
    notes += [f"{absent} labelled records are in {_TABLE} but their 500 Hz files are not here"] if absent else []
    return TaskData(
        records=tuple(records),
        record=np.arange(len(records)),
        time_s=np.full(len(records), np.nan),
        label=np.array(label, dtype=np.int64).reshape(-1, len(classes)),
        complete=len(rows) == _ALL_RECORDS and not absent,
        files=(
            folder / _TABLE,
            folder / _STATEMENTS,
            *(f for r in records for f in (r.path, r.path.with_suffix(".dat"))),
        ),
        notes=tuple(notes),
    )


def age_and_sex(row: Mapping[str, str | None]) -> tuple[float | None, str | None]:
    """Of a row of the table: years (300 stands for 90 and more) and "F" or "M" (the table says 1 or 0); None where unknown."""
    sex = {"0": "M", "1": "F"}.get((row.get("sex") or "").removesuffix(".0"))
    try:
        return float(row.get("age") or ""), sex
    except ValueError:
        return None, sex


def _columns(
    path: Path, classes: tuple[str, ...], class_of: Callable[[str, Mapping[str, str]], str | None]
) -> dict[str, int]:
    """Statement code → index of its class."""
    with path.open(newline="") as handle:
        reader = csv.DictReader(handle)
        code = (reader.fieldnames or [""])[0]  # the index column has no name in the release
        named = {r[code]: class_of(r[code], r) for r in reader}
    for statement, name in named.items():
        if name is not None and name not in classes:
            rule = f"needed one of the {len(classes)} classes of release {DATASET.version}"
            raise ReadError(_STATEMENTS, f"class of statement {statement}", repr(name), rule)
    return {statement: classes.index(name) for statement, name in named.items() if name is not None}


def _labels(codes: str, column: dict[str, int], n: int, row: str) -> list[int]:
    try:
        found = {column[code] for code in ast.literal_eval(codes) if code in column}
    except (ValueError, SyntaxError, TypeError):
        raise ReadError(
            _TABLE, f"scp_codes of ecg_id {row}", repr(codes), "needed a dictionary {code: likelihood}"
        ) from None
    return [int(i in found) for i in range(n)]


def _split_of(fold: int) -> str:
    return "test" if fold == 10 else "val" if fold == 9 else "train"
