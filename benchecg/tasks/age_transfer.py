"""T8: age learned on CODE-15 %, told on MIMIC-IV-ECG, PTB-XL and CPSC 2018. The suite counts the mean of the three errors.

The reference splits exams
instead of patients, and scores records of unknown age as age 0; here patients are split and such records are left out.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from benchecg.tasks import _code15_hdf5 as code15
from benchecg.tasks import _mimic, _ptbxl, cpsc2018
from benchecg.tasks.base import Dataset, Record, Task, TaskData, hash_fraction
from xecg.errors import ReadError
from xecg.signal import Recording

__all__ = ["TASKS", "ptbxl_records"]

_VAL = 0.20  # of the CODE-15 % patients
_OLDEST_PTBXL = 89  # older ones are written as 300
_Aged = list[tuple[Record, float]]


def _age(text: str, oldest: float = 120) -> float | None:
    try:
        age = float(text)
    except ValueError:
        return None
    return age if 0 < age <= oldest else None


def ptbxl_records(root: Path, *, unknown: float | None = None) -> tuple[_Aged, int]:
    """PTB-XL records with their age, and how many are left out. unknown: the age of those that state none, None to leave them out."""
    folder = _ptbxl.DATASET.find(root, "ptbxl_database.csv")
    with (folder / "ptbxl_database.csv").open(newline="") as handle:
        rows = sorted(csv.DictReader(handle), key=lambda row: int(row["ecg_id"]))
    aged: _Aged = []
    for row in rows:
        stated = row["age"].strip().lower() not in ("", "nan")
        age, path = _age(row["age"], _OLDEST_PTBXL) if stated else unknown, folder / f"{row['filename_hr']}.hea"
        if age is not None and path.is_file():
            patient = f"ptb-xl {int(float(row['patient_id']))}"
            aged.append(
                (Record(f"ptb-xl/{row['ecg_id']}", patient, "test", path, *_ptbxl.age_and_sex(row), "PTB-XL"), age)
            )
    return aged, len(rows) - len(aged)


def _cpsc_records(root: Path) -> tuple[_Aged, int]:
    paths = cpsc2018.headers(root)
    aged: _Aged = []
    for path in paths:
        age = _age(cpsc2018.comment(path, "Age"))
        if age is not None:
            aged.append((Record(f"cpsc2018/{path.stem}", f"cpsc {path.stem}", "test", path, source="CPSC 2018"), age))
    return aged, len(paths) - len(aged)


_MIMIC = Dataset(
    name="MIMIC-IV-ECG",
    version="1.0, MIMIC-IV-ECG-ICD",
    folder="mimic-iv-ecg",
    licence="ODbL 1.0 (signals); PhysioNet credentialed licence (ages)",
    size=f"{_mimic.SIGNALS}; {_mimic.LABELS}",
    url="https://physionet.org/content/mimic-iv-ecg/1.0/ and https://physionet.org/content/mimic-iv-ecg-ext-icd-labels/",
    access="open signals, credentialed ages",
)


def _mimic_records(root: Path) -> tuple[_Aged, int]:
    folder = _MIMIC.find(root, _mimic.LABELS)
    table = sorted(
        _mimic.rows(folder / _mimic.LABELS, "file_name", "study_id", "subject_id", "age"),
        key=lambda row: int(row["study_id"]),
    )
    aged: _Aged = []
    for row in table:
        age, path = _age(row["age"]), _mimic.header(folder, row["file_name"])
        if age is not None and path.is_file():
            aged.append(
                (
                    Record(
                        f"mimic/{row['study_id']}", f"mimic {row['subject_id']}", "test", path, age, source=_MIMIC.name
                    ),
                    age,
                )
            )
    return aged, len(table) - len(aged)


def _load(
    root: Path, *, both: Dataset, target: Dataset, tested: Callable[[Path], tuple[_Aged, int]], full: int
) -> TaskData:
    both.find(root, "exams.csv")
    rows, files = code15.exams(root)
    folder = root / code15.DATASET.folder
    at, aged = {}, []
    for row in rows:
        age = _age(row["age"])
        if age is None:
            raise ReadError(
                str(folder / "exams.csv"), f"age of exam {row['exam_id']}", row["age"], "needed 0 < age <= 120"
            )
        split = "val" if hash_fraction("code-15", row["patient_id"]) < _VAL else "train"
        record = Record(f"code-15/{row['exam_id']}", f"code-15 {row['patient_id']}", split, folder / row["part"])
        at[record.id] = int(row["row"])
        aged.append((record, age))
    others, unaged = tested(root)
    records = tuple(record for record, _ in (*aged, *others))
    signals = [
        f for r, _ in others for f in (r.path, *(r.path.with_suffix(s) for s in (".dat", ".mat"))) if f.is_file()
    ]
    return TaskData(
        records=records,
        record=np.arange(len(records)),
        time_s=np.full(len(records), np.nan),
        label=np.array([age for _, age in (*aged, *others)]),
        complete=len(rows) >= code15.FULL_RECORDS - 1_200
        and len(others) + unaged == full,  # about so many flat tracings
        files=(*files, *signals),
        notes=(f"{unaged:,} records of {target.name} without a usable age or without their signal are left out",)
        if unaged
        else (),
        read=partial(_read, code15.reader(at), at),
    )


def _read(code: Callable[[Record], Recording], at: dict[str, int], record: Record) -> Recording:
    from xecg import read

    return code(record) if record.id in at else read(record.path)


def _task(
    name: str,
    target: Dataset,
    tested: Callable[[Path], tuple[_Aged, int]],
    full: int,
    rule: str,
    *,
    patient_known: bool,
) -> Task:
    both = Dataset(
        name=f"{code15.DATASET.name} and {target.name}",
        version=f"{code15.DATASET.version}; {target.version}",
        folder=code15.DATASET.folder,
        licence=f"{code15.DATASET.licence}; {target.licence}",
        size=f"{code15.DATASET.size}; {target.size}",
        url=f"{code15.DATASET.url} and {target.url}",
        access=target.access,
    )
    return Task(
        id=f"age-{name}",
        version="1",
        title=f"Age in years, CODE-15 % to {target.name}",
        dataset=both,
        kind="regression",
        classes=(),
        metric="rsmape",
        higher_is_better=False,
        load=partial(_load, both=both, target=target, tested=tested, full=full),
        unit="exam",
        leads="12",
        rate_hz=400.0,
        split_rule=f"CODE-15 % by patient: blake2b fraction below 0.20 validates, the rest trains; all of {target.name} tests",
        label_rule=rule,
        patient_known=patient_known,
        full_records=code15.FULL_RECORDS + full,
        hides=("age",),
        suite="T8",
    )


_LIST = (
    _task("mimic", _MIMIC, _mimic_records, _mimic.FULL_RECORDS, "age of the table, 0 < age <= 120", patient_known=True),
    _task(
        "ptbxl",
        _ptbxl.DATASET,
        ptbxl_records,
        21_799,
        "age of the table, up to 89: older ones are coded",
        patient_known=True,
    ),
    _task("cpsc", cpsc2018.DATASET, _cpsc_records, 6_877, "age of the header, 0 < age <= 120", patient_known=False),
)
TASKS = {task.id: task for task in _LIST}
