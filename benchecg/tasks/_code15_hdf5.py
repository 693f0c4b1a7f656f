"""CODE-15 % (Ribeiro et al. 2021) as its own release: exams.csv beside HDF5 parts of 400 Hz tracings in fixed lead order."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from benchecg.tasks.base import Dataset, Record
from xecg.errors import ReadError, SpecError
from xecg.signal import STANDARD_LEADS, Recording

__all__ = ["DATASET", "FULL_RECORDS", "exams", "is_complete", "reader"]

DATASET = Dataset(
    name="CODE-15 %",
    version="as on Zenodo, HDF5",
    folder="code-15",
    licence="CC BY 4.0 (Ribeiro et al. 2021)",
    size="345,779 exams, exams.csv and exams_part0.hdf5 … exams_part17.hdf5, tens of GB",
    url="https://zenodo.org/records/4916206",
)
FULL_RECORDS = 345_779
_RATE_HZ = 400.0
_TABLE = "exams.csv"
_COLUMNS = ("exam_id", "patient_id", "age", "trace_file")


def _h5py() -> Any:
    try:
        import h5py
    except ImportError:
        raise SpecError("CODE-15 % comes as HDF5, and h5py is not installed; `pip install xecg[formats]`") from None
    return h5py


def exams(root: Path, *columns: str) -> tuple[list[dict[str, str]], list[Path]]:
    """Rows of exams.csv whose tracing is there, by exam, each with `part` and `row` of its tracing; and the files they come from.

    columns: those needed beside the exam, its patient, age and file. A row of a part that no exam names (the release pads parts with
    exam 0) is not an exam. Raises DataMissing, ReadError.
    """
    folder = DATASET.find(root, _TABLE)
    with (folder / _TABLE).open(newline="") as handle:
        reader = csv.DictReader(handle)
        absent = [c for c in (*_COLUMNS, *columns) if c not in (reader.fieldnames or ())]
        if absent:
            raise ReadError(str(folder / _TABLE), "columns", ", ".join(reader.fieldnames or ()), f"needed {absent[0]}")
        table = {row["exam_id"]: row for row in reader}
    parts = [
        folder / name for name in sorted({row["trace_file"] for row in table.values()}) if (folder / name).is_file()
    ]
    DATASET.find(root, *([] if parts else ["exams_part0.hdf5"]))
    rows = []
    for part in parts:
        with _h5py().File(part, "r") as file:
            ids = file["exam_id"][:].astype(int).tolist()
        rows += [{**table[str(i)], "part": part.name, "row": str(n)} for n, i in enumerate(ids) if str(i) in table]
    return sorted(rows, key=lambda row: int(row["exam_id"])), [folder / _TABLE, *parts]


def age_and_sex(row: Mapping[str, str]) -> tuple[float | None, str | None]:
    """Of a row of exams.csv: years, and "F" or "M" where the table has its column is_male; None where unknown."""
    sex = {"true": "M", "1": "M", "false": "F", "0": "F"}.get(row.get("is_male", "").lower())
    try:
        return float(row["age"]), sex
    except ValueError:
        return None, sex


def is_complete(rows: list[dict[str, str]]) -> bool:
    """Whether every exam of the release has its tracing here."""
    return len(rows) == FULL_RECORDS


@lru_cache(maxsize=2)
def _opened(part: Path) -> Any:
    return _h5py().File(part, "r")


def reader(rows: Mapping[str, int]) -> Callable[[Record], Recording]:
    """Record → Recording, of the tracings at `rows` (record id → row of its part)."""
    return partial(_read, rows)


def _read(rows: Mapping[str, int], record: Record) -> Recording:
    """The tracing in mV without the zeros that the release puts before and after it; a tracing of zeros stays whole."""
    row = rows[record.id]
    tracing = np.asarray(_opened(record.path)["tracings"][row], np.float32).T
    used = np.flatnonzero(tracing.any(0))
    if len(used):
        tracing = tracing[:, used[0] : used[-1] + 1]
    known = np.isfinite(tracing)
    source = f"{record.path.name} row {row}"
    return Recording(np.where(known, tracing, np.float32(0)), _RATE_HZ, STANDARD_LEADS, known, source=source)
