"""open-survival: death after an exam, inside CODE-15 % by patient. Not T10 of the suite, which tests on MIMIC-IV-ECG.

The risk comes from a linear Cox head; the metric is Harrell's concordance, pooled over the test patients, one exam each.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchecg.tasks import _code15_hdf5 as code15
from benchecg.tasks.base import Record, Task, TaskData, hash_fraction

__all__ = ["TASK", "first_outcomes"]

_TEST, _VAL = 0.20, 0.36
_TRUE, _FALSE = ("true", "1", "1.0"), ("false", "0", "0.0")


def _split_of(patient: str) -> str:
    fraction = hash_fraction("code-15", patient)
    return "test" if fraction < _TEST else "val" if fraction < _VAL else "train"


def _outcome(row: dict[str, str]) -> tuple[float, int] | None:
    """Years of follow-up and whether they ended in death; None when either is not stated."""
    death, years = row["death"].strip().lower(), row["timey"].strip()
    if death not in _TRUE + _FALSE or years in ("", "nan") or not float(years) > 0:
        return None
    return float(years), int(death in _TRUE)


def first_outcomes(rows: list[dict[str, str]]) -> list[tuple[dict[str, str], tuple[float, int]]]:
    """Of each patient the first exam, by number, that states an outcome: its row, years and death."""
    first: dict[str, tuple[dict[str, str], tuple[float, int]]] = {}
    for row in rows:
        outcome = _outcome(row)
        if outcome is not None:
            first.setdefault(row["patient_id"], (row, outcome))
    return list(first.values())


def _load(root: Path) -> TaskData:
    rows, files = code15.exams(root, "death", "timey")
    folder = root / code15.DATASET.folder
    first = first_outcomes(rows)
    records = [
        Record(r["exam_id"], r["patient_id"], _split_of(r["patient_id"]), folder / r["part"], *code15.age_and_sex(r))
        for r, _ in first
    ]
    return TaskData(
        records=tuple(records),
        record=np.arange(len(records)),
        time_s=np.full(len(records), np.nan),
        label=np.array([outcome for _, outcome in first], dtype=float).reshape(-1, 2),
        complete=code15.is_complete(rows),
        files=tuple(files),
        notes=(
            f"{len(rows) - len(records):,} exams are left out: without follow-up, or not the first of a patient that has it",
        ),
        read=code15.reader({r["exam_id"]: int(r["row"]) for r, _ in first}),
    )


TASK = Task(
    id="open-survival",
    version="1",
    title="Death after an exam, inside CODE-15 %",
    dataset=code15.DATASET,
    kind="survival",
    classes=("years", "death"),
    metric="c_index",
    load=_load,
    unit="first exam of a patient",
    leads="12",
    rate_hz=400.0,
    split_rule="blake2b of the patient as a fraction: below 0.20 tests, below 0.36 validates, the rest trains",
    label_rule="timey and death of exams.csv, of the first exam (by number) of each patient that states both",
    full_records=code15.FULL_RECORDS,
)
