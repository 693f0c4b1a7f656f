"""T1: the five diagnostic superclasses of PTB-XL (Wagner et al. 2020), folds 1-8 train, 9 validates, 10 tests."""

from __future__ import annotations

import ast
import csv
from pathlib import Path

import numpy as np

from benchecg.tasks.base import Dataset, Expected, Published, Record, Task, TaskData
from xecg.errors import ReadError

__all__ = ["TASK"]

_DATASET = Dataset(
    name="PTB-XL",
    version="1.0.3",
    folder="ptb-xl",
    licence="CC BY 4.0 (Wagner et al. 2020; PhysioNet)",
    size="21,799 records, 1.7 GB zipped, 3.0 GB unpacked",
    url="https://physionet.org/content/ptb-xl/1.0.3/",
)

_CLASSES = ("NORM", "MI", "STTC", "CD", "HYP")
_FULL_RECORDS = 21_388  # of 21,799: those with at least one superclass
_TABLE = "ptbxl_database.csv"
_STATEMENTS = "scp_statements.csv"


def _superclass_of(statements: Path) -> dict[str, str]:
    """Statement code → superclass, of the diagnostic statements."""
    with statements.open(newline="") as handle:
        reader = csv.DictReader(handle)
        code = (reader.fieldnames or [""])[0]  # the index column has no name in the release
        rows = [r for r in reader if r["diagnostic"] and float(r["diagnostic"]) == 1]
    return {r[code]: r["diagnostic_class"] for r in rows}


def _labels(codes: str, superclass: dict[str, str], row: str) -> list[int]:
    """0/1 per class. A statement counts whatever its likelihood: 0 means "not stated", not "absent"."""
    try:
        found = {superclass.get(code) for code in ast.literal_eval(codes)}
    except (ValueError, SyntaxError, TypeError):
        raise ReadError(
            _TABLE, f"scp_codes of ecg_id {row}", repr(codes), "needed a dictionary {code: likelihood}"
        ) from None
    return [int(name in found) for name in _CLASSES]


def _split_of(fold: int) -> str:
    return "test" if fold == 10 else "val" if fold == 9 else "train"


def _load(root: Path) -> TaskData:
    folder = _DATASET.find(root, _TABLE, _STATEMENTS)
    superclass = _superclass_of(folder / _STATEMENTS)
    with (folder / _TABLE).open(newline="") as handle:
        rows = sorted(csv.DictReader(handle), key=lambda r: int(r["ecg_id"]))
    records, label, unlabelled, absent = [], [], 0, 0
    for row in rows:
        marks = _labels(row["scp_codes"], superclass, row["ecg_id"])
        path = folder / f"{row['filename_hr']}.hea"
        unlabelled += not any(marks)
        absent += any(marks) and not path.is_file()
        if any(marks) and path.is_file():
            patient = str(int(float(row["patient_id"])))
            records.append(Record(row["ecg_id"], patient, _split_of(int(row["strat_fold"])), path))
            label.append(marks)
    notes = [f"{unlabelled} records without a superclass are left out"] if unlabelled else []
    notes += [f"{absent} labelled records are in {_TABLE} but their 500 Hz files are not here"] if absent else []
    return TaskData(
        records=tuple(records),
        record=np.arange(len(records)),
        time_s=np.full(len(records), np.nan),
        label=np.array(label, dtype=np.int64).reshape(-1, len(_CLASSES)),
        complete=len(records) == _FULL_RECORDS,
        files=(
            folder / _TABLE,
            folder / _STATEMENTS,
            *(f for r in records for f in (r.path, r.path.with_suffix(".dat"))),
        ),
        notes=tuple(notes),
    )


_HELME = "helme/ecg_ptbxl_benchmarking, PTB-XL 1.0.1, supervised from scratch, fold 10"

TASK = Task(
    id="ptbxl-superclass",
    version="1",
    title="PTB-XL, five diagnostic superclasses",
    dataset=_DATASET,
    kind="multilabel",
    classes=_CLASSES,
    metric="macro_auroc",
    load=_load,
    unit="10 s exam",
    leads="12",
    rate_hz=500.0,
    split_rule="strat_fold 1-8 train, 9 validates, 10 tests (folds keep patients together)",
    label_rule="a superclass is positive when any diagnostic statement of it is listed, whatever its likelihood",
    suite="T1",
    full_records=_FULL_RECORDS,
    expected=(
        Expected(
            "all folds",
            ("train", "val", "test"),
            {"NORM": 9514, "MI": 5469, "STTC": 5235, "CD": 4898, "HYP": 2649},
            "Wagner et al. 2020, carried from memory and not re-counted on the full release here",
        ),
    ),
    published=(
        Published(_HELME, "xresnet1d101", "macro_auroc", 0.928, "largest deviation of the interval 0.005"),
        Published(_HELME, "resnet1d_wang", "macro_auroc", 0.930, "largest deviation of the interval 0.005"),
        Published(_HELME, "inception1d", "macro_auroc", 0.921, "largest deviation of the interval 0.006"),
        Published(_HELME, "Wavelet+NN", "macro_auroc", 0.874, "largest deviation of the interval 0.007"),
    ),
)
