"""CODE-15 % exams (Ribeiro et al. 2020) as distributed for the PhysioNet Challenge 2025: the loader that open tasks share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchecg.tasks.base import Dataset, Record, TaskData, hash_fraction
from xecg.errors import ReadError

__all__ = ["DATASET", "FULL_RECORDS", "SPLIT_RULE", "load"]

DATASET = Dataset(
    name="CODE-15 %",
    version="as distributed for the PhysioNet Challenge 2025",
    folder="challenge-2025",
    licence="CC BY 4.0 (Ribeiro et al. 2020)",
    size="345,779 exams, tens of GB",
    url="https://zenodo.org/records/4916206 (signals), https://moody-challenge.physionet.org/2025/ (conversion to WFDB)",
)
FULL_RECORDS = 345_779
SPLIT_RULE = "blake2b of the patient as a fraction: below 0.20 tests, below 0.36 validates, the rest trains"
_TEST, _VAL = 0.20, 0.36  # 80/20 by patient as the corrected age task; a fifth of the 80 % chooses the head's C
_GROUP_KEY = b"benchecg"  # a fixed key, so that the split is the same in every process; the hashes stay in memory


def _split_of(patient: str) -> str:
    fraction = hash_fraction("code-15", patient)
    return "test" if fraction < _TEST else "val" if fraction < _VAL else "train"


def load(root: Path, label_of: Callable[[Mapping[str, Any]], float | None]) -> TaskData:
    """Exams whose header gives a label. label_of: a recording's meta → label, None to leave the exam out (it is counted)."""
    from xecg import read
    from xecg.io import find_records

    folder = DATASET.find(root)
    records, label, files, unlabelled, refused = [], [], [], 0, 0
    for path in find_records(folder):
        try:
            meta = read(path, group_key=_GROUP_KEY).meta
        except ReadError:
            refused += 1
            continue
        value = label_of(meta)
        if value is None or not meta.get("exam_group"):
            unlabelled += 1
            continue
        patient = str(meta["exam_group"])
        records.append(Record(path.relative_to(folder).with_suffix("").as_posix(), patient, _split_of(patient), path))
        label.append(value)
        files += [f for f in (path, path.with_suffix(".dat"), path.with_suffix(".mat")) if f.is_file()]
    if not records:
        DATASET.find(root, "any exam with a header that gives patient, age and sex")
    notes = [f"{unlabelled} exams without a label or a patient are left out"] if unlabelled else []
    notes += [f"{refused} files were refused by the reader"] if refused else []
    return TaskData(
        records=tuple(records),
        record=np.arange(len(records)),
        time_s=np.full(len(records), np.nan),
        label=np.array(label),
        complete=len(records) + unlabelled >= FULL_RECORDS,
        files=tuple(files),
        notes=tuple(notes),
    )
