"""MIMIC-IV-ECG with its credentialed tables: rows of a CSV, plain or gzipped, instants as days, and where a record lies."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from xecg.errors import ReadError

__all__ = ["FULL_RECORDS", "LABELS", "SIGNALS", "fold_split", "header", "instant", "rows"]

LABELS = "records_w_diag_icd10.csv"  # MIMIC-IV-ECG-ICD: study, patient, time, age, fold 0..19 by patient
SIGNALS = "800,035 records in files/, about 90 GB"
FULL_RECORDS = 800_035
_SECONDS_A_DAY = 86_400


def rows(path: Path, *columns: str) -> Iterator[dict[str, str]]:
    """Rows of a table. Raises ReadError when it lacks one of `columns`."""
    with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as handle:
        reader = csv.DictReader(handle)
        absent = [c for c in columns if c not in (reader.fieldnames or ())]
        if absent:
            raise ReadError(str(path), "columns", ", ".join(reader.fieldnames or ()), f"needed {', '.join(absent)}")
        yield from reader


def instant(text: str, path: Path) -> float:
    """Days since year 1 of a date, with or without a time of day."""
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ReadError(str(path), "date", repr(text), "needed YYYY-MM-DD, with or without hh:mm:ss") from None
    return at.toordinal() + (at.hour * 3600 + at.minute * 60 + at.second) / _SECONDS_A_DAY


def header(folder: Path, file_name: str) -> Path:
    """The header of a record by its name in the label table, which may begin with the release's own folders."""
    return folder / f"{file_name[file_name.index('files/') :] if 'files/' in file_name else file_name}.hea"


def fold_split(fold: str) -> str:
    """Folds 0..17 train, 18 validates, 19 tests."""
    return {"18": "val", "19": "test"}.get(fold.partition(".")[0], "train")
