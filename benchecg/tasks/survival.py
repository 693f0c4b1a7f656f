"""T10: death after an exam, learned on CODE-15 %, told on MIMIC-IV-ECG (fold 19 of MIMIC-IV-ECG-ICD), one exam a patient.

MIMIC-IV states deaths up to a year after the last discharge, so a patient who lives is followed until then; one who was never
admitted, until the last exam. The time is counted in days from the exam and divided by 365.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from benchecg.tasks import _code15_hdf5 as code15
from benchecg.tasks import _mimic
from benchecg.tasks.base import Dataset, Record, Task, TaskData, hash_fraction
from benchecg.tasks.open_survival import first_outcomes
from xecg.signal import Recording

__all__ = ["TASK"]

_DATASET = Dataset(
    name="CODE-15 % and MIMIC-IV-ECG with MIMIC-IV",
    version="Zenodo 4916206; MIMIC-IV-ECG 1.0, MIMIC-IV-ECG-ICD, MIMIC-IV hosp",
    folder="mimic-iv-ecg",
    licence="CC BY 4.0 (CODE-15 %); ODbL 1.0 (MIMIC-IV-ECG); PhysioNet credentialed licence (MIMIC-IV, its ECG labels)",
    size=f"CODE-15 % in code-15/; {_mimic.SIGNALS}; {_mimic.LABELS}, patients.csv.gz, admissions.csv.gz",
    url="https://physionet.org/content/mimic-iv-ecg/1.0/, https://physionet.org/content/mimiciv/ and "
    "https://physionet.org/content/mimic-iv-ecg-ext-icd-labels/",
    access="open signals, credentialed labels",
)
_PATIENTS, _ADMISSIONS = "patients.csv.gz", "admissions.csv.gz"
_VAL = 0.20  # of the CODE-15 % patients
_FOLLOWED_DAYS, _DAYS_A_YEAR = 365.0, 365.0


def _tested(folder: Path) -> tuple[list[tuple[Record, tuple[float, int]]], int, int]:
    """First exam of each patient of the test fold, with years and death; how many have no time after it; how many no signal."""
    died = {
        r["subject_id"]: _mimic.instant(r["dod"], folder / _PATIENTS)
        for r in _mimic.rows(folder / _PATIENTS, "subject_id", "dod")
        if r["dod"]
    }
    left: dict[str, float] = {}
    for row in _mimic.rows(folder / _ADMISSIONS, "subject_id", "dischtime"):
        if row["dischtime"]:
            day = _mimic.instant(row["dischtime"], folder / _ADMISSIONS)
            left[row["subject_id"]] = max(day, left.get(row["subject_id"], day))
    exams: dict[str, list[tuple[float, str, str]]] = {}
    for row in _mimic.rows(folder / _mimic.LABELS, "file_name", "study_id", "subject_id", "ecg_time", "fold"):
        if _mimic.fold_split(row["fold"]) == "test":
            exam = (_mimic.instant(row["ecg_time"], folder / _mimic.LABELS), row["study_id"], row["file_name"])
            exams.setdefault(row["subject_id"], []).append(exam)
    kept, timeless, absent = [], 0, 0
    for subject, each in sorted(exams.items()):
        day, study, name = min(each)
        path = _mimic.header(folder, name)
        end = died.get(subject, left[subject] + _FOLLOWED_DAYS if subject in left else max(each)[0])
        timeless += end <= day
        absent += end > day and not path.is_file()
        if end <= day or not path.is_file():
            continue
        record = Record(f"mimic/{study}", f"mimic {subject}", "test", path)
        kept.append((record, ((end - day) / _DAYS_A_YEAR, int(subject in died))))
    return kept, timeless, absent


def _load(root: Path) -> TaskData:
    folder = _DATASET.find(root, _mimic.LABELS, _PATIENTS, _ADMISSIONS)
    rows, files = code15.exams(root, "death", "timey")
    known, at = [], {}
    for row, outcome in first_outcomes(rows):
        split = "val" if hash_fraction("code-15", row["patient_id"]) < _VAL else "train"
        part = root / code15.DATASET.folder / row["part"]
        record = Record(f"code-15/{row['exam_id']}", f"code-15 {row['patient_id']}", split, part)
        known.append((record, outcome))
        at[record.id] = int(row["row"])
    tested, timeless, absent = _tested(folder)
    records = tuple(record for record, _ in (*known, *tested))
    signals = [f for r, _ in tested for f in (r.path, r.path.with_suffix(".dat")) if f.is_file()]
    notes = (
        [f"{timeless:,} patients of the test fold have no time after their first exam and are left out"]
        if timeless
        else []
    )
    notes += (
        [f"{absent:,} patients of the test fold are left out: the signal of their first exam is not here"]
        if absent
        else []
    )
    return TaskData(
        records=records,
        record=np.arange(len(records)),
        time_s=np.full(len(records), np.nan),
        label=np.array([outcome for _, outcome in (*known, *tested)], dtype=float).reshape(-1, 2),
        complete=code15.is_complete(rows) and not absent,
        files=(*files, *(folder / name for name in (_mimic.LABELS, _PATIENTS, _ADMISSIONS)), *signals),
        notes=tuple(notes),
        read=partial(_read, code15.reader(at), at),
    )


def _read(code: Callable[[Record], Recording], at: dict[str, int], record: Record) -> Recording:
    from xecg import read

    return code(record) if record.id in at else read(record.path)


TASK = Task(
    id="survival",
    version="1",
    title="Death after an exam, CODE-15 % to MIMIC-IV-ECG",
    dataset=_DATASET,
    kind="survival",
    classes=("years", "death"),
    metric="c_index",
    load=_load,
    unit="first exam of a patient",
    leads="12",
    rate_hz=500.0,
    split_rule="CODE-15 % by patient: blake2b fraction below 0.20 validates, the rest trains; fold 19 of MIMIC-IV-ECG-ICD tests",
    label_rule="CODE-15 %: timey and death; MIMIC-IV: days from the exam to death, to a year after the last discharge, or to the last "
    "exam, over 365",
    suite="T10",
)
