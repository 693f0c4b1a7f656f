"""T5: apnea by the minute in Apnea-ECG (Penzel et al. 2000): a, b, c records teach, the x records test.

A night is encoded whole and a minute's tokens are averaged; the reference benchmark splits learning records by the order of a Python
set, so that its validation records change from run to run. The official test set shares subjects with the learning set.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchecg.tasks.base import Dataset, Record, Task, TaskData
from xecg.errors import ReadError
from xecg.signal import Recording

__all__ = ["TASK", "load"]

_DATASET = Dataset(
    name="Apnea-ECG",
    version="1.0.0",
    folder="apnea-ecg",
    licence="ODC-By 1.0 as PhysioNet states it (Penzel et al. 2000)",
    size="70 records, 583 MB",
    url="https://physionet.org/content/apnea-ecg/1.0.0/",
)
_INFORMATION = "additional-information.txt"
_FULL_RECORDS = 70
_VAL_SHARE = 0.20  # of the learning records
_MINUTE_S = 60.0
_RECORD = re.compile(r"[abcx]\d\d")  # not a01r and a01er, which are the respiration of a01
_SHARED = "the official test set shares subjects with the learning set; a subject counts once in each"


def _subjects(path: Path) -> dict[str, str]:
    """Record → age, sex, height and weight, by which its subject is told: the last four columns of each record's line."""
    subject = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        words = line.split()
        if words and _RECORD.fullmatch(words[0]):
            if len(words) < 5 or words[-3] not in ("M", "F"):
                rule = "needed age, sex (M or F), height and weight at the end"
                raise ReadError(str(path), f"line of {words[0]}", repr(line), rule)
            subject[words[0]] = " ".join(words[-4:])
    return subject


def _validation(records: list[str], subject: dict[str, str]) -> set[str]:
    """Subjects in the order of their hash, whole, until a fifth of the learning records and one of each of a, b, c are in."""
    groups: dict[str, list[str]] = {}
    for record in records:
        groups.setdefault(subject[record], []).append(record)
    chosen: list[str] = []
    for key in sorted(groups, key=lambda k: hashlib.blake2b(f"apnea-ecg|{k}".encode(), digest_size=8).digest()):
        if len(chosen) >= _VAL_SHARE * len(records) and {r[0] for r in chosen} >= {r[0] for r in records}:
            break
        chosen += groups[key]
    return set(chosen)


def load(root: Path, *, validation: Callable[[list[str], dict[str, str]], set[str]] = _validation) -> TaskData:
    """validation: learning records, in order, and subjects by record → the records that validate."""
    from xecg.io import annotations

    folder = _DATASET.find(root, _INFORMATION)
    names = sorted(p.stem for p in folder.glob("*.hea") if _RECORD.fullmatch(p.stem))
    _DATASET.find(root, *([f"{n}.{end}" for n in names for end in ("dat", "apn")] or ["a01.hea"]))
    subject = _subjects(folder / _INFORMATION)
    lacking = [name for name in names if name not in subject]
    if lacking:
        raise ReadError(str(folder / _INFORMATION), "records", "absent", f"needed a line for {', '.join(lacking)}")
    val = validation([n for n in names if n[0] != "x"], subject)
    records, record, time_s, label = [], [], [], []
    for i, name in enumerate(names):
        split = "test" if name[0] == "x" else "val" if name in val else "train"
        patient = f"{'test' if split == 'test' else 'learning'} {subject[name]}"
        records.append(Record(name, patient, split, folder / f"{name}.hea"))
        marks = annotations(folder / f"{name}.hea", "apn")
        minutes = [(s, symbol) for s, symbol in zip(marks.sample.tolist(), marks.symbol) if symbol in "AN"]
        record += [i] * len(minutes)
        time_s += [s / _RATE_HZ for s, _ in minutes]
        label += [int(symbol == "A") for _, symbol in minutes]
    return TaskData(
        records=tuple(records),
        record=np.array(record, dtype=int),
        time_s=np.array(time_s),
        label=np.array(label, dtype=int),
        complete=len(records) == _FULL_RECORDS,
        files=(folder / _INFORMATION, *(folder / f"{n}.{end}" for n in names for end in ("hea", "dat", "apn"))),
        notes=(_SHARED,),
        span_s=_MINUTE_S,
        read=_read,
    )


def _read(record: Record) -> Recording:
    """The one lead, called II as the reference benchmark does; the release calls it ECG."""
    from xecg import read

    recording = read(record.path)
    return replace(recording, leads=("II",))


_RATE_HZ = 100.0

TASK = Task(
    id="apnea-ecg",
    version="1",
    title="Sleep apnea by the minute",
    dataset=_DATASET,
    kind="binary",
    classes=("N", "A"),
    metric="auroc",
    load=load,
    unit="minute of a night",
    leads="1, taken as II",
    rate_hz=_RATE_HZ,
    split_rule="x tests; of a, b, c whole subjects in the order of their hash validate, until a fifth of the records and one of each "
    "class of record are in; the rest trains",
    label_rule="A: apnea in progress at the beginning of the minute",
    suite="T5",
    full_records=_FULL_RECORDS,
    records_per_call=1,
)
