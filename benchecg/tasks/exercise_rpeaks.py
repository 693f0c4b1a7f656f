"""T7: R peaks at high exercise intensity (De Giovanni et al. 2022: 20 subjects, 5 segments of 20 s), scored as those of MIT-BIH."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from benchecg.tasks.base import Dataset, Record, Task, TaskData
from xecg.errors import ReadError
from xecg.signal import Recording

__all__ = ["TASK"]

_DATASET = Dataset(
    name="ECG in High Intensity Exercise Dataset",
    version="as on Zenodo",
    folder="exercise-ecg",
    licence="CC BY 4.0 (to be checked on the download page)",
    size="100 segments of 20 s, a few MB",
    url="https://zenodo.org/ (search the data set's name)",
)
_SEGMENT = re.compile(r"sub0*(\d+)_.*seg\d+")
_FULL_RECORDS = 100
_RATE_HZ = 250.0
_UV_PER_MV = 1000.0
_LAST_TRAIN, _LAST_VAL = 9, 13


def _split_of(subject: int) -> str:
    return "train" if subject <= _LAST_TRAIN else "val" if subject <= _LAST_VAL else "test"


def _first_column(path: Path) -> np.ndarray:
    """The numbers of the first column; one line of names at the top is allowed."""
    cells = [line.split(",")[0].strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    try:
        start = 0 if not cells or _is_number(cells[0]) else 1
        return np.array([float(c) for c in cells[start:]])
    except ValueError as error:
        raise ReadError(str(path), "first column", str(error), "needed a number in every line") from None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _load(root: Path) -> TaskData:
    folder = _DATASET.find(root, "ecg_segments", "manual_annotations")
    segments = sorted(p for p in (folder / "ecg_segments").glob("sub*.csv") if "_raw_" not in p.name)
    labels = [folder / "manual_annotations" / f"{p.stem}_labels.csv" for p in segments]
    absent = [p.relative_to(folder).as_posix() for p in labels if not p.is_file()]
    _DATASET.find(root, *(absent if segments else ["ecg_segments/sub*.csv"]))
    records, record, time_s = [], [], []
    for i, (path, marks) in enumerate(zip(segments, labels)):
        found = _SEGMENT.fullmatch(path.stem)
        if not found:
            raise ReadError(str(path), "name", path.name, "needed sub<number>_…_seg<number>.csv")
        records.append(Record(path.stem, f"subject {found[1]}", _split_of(int(found[1])), path))
        at = np.sort(_first_column(marks)) / _RATE_HZ
        record += [i] * len(at)
        time_s += at.tolist()
    return TaskData(
        records=tuple(records),
        record=np.array(record, dtype=int),
        time_s=np.array(time_s),
        label=np.ones(len(record), dtype=int),
        complete=len(records) == _FULL_RECORDS,
        files=(*segments, *labels),
        read=_read,
    )


def _read(record: Record) -> Recording:
    signal = (_first_column(record.path) / _UV_PER_MV).astype(np.float32)[None]
    known = np.isfinite(signal)
    return Recording(np.where(known, signal, np.float32(0)), _RATE_HZ, ("II",), known, source=record.path.as_posix())


TASK = Task(
    id="exercise-rpeaks",
    version="1",
    title="R peaks at high exercise intensity",
    dataset=_DATASET,
    kind="peaks",
    classes=("R",),
    metric="f1_10ms",
    load=_load,
    unit="annotated beat",
    leads="1, taken as II",
    rate_hz=_RATE_HZ,
    split_rule="subjects to 9 train, 10-13 validate, from 14 test",
    label_rule="an R peak is a line of the manual annotations, a sample at 250 Hz",
    suite="T7",
    full_records=_FULL_RECORDS,
)
