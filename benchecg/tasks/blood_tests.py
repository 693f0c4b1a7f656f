"""T9: nineteen blood tests from the ECG nearest in time, MIMIC-IV-ECG with the laboratory table of MIMIC-IV.

A result belongs to the patient's nearest ECG, at most an hour away; of several results of one test the nearest counts. It is low,
normal or high by the reference range of its own row. The reference code sorts signed differences and so keeps the result farthest
after the ECG, and loses it when that is more than an hour.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchecg.tasks import _mimic
from benchecg.tasks.base import Dataset, Record, Task, TaskData

__all__ = ["TASK", "load", "nearest_first"]

_ITEMS, _EVENTS = "d_labitems.csv.gz", "labevents.csv.gz"
_DATASET = Dataset(
    name="MIMIC-IV-ECG with the laboratory values of MIMIC-IV",
    version="MIMIC-IV-ECG 1.0, MIMIC-IV-ECG-ICD, MIMIC-IV hosp",
    folder="mimic-iv-ecg",
    licence="ODbL 1.0 (signals); PhysioNet credentialed licence (tables)",
    size=f"{_mimic.SIGNALS}; {_mimic.LABELS}, {_ITEMS}, {_EVENTS}",
    url="https://physionet.org/content/mimic-iv-ecg/1.0/, https://physionet.org/content/mimiciv/ and "
    "https://physionet.org/content/mimic-iv-ecg-ext-icd-labels/",
    access="open signals, credentialed labels",
)
_TESTS = {  # test → its label in d_labitems, of fluid "Blood"
    "NTproBNP": "NTproBNP",
    "Urea Nitrogen": "Urea Nitrogen",
    "Hemoglobin": "Hemoglobin",
    "Creatinine": "Creatinine",
    "Ferritin": "Ferritin",
    "Hematocrit": "Hematocrit",
    "Albumin": "Albumin",
    "RDW-SD": "RDW-SD",
    "Anion Gap": "Anion Gap",
    "RDW": "RDW",
    "Bicarbonate": "Bicarbonate",
    "Bilirubin Total": "Bilirubin, Total",
    "INR(PT)": "INR(PT)",
    "Red Blood Cells": "Red Blood Cells",
    "PT": "PT",
    "Creatine Kinase (CK)": "Creatine Kinase (CK)",
    "MCHC": "MCHC",
    "Calcium Total": "Calcium, Total",
    "Lymphocytes": "Lymphocytes",
}
_NEVER_LOW = ("NTproBNP", "Bilirubin Total")  # two classes: a low value is no finding and is left out
_WITHIN_DAYS = 1 / 24
_CLASSES = tuple(
    f"{test}/{level}"
    for test in _TESTS
    for level in ("low", "normal", "high")
    if level != "low" or test not in _NEVER_LOW
)
_COLUMN = {name: i for i, name in enumerate(_CLASSES)}


def _items(folder: Path) -> dict[str, set[str]]:
    """Test → item ids of that label in blood. Several analysers can have one label; `_results` keeps the most used."""
    names = {label: test for test, label in _TESTS.items()}
    found: dict[str, set[str]] = {test: set() for test in _TESTS}
    for row in _mimic.rows(folder / _ITEMS, "itemid", "label", "fluid"):
        if row["fluid"].lower() == "blood" and row["label"] in names:
            found[names[row["label"]]].add(row["itemid"])
    return found


def _level(row: dict[str, str]) -> str | None:
    """low, normal or high; None without a value or without both ends of the range."""
    try:
        value, low, high = (float(row[c]) for c in ("valuenum", "ref_range_lower", "ref_range_upper"))
    except ValueError:
        return None
    return "low" if value < low else "high" if value > high else "normal"


Order = Callable[[float, float], tuple[float, float]]


def nearest_first(away: float, at: float) -> tuple[float, float]:
    """What counts of several results: away is exam − result in days, at the result's instant. Smallest first."""
    return abs(away), at


def _results(folder: Path, exams: dict[str, list[tuple[float, str]]], order: Order) -> dict[tuple[str, str], str]:
    """(study, test) → level of the result that counts."""
    test_of = {item: test for test, items in _items(folder).items() for item in items}
    events: Counter[str] = Counter()
    best: dict[tuple[str, str, str], tuple[float, float, str, float]] = {}
    path = folder / _EVENTS
    needed = ("subject_id", "itemid", "charttime", "valuenum", "ref_range_lower", "ref_range_upper")
    for row in _mimic.rows(path, *needed):
        test = test_of.get(row["itemid"])
        if test is None or not row["valuenum"] or not row["charttime"]:
            continue
        events[row["itemid"]] += 1
        level = _level(row)
        if level is None or row["subject_id"] not in exams:
            continue
        at = _mimic.instant(row["charttime"], path)
        away, study = _nearest(exams[row["subject_id"]], at)
        key, found = (study, test, row["itemid"]), (*order(away, at), level, away)
        best[key] = min(best.get(key, found), found)
    kept = {test: max(sorted(items), key=lambda i: events[i], default=None) for test, items in _items(folder).items()}
    return {
        (study, test): level
        for (study, test, item), (_, _, level, away) in best.items()
        if item == kept[test] and abs(away) <= _WITHIN_DAYS + 1e-9
    }


def _nearest(exams: list[tuple[float, str]], at: float) -> tuple[float, str]:
    """(exam's time - `at` in days, study) of the exam nearest in time; the earlier one of two as near. exams: ascending."""
    i = bisect.bisect_left(exams, (at, ""))
    near = exams[max(0, i - 1) : i + 1]
    day, study = min(near, key=lambda exam: abs(exam[0] - at))
    return day - at, study


def load(root: Path, *, order: Order = nearest_first) -> TaskData:
    """order: which of several results of one test counts."""
    folder = _DATASET.find(root, _mimic.LABELS, _ITEMS, _EVENTS)
    path = folder / _mimic.LABELS
    studies: dict[str, dict[str, str]] = {}
    exams: dict[str, list[tuple[float, str]]] = {}
    for row in _mimic.rows(path, "file_name", "study_id", "subject_id", "ecg_time", "fold"):
        studies[row["study_id"]] = row
        exams.setdefault(row["subject_id"], []).append((_mimic.instant(row["ecg_time"], path), row["study_id"]))
    for each in exams.values():
        each.sort()
    levels: dict[str, dict[str, str]] = {}
    for (study, test), level in _results(folder, exams, order).items():
        levels.setdefault(study, {})[test] = level
    records, label, absent = [], [], 0
    for study in sorted(levels, key=int):
        answers = _answers(levels[study])
        header = _mimic.header(folder, studies[study]["file_name"])
        absent += not header.is_file()
        if header.is_file() and not np.isnan(answers).all():
            patient, split = f"mimic {studies[study]['subject_id']}", _mimic.fold_split(studies[study]["fold"])
            records.append(Record(f"mimic/{study}", patient, split, header))
            label.append(answers)
    signals = [f for r in records for f in (r.path, r.path.with_suffix(".dat")) if f.is_file()]
    return TaskData(
        records=tuple(records),
        record=np.arange(len(records)),
        time_s=np.full(len(records), np.nan),
        label=np.array(label).reshape(-1, len(_CLASSES)),
        complete=len(studies) == _mimic.FULL_RECORDS and not absent,
        files=(path, folder / _ITEMS, folder / _EVENTS, *signals),
        notes=(f"{absent:,} ECGs with a blood test are left out: their signal is not here",) if absent else (),
    )


def _answers(levels: dict[str, str]) -> np.ndarray:
    """(classes,) 0/1, NaN where the test is missing or its level is none of its classes."""
    row = np.full(len(_CLASSES), np.nan)
    for test, level in levels.items():
        if f"{test}/{level}" in _COLUMN:
            for each in ("low", "normal", "high"):
                if f"{test}/{each}" in _COLUMN:
                    row[_COLUMN[f"{test}/{each}"]] = float(each == level)
    return row


TASK = Task(
    id="blood-tests",
    version="1",
    title="Nineteen blood tests, low, normal or high, MIMIC-IV",
    dataset=_DATASET,
    kind="panel",
    classes=_CLASSES,
    metric="mean_auroc",
    load=load,
    unit="ECG with a blood test within an hour",
    leads="12",
    rate_hz=500.0,
    split_rule="folds of MIMIC-IV-ECG-ICD, by patient: 18 validates, 19 tests, the rest trains",
    label_rule="the result nearest in time to the patient's nearest ECG, within an hour: below, within or above its own range",
    suite="T9",
)
